//! pgBackRest's configuration file, made of ours.

use std::fmt::Write;
use std::path::Path;

use crate::base::{RepositoryName, Secret};
use crate::config::{ClusterBackup, Repository, S3, StorePlace};

/// One of pgBackRest's repositories, which it has by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub number: usize,
    pub name: &'a RepositoryName,
    pub repository: &'a Repository,
}

/// What pgBackRest is to know of one cluster.
pub(super) struct Conf<'a> {
    /// For locks, logs and the like.
    pub folder: &'a Path,
    pub backup: &'a ClusterBackup,
    pub repositories: &'a [Numbered<'a>],
}

impl Conf<'_> {
    /// It holds secrets.
    pub fn text(&self) -> String {
        let mut text =
            String::from("# Written by pgward, from its own configuration, whenever that is read.\n[global]\n");
        // Writing to a text does not fail.
        let mut put = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}={value}");
        };
        let path = |path: &Path| path.display().to_string();
        for name in ["lock", "log", "spool"] {
            put(&format!("{name}-path"), &path(&self.folder.join(name)));
        }
        put("log-level-file", "off");
        put("compress-type", "zst");
        put("start-fast", "y");
        put("archive-timeout", "60");
        for (name, value) in &self.backup.options {
            put(name, value);
        }
        for Numbered { number, repository, .. } in self.repositories {
            let Some(store) = &repository.store else { continue };
            let mut put = |name: &str, value: &str| put(&format!("repo{number}-{name}"), value);
            match &store.place {
                StorePlace::Posix(folder) => put("path", &path(folder)),
                StorePlace::S3(s3) => put_s3(s3, &mut put),
            }
            if let Some(cipher) = &store.cipher {
                put("cipher-type", "aes-256-cbc");
                put("cipher-pass", &exposed(cipher));
            }
            // What is too old is told by pgward, backup by backup.
            put("retention-full", "9999999");
        }
        text
    }
}

fn put_s3(s3: &S3, put: &mut impl FnMut(&str, &str)) {
    put("type", "s3");
    put("path", &s3.path);
    put("s3-bucket", &s3.bucket);
    put("s3-endpoint", &s3.host);
    put("storage-port", &s3.port.to_string());
    put("s3-region", &s3.region);
    put("s3-key", &exposed(&s3.key));
    put("s3-key-secret", &exposed(&s3.secret));
    put("s3-uri-style", if s3.path_style { "path" } else { "host" });
    if let Some(ca) = &s3.ca {
        put("storage-ca-file", &ca.display().to_string());
    }
}

/// The configuration has seen to it that it is a line of text.
fn exposed(secret: &Secret) -> String {
    String::from_utf8_lossy(secret.expose()).into_owned()
}
