//! What was erased, in writing: JSON with its own SHA-256, and the same for people.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::super::record::operator;
use super::super::Failure;
use super::beside;
use crate::base::{TenantId, clock};
use crate::config::{Cluster, Tenant};
use crate::tenant::Seen;

/// Something that the tenant had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Had {
    pub what: String,
    pub rows: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Repository {
    pub name: String,
    pub region: String,
    /// Those that were made while the tenant may have been there.
    pub backups: Vec<Backup>,
    /// Why that is not all, or not known.
    pub unknown: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Backup {
    pub label: String,
    pub made: String,
    pub kept_until: String,
}

pub(super) struct Certificate<'a> {
    pub tenant: &'a Tenant,
    pub cluster: &'a Cluster,
    pub at: SystemTime,
    pub had: Vec<Had>,
    pub seen: Vec<Seen>,
    /// Tables that were left to somebody else.
    pub left: &'a [String],
    pub repositories: Vec<Repository>,
}

impl Certificate<'_> {
    /// Returns its SHA-256: that of the JSON without it, with sorted keys and without white space.
    pub fn write(&self, file: &Path) -> Result<String, Failure> {
        let mut value = self.json();
        let sha256: String = Sha256::digest(value.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(members) = value.as_object_mut() {
            members.insert("sha256".to_owned(), sha256.clone().into());
        }
        put(file, &format!("{value:#}\n"))?;
        put(&beside(file, "txt"), &self.text(&sha256))?;
        Ok(sha256)
    }

    fn json(&self) -> Value {
        let servers = self.cluster.all_servers();
        let servers = servers.map(|server| json!({ "server": server.name.as_str(), "region": server.region.as_str() }));
        let seen = self.seen.iter().map(|seen| json!({ "what": seen.what, "found": seen.found }));
        json!({
            "certificate": "erasure of a tenant",
            "tenant": self.tenant.id.as_str(),
            "isolation": self.tenant.isolation.as_str(),
            "cluster": self.cluster.name.as_str(),
            "database": self.tenant.database,
            "servers": servers.collect::<Vec<_>>(),
            "erased": clock::rfc3339(self.at),
            "by": operator(),
            "pgward": env!("CARGO_PKG_VERSION"),
            "had": self.had,
            "looked_for": seen.collect::<Vec<_>>(),
            "left_to_others": self.left,
            "repositories": self.repositories,
            "gone_everywhere": self.gone(),
        })
    }

    /// When the last backup that has the tenant goes. `None`: that is not known.
    fn gone(&self) -> Option<String> {
        if self.repositories.iter().any(|repository| repository.unknown.is_some()) {
            return None;
        }
        let backups = self.repositories.iter().flat_map(|repository| &repository.backups);
        let last = backups.map(|backup| backup.kept_until.clone()).max();
        Some(last.unwrap_or_else(|| clock::timestamp(clock::unix_now())))
    }

    fn text(&self, sha256: &str) -> String {
        let tenant = self.tenant;
        let mut text = String::new();
        // Writing to a text does not fail.
        let mut line = |words: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{words}");
        };
        line(format_args!("Certificate of the erasure of tenant {}\n", tenant.id));
        line(format_args!("Erased     {}", clock::rfc3339(self.at)));
        line(format_args!("By         {}", operator().as_deref().unwrap_or("an unknown user")));
        let level = tenant.isolation.as_str();
        line(format_args!("From       database {} of cluster {} (level {level})", tenant.database, self.cluster.name));
        for server in self.cluster.all_servers() {
            line(format_args!("           server {} in region {}", server.name, server.region));
        }
        line(format_args!("\nWhat it had"));
        for had in &self.had {
            line(format_args!("  {}: {} rows", had.what, had.rows));
        }
        line(format_args!("\nWhat was looked for afterwards, and found"));
        for seen in &self.seen {
            line(format_args!("  {}: {}", seen.what, seen.found));
        }
        for table in self.left {
            line(format_args!("  {table}: left to others (--leave)"));
        }
        line(format_args!("\nWhich backups may still have it"));
        for repository in &self.repositories {
            let (name, region) = (&repository.name, &repository.region);
            line(format_args!("  repository {name} in region {region}: {} backups", repository.backups.len()));
            for backup in &repository.backups {
                line(format_args!("    {} of {}, kept until {}", backup.label, backup.made, backup.kept_until));
            }
            if let Some(unknown) = &repository.unknown {
                line(format_args!("    not known: {unknown}"));
            }
        }
        match self.gone() {
            Some(gone) => line(format_args!("  The last of them goes at {gone}, and the archived log with it.")),
            None => line(format_args!("  When the last of them goes is not known.")),
        }
        line(format_args!("\nSHA-256 of the JSON form without this line's value: {sha256}"));
        text
    }
}

/// What is noted before anything is deleted.
#[derive(Serialize, Deserialize)]
struct Note {
    tenant: String,
    had: Vec<Had>,
}

/// A certificate does not take the place of another.
pub(super) fn free(file: &Path, begun: &Path, tenant: &TenantId) -> Result<(), Failure> {
    if noted(begun, tenant)?.is_none() && file.try_exists()? {
        return Err(Failure::said(format!("{} is there already; name a file that is not", file.display())));
    }
    Ok(())
}

pub(super) fn noted(begun: &Path, tenant: &TenantId) -> Result<Option<Vec<Had>>, Failure> {
    let text = match fs::read(begun) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::said(format!("cannot read {}: {error}", begun.display()))),
    };
    let note: Note = serde_json::from_slice(&text)
        .map_err(|error| Failure::said(format!("{} is not what an erasure writes: {error}", begun.display())))?;
    if note.tenant != tenant.as_str() {
        let (begun, other) = (begun.display(), &note.tenant);
        return Err(Failure::said(format!("{begun} is of an erasure of tenant {other}; name another file")));
    }
    Ok(Some(note.had))
}

pub(super) fn note(begun: &Path, tenant: &TenantId, had: &[Had]) -> Result<(), Failure> {
    let note = Note { tenant: tenant.to_string(), had: had.to_vec() };
    put(begun, &serde_json::to_string(&note)?)
}

/// As a whole or not at all.
fn put(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    let written = || {
        let mut next = tempfile::NamedTempFile::new_in(folder)?;
        next.write_all(text.as_bytes())?;
        next.as_file().sync_all()?;
        next.persist(file).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|error| Failure::said(format!("cannot write {}: {error}", file.display())))
}
