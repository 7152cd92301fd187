//! Templates: a folder of SQL that each new tenant begins with.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::sql;

/// The files `*.sql` of a folder, in the order of their names.
#[derive(Debug, Clone)]
pub struct Template {
    pub files: Vec<TemplateFile>,
    /// Of names and contents, to tell one template from another.
    pub digest: String,
}

#[derive(Debug, Clone)]
pub struct TemplateFile {
    pub name: String,
    pub sql: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the template {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the template {0} has no file *.sql")]
    Empty(PathBuf),
    #[error("{0} begins or ends a transaction; a template is applied whole, in one of pgward's")]
    Transaction(PathBuf),
}

impl Template {
    pub fn read(folder: &Path) -> Result<Self, TemplateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TemplateError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
            let path = entry.map_err(failed(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "sql") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut hash = Sha256::new();
        let mut files = Vec::new();
        for path in paths {
            let sql = std::fs::read_to_string(&path).map_err(failed(&path))?;
            if sql::ends_transaction(&sql) {
                return Err(TemplateError::Transaction(path));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for part in [&name, &sql] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
            files.push(TemplateFile { name, sql });
        }
        if files.is_empty() {
            return Err(TemplateError::Empty(folder.to_owned()));
        }
        let digest = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { files, digest })
    }
}
