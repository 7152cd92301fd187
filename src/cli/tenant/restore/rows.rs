//! Level `rows`: from where the tenant's rows come.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use tokio_postgres::Client;

use super::super::Failure;
use super::super::export::Manifest;
use super::Work;
use crate::tenant::restore::{Difference, Shape, Staging, TableSource, Within, prepare};
use crate::tenant::{InstallError, Removal, TenantTable};

/// Where one table's rows are.
pub(super) struct Then {
    pub sources: Vec<TableSource>,
}

/// Rows of a copy of the cluster.
pub(super) async fn of_copy<'a>(work: &'a Work<'_>, copy: &Client) -> Result<(Staging<'a>, Then), Failure> {
    prepare(copy).await?;
    let removal = Removal::in_copy(copy, work.settings, work.tenant).await?;
    let shapes = Shape::all(copy, Within::Database).await?;
    let tables: Vec<&TenantTable> = removal.tables().iter().filter(|table| !work.leaves(&table.label())).collect();
    let source = |table: &&TenantTable| {
        let shape = shapes.iter().find(|shape| shape.schema == table.schema && shape.name == table.name);
        let columns = shape.map(|shape| shape.columns.clone()).unwrap_or_default();
        TableSource { schema: table.schema.clone(), name: table.name.clone(), columns }
    };
    let then = Then { sources: tables.iter().map(source).collect() };
    let staging = begin(work, &then).await?;
    for (table, source) in tables.iter().zip(&then.sources) {
        let Some(columns) = staging.columns(source) else { continue };
        let sql = table.copy_columns(work.tenant, &columns);
        let doing = format!("reading rows of {}", table.label());
        let rows = copy.copy_out(&sql).await.map_err(|source| InstallError::Sql { doing, source })?;
        staging.fill(source, &columns, rows).await?;
    }
    Ok((staging, then))
}

/// Rows of an export.
pub(super) async fn of_export<'a>(
    work: &'a Work<'_>,
    folder: &Path,
    manifest: &Manifest,
) -> Result<(Staging<'a>, Then), Failure> {
    let files: Vec<_> = manifest.tables.iter().filter(|file| !work.leaves(&file.table)).collect();
    let then = Then { sources: files.iter().map(|file| file.source()).collect() };
    let staging = begin(work, &then).await?;
    for (file, source) in files.iter().zip(&then.sources) {
        let columns: Vec<String> = file.columns.iter().map(|column| crate::sql::identifier(&column.name)).collect();
        let rows = stream::iter(Chunks(File::open(folder.join(&file.file))?));
        staging.fill(source, &columns.join(", "), rows).await?;
    }
    Ok((staging, then))
}

async fn begin<'a>(work: &'a Work<'_>, then: &Then) -> Result<Staging<'a>, Failure> {
    let now = work.removal.tables().iter().filter(|table| !work.leaves(&table.label()));
    Ok(Staging::begin(&work.seat, work.settings, work.tenant, now, &then.sources).await?)
}

/// A table that there was not yet is no table that was empty.
pub(super) fn new_tables(then: &Then, differences: &[Difference]) -> Result<(), Failure> {
    let known = |table: &str| then.sources.iter().any(|source| format!("{}.{}", source.schema, source.name) == table);
    let new = differences.iter().find(|difference| difference.counts.only_now > 0 && !known(&difference.table));
    match new {
        None => Ok(()),
        Some(new) => Err(Failure::said(format!(
            "table {0} was not there then, and the tenant has {1} rows in it now; leave it as it is with --leave {0}",
            new.table, new.counts.only_now
        ))),
    }
}

/// A file, piece by piece.
pub(super) struct Chunks(pub File);

impl Iterator for Chunks {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = vec![0; 64 * 1024];
        match self.0.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                chunk.truncate(n);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
