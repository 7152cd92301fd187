//! The folder that an export goes to. It is made beside the folder and takes its place when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::Failure;
use super::manifest::{Encrypted, Manifest, list};
use super::seal::{KEY, Seal};
use super::source::Source;
use super::sync;
use crate::base::{TenantId, clock};
use crate::config::Isolation;

/// In an encrypted export: the manifest of what is in the other files.
const CONTENTS: &str = "contents.json";

pub(in crate::cli::tenant) struct Export {
    folder: PathBuf,
    tenant: TenantId,
    seal: Option<Seal>,
}

impl Export {
    /// Nothing that is there may be overwritten, but for an export of this tenant, which is moved aside.
    pub fn into(folder: &Path, tenant: &TenantId, seal: Option<Seal>) -> Result<Self, Failure> {
        let export = Self { folder: std::path::absolute(folder)?, tenant: tenant.clone(), seal };
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
        Manifest::read(&self.folder).is_ok_and(|manifest| manifest.tenant == self.tenant.as_str())
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

    /// Removes what attempts that were killed have left. Nobody else may be exporting there.
    pub fn sweep(&self) -> Result<(), Failure> {
        let partial = self.beside("partial-");
        let prefix = partial.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for entry in fs::read_dir(self.folder.parent().unwrap_or_else(|| Path::new("/")))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
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
            Isolation::Schema => source.schema(partial).await.map(|()| Vec::new())?,
            Isolation::Database | Isolation::Cluster => source.database(partial).await.map(|()| Vec::new())?,
        };
        let counts = tables.iter().map(|table| (table.table.clone(), table.rows)).collect();
        let mut sha256 = BTreeMap::new();
        list(partial, "", &mut sha256)?;
        let manifest = Manifest {
            tenant: tenant.id.to_string(),
            isolation: tenant.isolation.as_str().to_owned(),
            cluster: tenant.cluster.to_string(),
            made: clock::timestamp(clock::unix_now()),
            as_of: source.as_of.clone(),
            database: Some(tenant.database.clone()),
            search_path: tenant.search_path.clone(),
            tables,
            encrypted: None,
            sha256,
        };
        self.finish(&manifest, partial)?;
        Ok(counts)
    }

    fn finish(&self, manifest: &Manifest, partial: &Path) -> Result<(), Failure> {
        let Some(seal) = &self.seal else { return manifest.write(partial) };
        seal.folder(partial)?;
        seal.file(&partial.join(CONTENTS), &manifest.text()?)?;
        let mut sha256 = BTreeMap::new();
        list(partial, "", &mut sha256)?;
        let encrypted = Encrypted {
            by: "age-encryption.org/v1".to_owned(),
            key: KEY.to_owned(),
            contents: format!("{CONTENTS}.age"),
        };
        manifest.outside(encrypted, sha256).write(partial)
    }
}
