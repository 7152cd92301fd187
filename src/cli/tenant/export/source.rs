//! What is exported, and how it is read, of one moment.

use std::io::Write;
use std::path::Path;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::super::place::Place;
use super::super::{Failure, programs};
use super::manifest::TableFile;
use super::private;
use crate::config::Tenant;
use crate::sql::identifier;
use crate::tenant::restore::{Shape, Within};
use crate::tenant::{InstallError, Removal, TenantTable};

pub(in crate::cli::tenant) const DUMP: &str = "dump";
pub(in crate::cli::tenant) const LARGE_OBJECTS: &str = "large-objects.csv";

pub(in crate::cli::tenant) struct Source<'a> {
    pub place: Place<'a>,
    pub tenant: &'a Tenant,
    /// At levels `rows` and `schema` to the tenant's database. Values are to be written alike everywhere (`prepare`).
    pub seat: &'a Client,
    pub removal: &'a Removal<'a>,
    /// The moment that the place shows, if that is not now.
    pub as_of: Option<String>,
}

impl Source<'_> {
    /// The tenant's rows of all tables.
    pub async fn rows(&self, folder: &Path) -> Result<Vec<TableFile>, Failure> {
        let shapes = Shape::all(self.seat, Within::Database).await?;
        let mut written = Vec::new();
        let counts = self.removal.snapshot(self.seat).await?;
        for (number, (table, rows)) in self.removal.tables().iter().zip(counts).enumerate() {
            let file = file_name(number + 1, table);
            copy(self.seat, &table.copy(self.tenant), &folder.join(&file)).await?;
            let shape = shapes.iter().find(|shape| shape.schema == table.schema && shape.name == table.name);
            written.push(TableFile {
                table: table.label(),
                schema: table.schema.clone(),
                name: table.name.clone(),
                file,
                rows,
                columns: shape.map(|shape| shape.columns.clone()).unwrap_or_default(),
            });
        }
        // It has only read.
        self.seat.batch_execute("commit").await?;
        Ok(written)
    }

    /// The tenant's schema, and the large objects of its roles, which a dump of one schema leaves out.
    pub async fn schema(&self, folder: &Path) -> Result<(), Failure> {
        let begin = "begin isolation level repeatable read read only";
        self.seat.batch_execute(begin).await?;
        let snapshot = self.seat.query_one("select pg_catalog.pg_export_snapshot()", &[]).await?;
        let schema = self.tenant.search_path.first().map_or("", String::as_str);
        dump(self.place, &self.tenant.database, Some(schema), Some(snapshot.get(0)), &folder.join(DUMP)).await?;
        if let Some(sql) = self.removal.large_objects(self.seat).await? {
            copy(self.seat, &sql, &folder.join(LARGE_OBJECTS)).await?;
        }
        Ok(self.seat.batch_execute("commit").await?)
    }

    /// All of the tenant's database.
    pub async fn database(&self, folder: &Path) -> Result<(), Failure> {
        dump(self.place, &self.tenant.database, None, None, &folder.join(DUMP)).await
    }
}

/// What pg_dump makes of a database, or of one of its schemas.
pub(in crate::cli::tenant) async fn dump(
    place: Place<'_>,
    database: &str,
    schema: Option<&str>,
    snapshot: Option<String>,
    folder: &Path,
) -> Result<(), Failure> {
    let made = programs::run("pg_dump", |command| {
        command.args(["--format=directory", "--no-password", "--file"]).arg(folder);
        if let Some(schema) = schema {
            command.arg(format!("--schema={}", identifier(schema)));
        }
        command.args(snapshot.map(|snapshot| format!("--snapshot={snapshot}")));
        command.envs(place.environment(database));
    });
    made.await.map(drop)
}

/// What COPY sends, in a file that only its owner can read.
async fn copy(client: &Client, sql: &str, path: &Path) -> Result<(), Failure> {
    let mut file = private(path)?;
    let doing = format!("exporting {}", path.file_name().unwrap_or_default().display());
    let failed = |source| InstallError::Sql { doing: doing.clone(), source };
    let mut stream = pin!(client.copy_out(sql).await.map_err(failed)?);
    while let Some(bytes) = stream.try_next().await.map_err(failed)? {
        file.write_all(&bytes)?;
    }
    Ok(file.sync_all()?)
}

/// The table's name as far as it can be a file's.
fn file_name(number: usize, table: &TenantTable) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
    let name: String = table.label().chars().take(100).map(plain).collect();
    format!("{number:04}-{name}.csv")
}
