//! Everything that a tenant has, in a folder: CSV files of its rows, or what pg_dump makes, and a manifest.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;

use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::Failure;
use crate::base::{TenantId, clock};
use crate::cli::connect::Administrator;
use crate::config::{Cluster, Isolation, Tenant};
use crate::sql::identifier;
use crate::tenant::{InstallError, Removal, TenantTable};

const MANIFEST: &str = "manifest.json";

/// Where an export goes. It is made beside the folder and takes its place when it is whole.
pub(super) struct Export {
    folder: PathBuf,
    tenant: TenantId,
}

/// What is exported.
pub(super) struct Source<'a> {
    pub administrator: &'a Administrator,
    pub cluster: &'a Cluster,
    pub tenant: &'a Tenant,
    pub seat: &'a Client,
    pub removal: &'a Removal<'a>,
}

impl Export {
    /// Nothing that is there may be overwritten, but for an export of this tenant, which is moved aside.
    pub fn into(folder: &Path, tenant: &TenantId) -> Result<Self, Failure> {
        let export = Self { folder: std::path::absolute(folder)?, tenant: tenant.clone() };
        let empty =
            fs::read_dir(folder).map_or(Ok(true), |mut entries| entries.next().transpose().map(|e| e.is_none()))?;
        if !empty && !export.is_there() {
            return Err(Failure::said(format!("{} is there already; name a folder that is not", folder.display())));
        }
        Ok(export)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it has an export of this tenant, which is whole because its manifest is written last.
    pub fn is_there(&self) -> bool {
        let manifest: Option<Value> =
            fs::read(self.folder.join(MANIFEST)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        manifest.is_some_and(|manifest| manifest.get("tenant").and_then(Value::as_str) == Some(self.tenant.as_str()))
    }

    /// Says how many rows each table had, at level `rows`.
    pub async fn run(&self, source: &Source<'_>) -> Result<BTreeMap<String, u64>, Failure> {
        let partial = self.beside(&format!("partial-{:08x}", rand::random::<u32>()));
        DirBuilder::new()
            .mode(0o700)
            .create(&partial)
            .map_err(|error| Failure::said(format!("cannot make the folder {}: {error}", partial.display())))?;
        let made = self.fill(source, &partial).await;
        if made.is_err() {
            // Half an export is of no use; the error at hand is the one to tell.
            let _ = fs::remove_dir_all(&partial);
        }
        let counts = made?;
        if self.is_there() {
            let mut aside = (1..).map(|n| self.beside(&format!("earlier-{n}"))).filter(|path| !path.exists());
            if let Some(aside) = aside.next() {
                fs::rename(&self.folder, aside)?;
            }
        }
        fs::rename(&partial, &self.folder)?;
        sync(self.folder.parent().unwrap_or_else(|| Path::new("/")))?;
        Ok(counts)
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.folder.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(ending);
        self.folder.with_file_name(name)
    }

    async fn fill(&self, source: &Source<'_>, partial: &Path) -> Result<BTreeMap<String, u64>, Failure> {
        let tenant = source.tenant;
        let tables = match tenant.isolation {
            Isolation::Rows => source.rows(partial).await?,
            Isolation::Schema => {
                source.dump(partial).await?;
                source.large_objects(partial).await?;
                Vec::new()
            }
            Isolation::Database | Isolation::Cluster => {
                source.dump(partial).await?;
                Vec::new()
            }
        };
        let mut files = BTreeMap::new();
        list(partial, "", &mut files)?;
        let shown: Vec<Value> =
            tables.iter().map(|(table, file, rows)| json!({ "table": table, "file": file, "rows": rows })).collect();
        let manifest = json!({
            "tenant": tenant.id.as_str(),
            "isolation": tenant.isolation.as_str(),
            "cluster": tenant.cluster.as_str(),
            "database": tenant.database,
            "search_path": tenant.search_path,
            "made": clock::timestamp(clock::unix_now()),
            "tables": shown,
            "sha256": files,
        });
        let mut file = private(&partial.join(MANIFEST))?;
        file.write_all(format!("{manifest:#}\n").as_bytes())?;
        file.sync_all()?;
        sync(partial)?;
        Ok(tables.into_iter().map(|(table, _, rows)| (table, rows)).collect())
    }
}

impl Source<'_> {
    /// The tenant's rows of all tables, of one moment: table, file and number of rows.
    async fn rows(&self, folder: &Path) -> Result<Vec<(String, String, u64)>, Failure> {
        let mut written = Vec::new();
        let counts = self.removal.snapshot(self.seat).await?;
        for (number, (table, rows)) in self.removal.tables().iter().zip(counts).enumerate() {
            let name = file_name(number + 1, table);
            copy(self.seat, &table.copy(self.tenant), &folder.join(&name)).await?;
            written.push((table.label(), name, rows));
        }
        // It has only read.
        self.seat.batch_execute("commit").await?;
        Ok(written)
    }

    /// By PostgreSQL's own program, which knows best.
    async fn dump(&self, folder: &Path) -> Result<(), Failure> {
        let program = match std::env::var_os("PGWARD_PG_BIN") {
            Some(bin) => Path::new(&bin).join("pg_dump"),
            None => PathBuf::from("pg_dump"),
        };
        let mut command = tokio::process::Command::new(&program);
        command.args(["--format=directory", "--no-password", "--file"]).arg(folder.join("dump"));
        if let (Isolation::Schema, Some(schema)) = (self.tenant.isolation, self.tenant.search_path.first()) {
            command.arg(format!("--schema={}", identifier(schema)));
        }
        command.envs(self.administrator.environment(self.cluster, &self.tenant.database));
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).output().await;
        let done = done.map_err(|error| {
            let program = program.display();
            Failure::said(format!(
                "{program} cannot be run: {error}; it comes with PostgreSQL's client programs, and PGWARD_PG_BIN says where"
            ))
        })?;
        if done.status.success() {
            return Ok(());
        }
        Err(Failure::said(format!("pg_dump failed: {}", String::from_utf8_lossy(&done.stderr).trim())))
    }

    /// Those of the tenant's roles, which pg_dump of one schema leaves out.
    async fn large_objects(&self, folder: &Path) -> Result<(), Failure> {
        match self.removal.large_objects(self.seat).await? {
            Some(sql) => copy(self.seat, &sql, &folder.join("large-objects.csv")).await,
            None => Ok(()),
        }
    }
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

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Every file below a folder with its SHA-256; each is on the disk by then.
fn list(folder: &Path, below: &str, files: &mut BTreeMap<String, String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), files)?;
            continue;
        }
        let mut file = File::open(entry.path())?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => hash.update(chunk.get(..n).unwrap_or_default()),
            }
        }
        file.sync_all()?;
        files.insert(name, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
    }
    sync(folder)
}
