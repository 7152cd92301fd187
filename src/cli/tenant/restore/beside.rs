//! Levels `schema`, `database` and `cluster`: what was there is loaded beside what is.

use std::collections::BTreeSet;
use std::fs::File;

use futures_util::stream;
use tokio_postgres::Client;

use super::super::export::{DUMP, LARGE_OBJECTS, dump};
use super::super::place::Place;
use super::super::{Failure, programs};
use super::Work;
use super::load::Load;
use super::origin::{Opened, Origin, Workshop};
use super::rows::Chunks;
use crate::config::{Isolation, Settings};
use crate::sql::identifier;
use crate::tenant::restore::{Difference, TwinDatabase, TwinSchema, sweep};
use crate::tenant::{InstallError, Provision, Removal};

impl Work<'_> {
    fn load<'a>(&'a self, workshop: &'a Workshop, name: &'a str) -> Load<'a> {
        Load {
            settings: self.settings,
            cluster: self.cluster,
            tenant: self.tenant,
            administrator: &self.administrator,
            name,
            work: workshop.path(),
            within: self.load_within,
        }
    }

    pub(super) async fn schema_beside<'a>(
        &'a self,
        origin: &Origin,
        workshop: &Workshop,
    ) -> Result<TwinSchema<'a>, Failure> {
        let twin = TwinSchema::of(self.tenant);
        sweep(&self.seat, self.tenant).await?;
        // An earlier attempt may have closed them.
        self.removal.open(&self.seat).await?;
        let path = workshop.path().join("schema");
        match origin {
            Origin::Copy(copy) => {
                let client = copy.1.connect(&self.tenant.database).await?;
                self.objects_of_copy(&twin, &client).await?;
                twin.rename(&client).await?;
                dump(Place::Copy(&copy.1), &self.tenant.database, Some(twin.next()), None, &path).await?;
            }
            Origin::Export(opened) => {
                self.objects_of_export(&twin, opened).await?;
                self.renamed(&twin, opened, workshop, &path).await?;
            }
        }
        self.load(workshop, twin.next()).run(&path, &self.tenant.database).await?;
        Ok(twin)
    }

    /// A dump has its schema's name in it, so it gets another in a database that is there for that alone.
    async fn renamed(
        &self,
        twin: &TwinSchema<'_>,
        opened: &Opened,
        workshop: &Workshop,
        path: &std::path::Path,
    ) -> Result<(), Failure> {
        let aside = TwinDatabase::of(self.tenant);
        aside.create(&self.seat).await?;
        let done = async {
            let client = self.administrator.connect(aside.next()).await?;
            extensions(&self.seat, &client).await?;
            self.load(workshop, aside.next()).run(&opened.folder.join(DUMP), aside.next()).await?;
            twin.rename(&client).await?;
            let place = Place::Live { administrator: &self.administrator, cluster: self.cluster };
            dump(place, aside.next(), Some(twin.next()), None, path).await
        };
        let done = done.await;
        let swept = aside.sweep(&self.seat).await;
        done?;
        Ok(swept?)
    }

    async fn objects_of_copy(&self, twin: &TwinSchema<'_>, copy: &Client) -> Result<(), Failure> {
        let removal = Removal::in_copy(copy, self.settings, self.tenant).await?;
        match removal.large_objects(copy).await? {
            Some(sql) => {
                let failed = |source| InstallError::Sql { doing: "reading large objects".to_owned(), source };
                let rows = copy.copy_out(&sql).await.map_err(failed)?;
                Ok(twin.stage_objects(&self.seat, rows).await?)
            }
            None => self.no_objects(twin).await,
        }
    }

    async fn objects_of_export(&self, twin: &TwinSchema<'_>, opened: &Opened) -> Result<(), Failure> {
        let path = opened.folder.join(LARGE_OBJECTS);
        if !path.exists() {
            return self.no_objects(twin).await;
        }
        Ok(twin.stage_objects(&self.seat, stream::iter(Chunks(File::open(path)?))).await?)
    }

    /// There were none then; so there are to be none.
    async fn no_objects(&self, twin: &TwinSchema<'_>) -> Result<(), Failure> {
        if self.removal.large_objects(&self.seat).await?.is_none() {
            return Ok(());
        }
        Ok(twin.stage_objects(&self.seat, stream::empty::<std::io::Result<bytes::Bytes>>()).await?)
    }

    pub(super) async fn database_beside<'a>(
        &'a self,
        origin: &Origin,
        workshop: &Workshop,
    ) -> Result<TwinDatabase<'a>, Failure> {
        let twin = TwinDatabase::of(self.tenant);
        twin.create(&self.seat).await?;
        self.removal.open(&self.seat).await?;
        match origin {
            Origin::Copy(copy) => {
                let path = workshop.path().join("database");
                dump(Place::Copy(&copy.1), &self.tenant.database, None, None, &path).await?;
                self.load(workshop, twin.next()).run(&path, twin.next()).await?;
            }
            Origin::Export(opened) => {
                self.load(workshop, twin.next()).run(&opened.folder.join(DUMP), twin.next()).await?
            }
        }
        Ok(twin)
    }

    /// Whether anything is defined otherwise than then, be it a view, a function, an index or a privilege. `next`: the schema or
    /// database beside the tenant's.
    pub(super) async fn definitions(&self, next: &str) -> Result<Option<Difference>, Failure> {
        let tenant = self.tenant;
        let (now, then) = match tenant.search_path.first().filter(|_| tenant.isolation == Isolation::Schema) {
            Some(home) => {
                let now = self.defined(&tenant.database, Some(home), home).await?;
                (now, self.defined(&tenant.database, Some(next), home).await?)
            }
            None => (self.defined(&tenant.database, None, "").await?, self.defined(next, None, "").await?),
        };
        let [new, old] = [(&now, &then), (&then, &now)].map(|(a, b)| a.difference(b).count());
        let words = format!("{new} lines of pg_dump only now, {old} only then");
        Ok((new + old > 0).then(|| Difference::of_definitions(&words)))
    }

    /// Each line of pg_dump that defines something, as if the schema were called `home`.
    async fn defined(&self, database: &str, schema: Option<&str>, home: &str) -> Result<BTreeSet<String>, Failure> {
        let place = Place::Live { administrator: &self.administrator, cluster: self.cluster };
        let text = programs::run("pg_dump", |command| {
            command.args(["--schema-only", "--no-password"]).envs(place.environment(database));
            command.args(schema.map(|schema| format!("--schema={}", identifier(schema))));
        });
        let text = text.await?;
        // Comments name what comes next, and psql's own commands have a key that is never the same.
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\'));
        let renamed = |line: &str| match schema {
            Some(schema) if schema != home => line.replace(schema, home),
            _ => line.to_owned(),
        };
        Ok(lines.map(renamed).map(|line| line.replace(&identifier(home), home)).collect())
    }

    /// The tenant's roles can log in again, and what pgward needs in the tenant's place is there in this version.
    pub(super) async fn provide(&self) -> Result<(), Failure> {
        let settings: &Settings = self.settings;
        let provision = Provision { settings, tenant: self.tenant, template: None };
        if self.tenant.isolation.shares_database() {
            provision.run(&self.seat).await?;
        } else {
            provision.run(&self.administrator.connect(&self.tenant.database).await?).await?;
        }
        Ok(())
    }
}

/// What a dump of one schema leaves out and may need.
async fn extensions(from: &Client, to: &Client) -> Result<(), Failure> {
    let sql = "select pg_catalog.format('create schema if not exists %I; create extension if not exists %I schema %I cascade;', \
            n.nspname, e.extname, n.nspname) \
        from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace \
        where n.nspname <> 'pg_catalog'";
    for row in from.query(sql, &[]).await? {
        to.batch_execute(row.get(0)).await?;
    }
    Ok(())
}
