//! A cluster whose log is archived, and a configuration that has its backups in repositories of its own.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use pgward::base::ClusterName;
use pgward::config::Settings;
use pgward::local::{Cluster, Host};
use pgward::sidecar::backup::{Scratch, Site, Target, Unseen, Wanted, archive_command};
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::{HEAD, LONG, configuration, furnish, one, until};

pub struct Place {
    pub cluster: Cluster,
    pub config: PathBuf,
    pub settings: Arc<Settings>,
    /// Where the repositories are, and what is remembered of them.
    pub folder: PathBuf,
}

impl Place {
    /// With one repository, `near`, whose login is there and whose log is archived.
    pub async fn new(name: &str) -> Self {
        Self::with(name, "", "").await
    }

    /// `backup`: more of `[backup]`. `repositories`: instead of the one, `{folder}` being the place's.
    pub async fn with(name: &str, backup: &str, repositories: &str) -> Self {
        let place = Self::bare(name, backup, repositories).await;
        place.done(&["backup", "setup"]).await;
        place.archived().await;
        place
    }

    /// With neither.
    pub async fn bare(name: &str, backup: &str, repositories: &str) -> Self {
        let cluster = Cluster::builder(name).setting("archive_mode", "on").start().await.unwrap();
        furnish(&cluster).await;
        let folder = Host::find().unwrap().folder(None, &format!("test-{name}")).unwrap();
        let config = folder.join("pgward.toml");
        let shown = folder.display().to_string();
        let near = "[clusters.main.repositories.near]\nregion = \"lk\"\npath = \"{folder}/near\"\n\
                    cipher = \"0123456789abcdef0123456789abcdef\"\n";
        let repositories = if repositories.is_empty() { near } else { repositories };
        let data = cluster.primary().data().display().to_string();
        let text = configuration(cluster.primary().port(), "")
            .replace("max_backends = 60\n", &format!("max_backends = 60\ndata_directory = '{data}'\n"));
        let text = format!(
            "{HEAD}{text}\n{}\n[backup]\ndirectory = '{shown}/state'\n{backup}",
            repositories.replace("{folder}", &shown)
        );
        std::fs::write(&config, text).unwrap();
        let settings = pgward::config::load(&config).unwrap_or_else(|problems| panic!("{problems:#?}"));
        Self { cluster, config, settings: Arc::new(settings), folder }
    }

    /// Its configuration.
    pub fn change(&mut self, text: &str) {
        std::fs::write(&self.config, text).unwrap();
        let settings = pgward::config::load(&self.config).unwrap_or_else(|problems| panic!("{problems:#?}"));
        self.settings = Arc::new(settings);
    }

    pub fn site(&self) -> Site {
        Site::open(&self.settings, &ClusterName::parse("main").unwrap()).unwrap()
    }

    /// Has the log archived as `setup` said.
    pub async fn archived(&self) {
        self.archive_by(&archive_command(&self.site())).await;
    }

    pub async fn archive_by(&self, command: &str) {
        let client = self.postgres("postgres").await;
        let command = command.replace('\'', "''");
        client.batch_execute(&format!("alter system set archive_command = '{command}'")).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        until("the reload", async || one(&client, "show archive_command").await.replace('\'', "''") == command).await;
    }

    pub async fn postgres(&self, database: &str) -> Client {
        self.cluster.primary().connect(database).await.unwrap()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.args(words).env("PGWARD_CONFIG", &self.config);
        command.env("PGWARD_INSTALL_URL", self.cluster.primary().url());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().await.unwrap()
    }

    /// What it printed.
    pub async fn done(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        said(&output)
    }

    /// Why it was refused.
    pub async fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
        said(&output)
    }

    pub async fn json(&self, words: &[&str]) -> serde_json::Value {
        let output = self.run(words).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", said(&output)))
    }

    /// The labels of one repository's backups, the oldest first.
    pub async fn labels(&self, repository: &str) -> Vec<String> {
        let found = self.site().holdings().await.unwrap();
        let of = found.into_iter().find(|of| of.repository.as_str() == repository).unwrap();
        assert_eq!(of.trouble, None);
        of.backups.into_iter().map(|kept| kept.label).collect()
    }

    /// All that has been written until now is in the archive.
    pub async fn all_archived(&self) {
        let client = self.postgres("postgres").await;
        let segment = one(&client, "select pg_walfile_name(pg_switch_wal())").await;
        let sql = format!("select coalesce(last_archived_wal >= '{segment}', false)::text from pg_stat_archiver");
        crate::support::eventually("the log to be archived", 3 * LONG, async || one(&client, &sql).await == "true")
            .await;
    }

    pub async fn copy(&self, target: Target) -> Scratch {
        self.try_copy(target).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_copy(&self, target: Target) -> Result<Scratch, pgward::sidecar::backup::BackupError> {
        let wanted = Wanted { target, ..Wanted::latest() };
        Scratch::restore(&self.site(), &wanted, &mut Unseen).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
