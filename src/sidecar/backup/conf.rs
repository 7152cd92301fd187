//! pgBackRest's configuration file, made of ours.

use std::collections::BTreeMap;
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
        let mut options: BTreeMap<String, String> = [
            ("log-level-file", "off"),
            ("compress-type", "zst"),
            ("start-fast", "y"),
            ("archive-timeout", "180"),
            // What one that was killed had copied is taken over by the next as of the last time it was written down.
            ("manifest-save-threshold", "64MiB"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        options.extend(self.backup.options.clone());
        for name in ["lock", "log", "spool"] {
            options.insert(format!("{name}-path"), path(&self.folder.join(name)));
        }
        options.iter().for_each(|(name, value)| put(name, value));
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::{Region, Secret};
    use crate::config::{Login, LoginPassword, Store};

    #[test]
    fn an_option_of_the_operators_stands_once_and_instead_of_ours() {
        let login = Login {
            role: "b".to_owned(),
            password: LoginPassword::Derived { epoch: 1 },
            mode: None,
            route: None,
            settings: BTreeMap::new(),
            allow_unsafe: false,
        };
        let options = [("compress-type".to_owned(), "lz4".to_owned())].into();
        let backup = ClusterBackup { login, database: "postgres".to_owned(), receive_wal: None, options };
        let store =
            Store { place: StorePlace::Posix(PathBuf::from("/b")), cipher: Some(Secret::new(*b"a passphrase")) };
        let repository = Repository { region: Region::parse("lk").unwrap(), store: Some(store) };
        let name = RepositoryName::parse("near").unwrap();
        let repositories = [Numbered { number: 1, name: &name, repository: &repository }];
        let text = Conf { folder: Path::new("/state"), backup: &backup, repositories: &repositories }.text();
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
        assert_eq!(lines("compress-type"), ["compress-type=lz4"]);
        assert_eq!(lines("lock-path"), ["lock-path=/state/lock"]);
        assert_eq!(lines("repo1-cipher"), ["repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=a passphrase"]);
        let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        let once: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), once.len(), "{text}");
    }
}
