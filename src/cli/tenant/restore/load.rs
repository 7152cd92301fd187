//! A dump loaded into a database of the tenant's cluster.
//!
//! Rows go in as the role whose table it is, by a login of its own: what a tenant has made (a check, a domain, a generated
//! column) is run for each of them, and is not to be run as administrator. The rest of a dump runs nothing of the tenant's
//! but indexes and materialised views, which PostgreSQL makes as their owner.

use std::path::{Path, PathBuf};

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
}

impl Load<'_> {
    pub async fn run(&self, dump: &Path, database: &str) -> Result<(), Failure> {
        let place = Place::Live { administrator: self.administrator, cluster: self.cluster };
        let as_administrator = || place.environment(database);
        self.section("pre-data", dump, database, None, as_administrator()).await?;
        let all = programs::run("pg_restore", |command| {
            command.args(["--list", "--section=data"]).arg(dump);
        });
        let mut rest: Vec<String> =
            all.await?.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
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
            self.section("data", dump, database, Some(self.list(&own)?), environment).await?;
        }
        if !rest.is_empty() {
            self.section("data", dump, database, Some(self.list(&rest)?), as_administrator()).await?;
        }
        self.section("post-data", dump, database, None, as_administrator()).await
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
