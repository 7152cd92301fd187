//! From add to remove, at every level.

use tokio_postgres::Client;

use super::{Place, Session, also, ended, exists, login, own_cluster, refusal, session};
use crate::support::{Stage, code, one, until};

/// Where a tenant lives, and how that is seen.
struct Level<'a> {
    place: &'a Place,
    tenant: &'a str,
    /// What to add it with.
    options: String,
    /// A table of its own, or the shared one.
    table: &'a str,
    /// Counts what there is of it, on this connection.
    left: String,
    admin: Client,
}

impl Level<'_> {
    async fn live(self) {
        let Self { place, tenant, .. } = &self;
        let stage = place.stage().await;
        let witness = Witness::new(&stage).await;
        let added = place.done(&format!("add {tenant} --home lk {}", self.options)).await;
        assert!(added.contains("is there"), "{added}");
        let used = session(&stage, tenant).await;
        self.use_(&used).await;
        witness.sees_what_it_saw().await;
        self.suspended(&stage, used).await;
        witness.sees_what_it_saw().await;
        self.resumed(&stage).await;
        self.removed(&stage).await;
        witness.sees_what_it_saw().await;
        assert_eq!(place.read("tenants.toml"), super::TENANTS.replace("DATABASE", place.name));
    }

    async fn use_(&self, session: &Session) {
        if self.table != "orders" {
            let make = format!("create table {} (item text)", self.table);
            session.client.batch_execute(&make).await.unwrap();
        }
        let insert = format!("insert into {} (item) values ('first')", self.table);
        session.client.batch_execute(&insert).await.unwrap();
        session.client.batch_execute(&format!("begin; {insert}")).await.unwrap();
    }

    /// In the midst of a transaction.
    async fn suspended(&self, stage: &Stage, session: Session) {
        let Self { place, tenant, .. } = self;
        let idle = login(stage, tenant, "app").await.unwrap();
        place.done(&format!("suspend {tenant}")).await;
        assert_eq!(ended(session).await, ("28000".to_owned(), "the tenant is suspended".to_owned()));
        assert_eq!(ended(idle).await.1, "the tenant is suspended");
        let refused = login(stage, tenant, "app").await.err().unwrap();
        assert_eq!((code(&refused).as_str(), refusal(&refused).as_str()), ("28000", "the tenant is suspended"));
        let switching = login(stage, "witness", "app").await.unwrap().client;
        let token = stage.token(tenant, "app");
        let refused = switching.simple_query(&format!("SET pgward.token = '{token}'")).await.unwrap_err();
        assert_eq!(refusal(&refused), "the tenant is suspended");
        // Who has no right to it is not told.
        let stranger = login(stage, tenant, "no_such_access").await.err().unwrap();
        assert!(refusal(&stranger).contains("does not give access"), "{stranger:?}");
        let listed = place.done("list --suspended --json").await;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed[0]["tenant"], *tenant);
    }

    async fn resumed(&self, stage: &Stage) {
        self.place.done(&format!("resume {}", self.tenant)).await;
        let again = session(stage, self.tenant).await;
        let count = one(&again.client, &format!("select count(*) from {}", self.table)).await;
        assert_eq!(count, "1", "what was committed is there, and what was not is not");
        let shown = self.place.done(&format!("show {} --json", self.tenant)).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let seen = shown["on_the_cluster"].as_array().unwrap_or_else(|| panic!("{shown}"));
        assert!(seen.len() > 1 && seen.iter().all(|seen| seen["sound"] == true), "{shown}");
        assert_eq!(shown["max_leases"], 20, "what the file does not say is shown as well");
    }

    async fn removed(&self, stage: &Stage) {
        let Self { place, tenant, .. } = self;
        let session = session(stage, tenant).await;
        session.client.batch_execute("begin; select 1").await.unwrap();
        let folder = place.path("exported");
        let removed = place.done(&format!("remove {tenant} --yes --export {}", folder.display())).await;
        assert!(removed.contains("nothing is left of tenant"), "{removed}");
        assert_eq!(ended(session).await.0, "28000");
        assert_eq!(one(&self.admin, &self.left).await, "0");
        let manifest: serde_json::Value = serde_json::from_str(&place.read("exported/manifest.json")).unwrap();
        let files = manifest["sha256"].as_object().unwrap();
        assert!(!files.is_empty() && files.keys().all(|file| exists(&folder.join(file))), "{manifest}");
        if self.table == "orders" {
            assert_eq!(manifest["tables"][0]["rows"], 1, "{manifest}");
            assert!(place.read("exported/0001-public.orders.csv").contains("first"));
        } else {
            assert!(files.contains_key("dump/toc.dat"), "{manifest}");
        }
        until("the tenant is nobody's", async || {
            let refused = login(stage, tenant, "app").await.err().unwrap();
            refusal(&refused).contains("does not give access")
        })
        .await;
        assert!(place.fails(&format!("remove {tenant} --yes")).await.contains("there is no tenant"));
    }
}

/// A tenant that must not notice anything.
struct Witness(Client);

impl Witness {
    async fn new(stage: &Stage) -> Self {
        Self(login(stage, "witness", "app").await.unwrap().client)
    }

