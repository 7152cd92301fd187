//! A dump loaded into a database of the tenant's cluster.
//!
//! Rows go in as the role whose table it is, by a login of its own, and so do constraints, indexes and what else comes after
//! them: what a tenant has made (a check, a domain, a generated column, a cast) is run for each row, and is not to be run as
//! administrator. What comes before the rows runs nothing of the tenant's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::super::place::Place;
use super::super::{Failure, programs};
use crate::cli::connect::Administrator;
use crate::config::{Cluster, Settings, Tenant};
use crate::tenant::{login_password, own_logins};

pub(super) struct Load<'a> {
    pub settings: &'a Settings,
    pub cluster: &'a Cluster,
    pub tenant: &'a Tenant,
    pub administrator: &'a Administrator,
    /// What its connections are known by, to those who have to end them.
    pub name: &'a str,
    /// For what pg_restore is to go by.
    pub work: &'a Path,
    pub within: Duration,
}

impl Load<'_> {
    /// What is run for each row may never end. pg_restore lifts all time limits of roles; it is ended from here, and what it
    /// has left running when what is beside goes.
    pub async fn run(&self, dump: &Path, database: &str) -> Result<(), Failure> {
        tokio::time::timeout(self.within, self.all(dump, database)).await.unwrap_or_else(|_| {
            Err(Failure::said(format!(
                "what there was is not loaded within {} s (--load-within); does a check, a domain or an index of the \
                 tenant's call what does not end?",
                self.within.as_secs()
            )))
        })
    }

    async fn all(&self, dump: &Path, database: &str) -> Result<(), Failure> {
        let place = Place::Live { administrator: self.administrator, cluster: self.cluster };
        let as_administrator = || place.environment(database);
        self.section("pre-data", dump, database, None, as_administrator()).await?;
        let rest = self.by_owner("data", dump, database).await?;
        self.rest("data", &rest, dump, database, as_administrator()).await?;
        // Checks in a loop, foreign keys and indexes compute what the tenant has made, for each row.
        let listed = self.listed("post-data", dump).await?;
        let own = own_logins(self.tenant).into_iter().map(|login| format!(" {}", login.role)).collect::<Vec<_>>();
        let others =
            listed.into_iter().filter(|line| !own.iter().any(|owner| line.ends_with(owner))).collect::<Vec<_>>();
        self.rest("post-data", &others, dump, database, as_administrator()).await?;
        self.by_owner("post-data", dump, database).await.map(drop)
    }

    async fn listed(&self, section: &str, dump: &Path) -> Result<Vec<String>, Failure> {
        let all = programs::run("pg_restore", |command| {
            command.args(["--list", &format!("--section={section}")]).arg(dump);
        });
        Ok(all.await?.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect())
    }

    async fn rest(
        &self,
        section: &str,
        lines: &[String],
        dump: &Path,
        database: &str,
        environment: Vec<(&'static str, std::ffi::OsString)>,
    ) -> Result<(), Failure> {
        if lines.is_empty() {
            return Ok(());
        }
        self.section(section, dump, database, Some(self.list(lines)?), environment).await
    }

    /// What is the tenant's own, by its logins. Returns what is not.
    async fn by_owner(&self, section: &str, dump: &Path, database: &str) -> Result<Vec<String>, Failure> {
        let mut rest = self.listed(section, dump).await?;
        for login in own_logins(self.tenant) {
            let owner = format!(" {}", login.role);
            let (own, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|line| line.ends_with(&owner));
            rest = others;
            if own.is_empty() {
                continue;
            }
            let password = login_password(self.settings.master_key.as_ref(), &self.cluster.name, login);
            let password = password.ok_or_else(|| Failure::said(format!("there is no password for {}", login.role)))?;
            let owner = Administrator::of_login(self.cluster, &login.role, password.expose()).await?;
            let environment = owner.environment(self.cluster, database);
            self.section(section, dump, database, Some(self.list(&own)?), environment).await?;
        }
        Ok(rest)
    }

    fn list(&self, lines: &[String]) -> Result<PathBuf, Failure> {
        let path = self.work.join("rows.list");
        std::fs::write(&path, lines.join("\n") + "\n")?;
        Ok(path)
    }

    async fn section(
        &self,
        section: &str,
        dump: &Path,
        database: &str,
        list: Option<PathBuf>,
        environment: Vec<(&'static str, std::ffi::OsString)>,
    ) -> Result<(), Failure> {
        let arrange = |command: &mut Command| {
            command.args(["--exit-on-error", "--single-transaction", "--no-password", "--no-subscriptions"]);
            command.arg(format!("--section={section}"));
            if let Some(list) = list {
                command.arg("--use-list").arg(list);
            }
            let quoted = database.replace('\\', "\\\\").replace('\'', "\\'");
            command.arg(format!("--dbname=dbname='{quoted}'")).arg(dump).envs(environment).env("PGAPPNAME", self.name);
        };
        programs::run("pg_restore", arrange).await.map(drop)
    }
}
