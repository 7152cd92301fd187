//! A dump loaded into a database of the tenant's cluster.
//!
//! Rows go in as the role whose table it is, by a login of its own, and so do constraints, indexes and what else comes after
//! them: what a tenant has made (a check, a domain, a generated column, a cast) is run for each row, and is not to be run as
//! administrator. What comes before the rows runs nothing of the tenant's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::super::files::failed;
use super::super::place::Place;
use super::super::{Failure, programs};
use crate::cli::connect::Administrator;
use crate::config::{Cluster, Login, Settings, Tenant};
use crate::tenant::login_password;

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

/// Lines of a dump's list, each with the role whose it is at its end.
struct Listed<'a> {
    own: Vec<(&'a Login, Vec<String>)>,
    others: Vec<String>,
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
        let rows = self.listed("data", dump).await?;
        self.by_owners("data", &rows, dump, database).await?;
        self.rest("data", &rows.others, dump, database, as_administrator()).await?;
        // Checks in a loop, foreign keys and indexes compute what the tenant has made, for each row.
        let after = self.listed("post-data", dump).await?;
        self.rest("post-data", &after.others, dump, database, as_administrator()).await?;
        self.by_owners("post-data", &after, dump, database).await
    }

    async fn listed(&self, section: &str, dump: &Path) -> Result<Listed<'_>, Failure> {
        let all = programs::run("pg_restore", |command| {
            command.args(["--list", &format!("--section={section}")]).arg(dump);
        });
        let all = all.await?;
        let mut others: Vec<String> = all.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
        let mut own = Vec::new();
        for login in self.tenant.own_logins() {
            let owner = format!(" {}", login.role);
            own.push((login, others.extract_if(.., |line| line.ends_with(&owner)).collect()));
        }
        Ok(Listed { own, others })
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

    /// What is the tenant's own, by its logins.
    async fn by_owners(&self, section: &str, listed: &Listed<'_>, dump: &Path, database: &str) -> Result<(), Failure> {
        for (login, lines) in listed.own.iter().filter(|(_, lines)| !lines.is_empty()) {
            let password = login_password(self.settings.master_key.as_ref(), &self.cluster.name, login);
            let password = password.ok_or_else(|| Failure::said(format!("there is no password for {}", login.role)))?;
            let owner = Administrator::of_login(self.cluster, &login.role, password.expose()).await?;
            let environment = owner.environment(self.cluster, database);
            self.section(section, dump, database, Some(self.list(lines)?), environment).await?;
        }
        Ok(())
    }

    fn list(&self, lines: &[String]) -> Result<PathBuf, Failure> {
        let path = self.work.join("rows.list");
        std::fs::write(&path, lines.join("\n") + "\n").map_err(failed("write", &path))?;
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