    async fn sees_what_it_saw(&self) {
        let seen = one(&self.0, "select string_agg(item, ',' order by item) from orders").await;
        assert_eq!(seen, "seen 1,seen 2,seen 3");
    }
}

#[tokio::test]
async fn at_level_rows() {
    let place = Place::new("life_rows").await;
    let level = Level {
        place: &place,
        tenant: "acme",
        options: "--isolation rows --cluster main --database {name}".to_owned(),
        table: "orders",
        left: "select count(*) from orders where tenant_id <> 'witness'".to_owned(),
        admin: place.admin().await,
    };
    level.live().await;
}

const ROLES: &str = "select (select count(*) from pg_roles where rolname ~ '^life_[a-z]+_own') \
    + (select count(*) from pg_namespace where nspname ~ 'own') + (select count(*) from pg_database where datname ~ 'own')";

#[tokio::test]
async fn at_level_schema() {
    let place = Place::new("life_schema").await;
    let level = Level {
        place: &place,
        tenant: "life_schema_own",
        options: "--isolation schema --cluster main --database {name} --role app --role readonly --epoch 3 \
            --setting work_mem=9MB --max-clients 7"
            .to_owned(),
        table: "own",
        left: ROLES
            .replace("[a-z]+", "schema")
            .replace("pg_database where datname ~ 'own'", "pgward.logins where tenant is not null"),
        admin: place.admin().await,
    };
    level.live().await;
}

#[tokio::test]
async fn at_level_database() {
    let place = Place::new("life_database").await;
    let level = Level {
        place: &place,
        tenant: "life_database_own",
        options: "--isolation database --cluster main --database life_database_own".to_owned(),
        table: "own",
        left: ROLES.replace("[a-z]+", "database").replace("'own'", "'life_database_own'"),
        admin: place.admin().await,
    };
    level.live().await;
}

#[tokio::test]
async fn at_level_cluster() {
    let own = own_cluster("alone").await;
    let mut place = Place::with("life_cluster", &also("alone", own.primary())).await;
    place.url = own.primary().url();
    let level = Level {
        place: &place,
        tenant: "life_cluster_own",
        options: "--isolation cluster --cluster alone --database life_cluster_own --schema wares".to_owned(),
        table: "own",
        left: ROLES.replace("[a-z]+", "cluster"),
        admin: own.primary().connect("postgres").await.unwrap(),
    };
    level.live().await;
}

/// Names that are no plain words anywhere, with large objects and things in two databases.
#[tokio::test]
async fn with_names_that_have_to_be_quoted() {
    let place = Place::new("odd").await;
    let stage = place.stage().await;
    let tenant = "a.b@c:d-e";
    let mut add = place.command(&format!("add {tenant} --home lk --isolation schema --cluster main --database odd"));
    add.args(["--schema", "it's \"Q\" %", "--role", "app=o'\"dd \\", "--setting", "app.it=it's"]);
    let added = super::output(add).await;
    assert!(added.status.success(), "{}", super::said(&added));
    assert!(place.read("tenants.toml").contains("[tenants.\"a.b@c:d-e\"]"));
    let used = session(&stage, tenant).await.client;
    used.batch_execute("create table things (thing text); insert into things values ('x')").await.unwrap();
    assert_eq!(one(&used, "select current_setting('app.it')").await, "it's");
    assert_eq!(one(&used, "select current_schema()").await, "it's \"Q\" %");
    used.batch_execute("select lo_from_bytea(0, 'large')").await.unwrap();
    let elsewhere = "create schema lent; grant create, usage on schema lent to \"o'\"\"dd \\\"; \
        create table lent.t (a int); grant select on lent.t to \"o'\"\"dd \\\"; \
        alter default privileges for role \"o'\"\"dd \\\" grant select on tables to public";
    place.admin_of("postgres").await.batch_execute(elsewhere).await.unwrap();
    let removed = place.done(&format!("remove {tenant} --yes --export {}", place.path("out").display())).await;
    assert!(removed.lines().filter(|line| line.ends_with(" 0")).count() >= 9, "{removed}");
    assert!(place.read("out/large-objects.csv").contains("\\x6c61726765"), "the large object is exported");
    let admin = place.admin().await;
    let left = "select string_agg(what, ', ') from (select 'role ' || rolname from pg_roles where rolname ~ '\"dd' \
        union all select 'large object of ' || lomowner::regrole from pg_largeobject_metadata \
        union all select 'schema ' || nspname from pg_namespace where nspname ~ 'Q') x(what)";
    assert_eq!(one(&admin, left).await, "NULL");
    assert_eq!(one(&place.admin_of("postgres").await, "select count(*) from pg_default_acl").await, "0");

    let mut add = place.command("add data.base --home lk --isolation database --cluster main");
    add.args(["--database", "da\"ta'base"]);
    let added = super::output(add).await;
    assert!(added.status.success(), "{}", super::said(&added));
    let used = session(&stage, "data.base").await.client;
    used.batch_execute("create table things (thing text)").await.unwrap();
    place.done("remove data.base --yes").await;
    let left = "select count(*) from pg_database where datname ~ 'ta''base' or datname ~ 'nascent'";
    assert_eq!(one(&admin, left).await, "0");
}
