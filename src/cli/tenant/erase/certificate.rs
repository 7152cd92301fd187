//! What was erased, in writing: JSON with its own SHA-256, and the same for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::super::record::operator;
use super::super::Failure;
use super::super::files::{beside, put};
use crate::base::clock;
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

/// When nobody can bring the tenant back any more.
#[derive(Debug, Default, Serialize)]
pub(super) struct Gone {
    /// Not earlier than then. `None`: that is not known.
    pub not_before: Option<String>,
    /// Why it is not known, or may be later.
    pub but: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Backup {
    pub label: String,
    pub made: String,
    /// It does not go earlier. `None`: it stays until somebody lets go of it.
    pub kept_until: Option<String>,
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
    pub gone: Gone,
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
            "gone": self.gone,
        })
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
                let until = backup.kept_until.as_ref();
                let until = until.map_or_else(|| "for ever".to_owned(), |until| format!("until {until} at least"));
                line(format_args!("    {} of {}, kept {until}", backup.label, backup.made));
            }
            if let Some(unknown) = &repository.unknown {
                line(format_args!("    not known: {unknown}"));
            }
        }
        match &self.gone.not_before {
            Some(gone) => {
                line(format_args!("  The last of them, and the archived log with it, does not go before {gone}."))
            }
            None => line(format_args!("  When the last of them goes, and the archived log with it, is not known.")),
        }
        for but in &self.gone.but {
            line(format_args!("  - {but}"));
        }
        line(format_args!("\nSHA-256 of the JSON form without this line's value: {sha256}"));
        text
    }
}

/// What is noted before anything is deleted, so that an erasure that is interrupted still certifies it.
#[derive(Serialize, Deserialize)]
struct Note {
    tenant: String,
    isolation: String,
    cluster: String,
    database: String,
    had: Vec<Had>,
}

impl Note {
    fn of(tenant: &Tenant, had: &[Had]) -> Self {
        Self {
            tenant: tenant.id.to_string(),
            isolation: tenant.isolation.as_str().to_owned(),
            cluster: tenant.cluster.to_string(),
            database: tenant.database.clone(),
            had: had.to_vec(),
        }
    }

    fn is_of(&self, tenant: &Tenant) -> bool {
        let known = |note: &Self| [&note.tenant, &note.isolation, &note.cluster, &note.database].map(String::clone);
        known(self) == known(&Self::of(tenant, &[]))
    }
}

/// A certificate does not take the place of another.
pub(super) fn free(file: &Path) -> Result<(), Failure> {
    if file.try_exists()? {
        return Err(Failure::said(format!("{} is there already; name a file that is not", file.display())));
    }
    Ok(())
}

/// What an attempt that was interrupted has noted of this tenant.
pub(super) fn noted(begun: &Path, tenant: &Tenant) -> Result<Option<Vec<Had>>, Failure> {
    let text = match fs::read(begun) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::said(format!("cannot read {}: {error}", begun.display()))),
    };
    let note: Note = serde_json::from_slice(&text)
        .map_err(|error| Failure::said(format!("{} is not what an erasure writes: {error}", begun.display())))?;
    if !note.is_of(tenant) {
        return Err(Failure::said(format!(
            "{} is of an erasure of tenant {} at level {} in database {} of cluster {}, which is another; name another file",
            begun.display(),
            note.tenant,
            note.isolation,
            note.database,
            note.cluster
        )));
    }
    Ok(Some(note.had))
}

pub(super) fn note(begun: &Path, tenant: &Tenant, had: &[Had]) -> Result<(), Failure> {
    put(begun, &serde_json::to_string(&Note::of(tenant, had))?)
}
