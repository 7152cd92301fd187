//! Where a hostile tenant is let in: a cluster with its own and other tenants' data, and a proxy with so few
//! backends that they go from hand to hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use pgward::base::ClusterName;
use pgward::config::Settings;
use pgward::local::Cluster;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::bouncer::{self, Bouncer};
use crate::support::{Stage, configuration, furnish, parse};
use crate::tap::Login;

/// The hostile tenant's isolation level. There is a witness at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Rows,
    Schema,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Schema => "schema",
        }
    }

    pub fn hostile(self) -> &'static str {
        match self {
            Self::Rows => "mallory",
            Self::Schema => "galle",
        }
    }

    pub fn victim(self) -> &'static str {
        match self {
            Self::Rows => "acme",
            Self::Schema => "kandy",
        }
    }

    pub fn hostile_login(self) -> Login {
        login(self.hostile())
    }

    fn role(self, tenant: &'static str) -> &'static str {
        match self {
            Self::Rows => "pgward_app",
            Self::Schema => tenant,
        }
    }

    fn table(self, tenant: &str) -> String {
        match self {
            Self::Rows => "public.orders".to_owned(),
            Self::Schema => format!("{tenant}.orders"),
        }
    }
}

pub fn login(tenant: &str) -> Login {
    Login { user: tenant.to_owned(), database: "app".to_owned(), secret: tenant.to_owned() }
}

pub enum Front {
    Pgward(Stage),
    Bouncer(Bouncer),
}

pub struct Place {
    pub level: Level,
    pub front: Front,
    pub address: SocketAddr,
    pub cluster: Cluster,
    /// All that is the witnesses' own holds this, and nobody else knows it.
    pub secret: String,
    /// In what PostgreSQL's catalogue shows to everybody.
    pub plain_mark: String,
    /// For another proxy like this one.
    text: String,
    superuser: tokio::sync::Mutex<Client>,
    words: Mutex<BTreeMap<&'static str, String>>,
    _folder: tempfile::TempDir,
}

/// Backends of a login. One is kept by the witness' session with a temporary table, one listens.
const BACKENDS: usize = 5;
/// Those that go from hand to hand.
pub const SHARED: usize = 4;

pub async fn cluster(name: &str) -> Cluster {
    let builder = Cluster::builder(name).setting("max_connections", "200");
    let builder = builder.setting("max_prepared_transactions", "5");
    builder.setting("shared_preload_libraries", "pg_stat_statements").start().await.unwrap()
}

/// The tenants besides those of every test, an issuer whose key is public, and a database without tenants.
fn text(port: u16, users: &str) -> String {
    let head = "
master_key = \"0123456789abcdef0123456789abcdef\"
listen = { address = \"127.0.0.1:0\", cores = 1, drain_timeout = \"5s\" }
context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
console.users.admin = \"console-password\"
";
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testkit/rsa.pub.pem");
    let usual = configuration(port, &format!("[pool]\nmax_per_login = {BACKENDS}\n"));
    format!(
        "{head}{usual}
[tenants.mallory]
cluster = \"main\"
database = \"app\"
home = \"lk\"
max_leases = 2
[tenants.galle]
isolation = \"schema\"
cluster = \"main\"
database = \"app\"
home = \"lk\"
max_leases = 2
[[issuers]]
issuer = \"keys\"
audience = \"pgward\"
algorithms = [\"RS256\"]
public_key_file = \"{key}\"
leeway = \"0s\"
[plain]
users_file = \"{users}\"
[plain.databases.ledger]
cluster = \"main\"
database = \"postgres\"
"
    )
}

impl Place {
    pub async fn of_pgward(level: Level) -> Self {
        let cluster = cluster(level.name()).await;
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users.txt");
        std::fs::write(&users, "\"ann\" \"password of ann\"\n").unwrap();
        let text = text(cluster.primary().port(), users.to_str().unwrap());
        furnish(&cluster).await;
        let (secret, plain_mark) = (mark(), mark());
        let client = cluster.primary().connect("app").await.unwrap();
        install(&client, &parse(&text)).await;
        client.batch_execute("create role ann login password 'password of ann'").await.unwrap();
        client.batch_execute(&data(&secret, &plain_mark)).await.unwrap();
        // It brought an extension that shows statements of others.
        install(&client, &parse(&text)).await;
        let stage = Stage::with(&text).await;
        let address = stage.address;
        Self::new(level, Front::Pgward(stage), address, cluster, text, folder, [secret, plain_mark]).await
    }

    pub async fn of_pgbouncer() -> Self {
        let cluster = cluster("bouncer").await;
        let (secret, plain_mark) = (mark(), mark());
        let bouncer = Bouncer::start(&cluster, &secret, SHARED).await;
        let address = bouncer.address;
        let (front, folder) = (Front::Bouncer(bouncer), tempfile::tempdir().unwrap());
        Self::new(Level::Rows, front, address, cluster, String::new(), folder, [secret, plain_mark]).await
    }

    async fn new(
        level: Level,
        front: Front,
        address: SocketAddr,
        cluster: Cluster,
        text: String,
        folder: tempfile::TempDir,
        [secret, plain_mark]: [String; 2],
    ) -> Self {
        let postgres = cluster.primary().connect("postgres").await.unwrap();
        postgres.simple_query(END_ALL).await.unwrap();
        postgres.batch_execute("create database app_clean template app").await.unwrap();
        let superuser = tokio::sync::Mutex::new(cluster.primary().connect("app").await.unwrap());
        let words = Mutex::new(BTreeMap::new());
        let place =
            Self { level, front, address, cluster, secret, plain_mark, text, superuser, words, _folder: folder };
        place.fill_words();
        place
    }

    fn fill_words(&self) {
        let (level, me, victim) = (self.level, self.level.hostile(), self.level.victim());
        let pgward = matches!(self.front, Front::Pgward(_));
        let role = |tenant| if pgward { level.role(tenant) } else { "app" };
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let forged = format!("1.k1.1.{}.7b7d.{}", hex(victim), "00".repeat(32));
        let peek = match level {
            Level::Rows => format!("select item from public.orders where tenant_id <> '{me}'"),
            Level::Schema => format!("select item from {victim}.orders"),
        };
        for (word, value) in [
            ("me", me.to_owned()),
            ("victim", victim.to_owned()),
            ("role", role(me).to_owned()),
            ("victim_role", role(victim).to_owned()),
            ("mine", level.table(me)),
            ("theirs", level.table(victim)),
            ("peek", peek),
            ("context", if pgward { "pgward.context" } else { "app.tenant_id" }.to_owned()),
            ("forged", if pgward { forged } else { victim.to_owned() }),
            ("deep", format!("{}1{}", "(".repeat(9000), ")".repeat(9000))),
            ("sum", format!("1{}", "+1".repeat(9000))),
            ("plain_mark", self.plain_mark.clone()),
            ("notes", if level == Level::Rows { "4242" } else { "4243" }.to_owned()),
            ("lock", crate::witness::lock(level).to_owned()),
        ] {
            self.word(word, value);
        }
    }

    pub fn stage(&self) -> &Stage {
        match &self.front {
            Front::Pgward(stage) => stage,
            Front::Bouncer(_) => panic!("there is no pgward here"),
        }
    }

    pub fn is_pgward(&self) -> bool {
        matches!(self.front, Front::Pgward(_))
    }

    pub fn settings(&self) -> &Settings {
        &self.stage().settings
    }

    /// Another proxy with the same configuration: all its backends are new logins.
    pub async fn later(&self) -> Stage {
        Stage::with(&self.text).await
    }

    pub fn password(&self, login: &Login) -> String {
        match &self.front {
            Front::Pgward(stage) if login.database == "app" => stage.token(&login.secret, "app"),
            Front::Pgward(_) => login.secret.clone(),
            Front::Bouncer(bouncer) => bouncer.password.clone(),
        }
    }

    pub fn word(&self, name: &'static str, value: String) {
        self.words.lock().unwrap().insert(name, value);
    }

    /// The text with its words in braces filled in.
    pub fn words(&self, text: &str) -> String {
        let words = self.words.lock().unwrap();
        words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(&format!("{{{word}}}"), value))
    }

    /// One column of one row, or of all rows, as the superuser sees it.
    pub async fn really(&self, sql: &str) -> String {
        let mut client = self.superuser.lock().await;
        if client.is_closed() {
            *client = self.cluster.primary().connect("app").await.unwrap();
        }
        let found = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        };
        found.iter().filter_map(row).collect::<Vec<_>>().join("\n")
    }

    /// As it was before anybody did anything to it.
    pub async fn restore(&self) {
        let postgres = self.cluster.primary().connect("postgres").await.unwrap();
        let open = "select gid from pg_prepared_xacts where database = 'app'";
        for row in postgres.query(open, &[]).await.unwrap() {
            let finish = format!("rollback prepared '{}'", row.get::<_, String>(0));
            self.really(&finish).await;
        }
        if !self.is_pgward() {
            // Before its sessions end: PgBouncer opens others at once, and they would begin with what was left.
            self.mend_roles().await;
        }
        postgres.simple_query(END_ALL).await.unwrap();
        postgres.batch_execute("drop database app with (force)").await.unwrap();
        postgres.batch_execute("create database app template app_clean").await.unwrap();
        if self.is_pgward() {
            self.mend_roles().await;
        } else {
            bouncer::recovered(self).await;
        }
    }

    /// Roles' own settings and passwords.
    pub async fn mend_roles(&self) {
        if !self.is_pgward() {
            let password = self.password(&login("app"));
            let text = format!(
                "alter role app reset all; alter role app in database app reset all; alter role app password '{password}'"
            );
            self.really(&text).await;
            return;
        }
        for role in ["pgward_app", "kandy", "galle"] {
            self.really(&format!("alter role {role} reset all; alter role {role} in database app reset all")).await;
        }
        let client = self.cluster.primary().connect("app").await.unwrap();
        install(&client, self.settings()).await;
    }

    /// What is the hostile tenant's own, which it may spoil for itself and for the cases after.
    pub async fn own(&self) -> String {
        let mine = self.words("{mine}");
        if self.really(&format!("select to_regclass('{mine}') is null")).await == "t" {
            return "gone".to_owned();
        }
        self.really(&self.words(OWN)).await
    }

    /// What must be the same after every case, each with a name.
    pub async fn digest(&self) -> BTreeMap<String, String> {
        let text = self.words(DIGEST);
        let found = self.really(&text).await;
        found.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }
}

pub fn mark() -> String {
    format!("zq{:016x}", rand::random::<u64>())
}

async fn install(client: &Client, settings: &Settings) {
    let cluster = ClusterName::parse("main").unwrap();
    pgward::tenant::Installation::new(settings, &cluster, "app").run(client).await.unwrap();
}

/// What the witnesses have, and what the hostile tenants have.
fn data(secret: &str, plain_mark: &str) -> String {
    format!(
        "create schema watching; grant usage on schema watching to public; create extension pg_stat_statements schema watching;
        update orders set item = '{secret} row ' || id where tenant_id in ('acme', 'globex');
        insert into orders (item, amount, tenant_id) select 'mallory ' || n, n, 'mallory' from generate_series(1, 100) n;
        create table handles (name text unique, tenant_id text not null default pgward.tenant());
        alter table handles enable row level security;
        alter table handles force row level security;
        create policy own_rows on handles for all using (tenant_id = (select pgward.tenant()))
            with check (tenant_id = (select pgward.tenant()));
        grant select, insert, update, delete on handles to pgward_app;
        insert into handles values ('taken', 'acme');
        select lo_from_bytea(4242, '{secret} large object');
        alter large object 4242 owner to pgward_app;
        select lo_from_bytea(4243, '{secret} large object');
        alter large object 4243 owner to kandy;
        set role kandy;
        update kandy.orders set item = '{secret} row ' || id;
        create function kandy.ours() returns text language sql as $$ select '{plain_mark}' $$;
        reset role;
        set role galle;
        create table galle.orders (id bigint generated by default as identity primary key, item text, amount numeric);
        insert into galle.orders (item, amount) select 'galle ' || n, n from generate_series(1, 100) n;
        reset role;
        analyze;"
    )
}

const END_ALL: &str = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'app'";

const OWN: &str = "select concat_ws(' ', count(*), sum(amount), count(distinct item), (select count(*) from pg_depend d
    join pg_namespace n on n.oid = refobjid and refclassid = 'pg_namespace'::regclass where nspname = '{me}'))
    from {mine} o where to_jsonb(o)->>'tenant_id' is not distinct from case when '{mine}' = 'public.orders' then '{me}' end";

const DIGEST: &str = "
with own as (select oid from pg_namespace where nspname in ('{me}', 'pg_toast') or nspname ~ '^pg_(toast_)?temp_'),
things(kind, thing) as (
    select 'shared rows', o::text from public.orders o where tenant_id <> '{me}'
    union all select 'relation', concat_ws(' ', n.nspname, relname, relowner::regrole, relacl, relrowsecurity,
        relforcerowsecurity, relkind, reloptions, relhasrules) from pg_class c join pg_namespace n on n.oid = relnamespace
        where relnamespace not in (select oid from own) and relkind <> 't'
    union all select 'column', concat_ws(' ', attrelid, attnum, attname, attacl) from pg_attribute a
        join pg_class c on c.oid = attrelid where relnamespace not in (select oid from own)
        and attrelid >= 16384 and relkind <> 't'
    union all select 'function', concat_ws(' ', oid::regprocedure, proowner::regrole, proacl, prosrc) from pg_proc
        where pronamespace not in (select oid from own) and oid >= 16384
    union all select 'built-in function', concat_ws(' ', oid, proacl) from pg_proc where oid < 16384 and proacl is not null
    union all select 'type', concat_ws(' ', oid::regtype, typacl) from pg_type where oid >= 16384
        and typnamespace not in (select oid from own) and typrelid = 0
    union all select 'operator', oid::regoperator::text from pg_operator where oid >= 16384
        and oprnamespace not in (select oid from own)
    union all select 'policy', p::text from pg_policy p
    union all select 'trigger', t::text from pg_trigger t join pg_class c on c.oid = tgrelid
        where relnamespace not in (select oid from own)
    union all select 'schema', n::text from pg_namespace n where oid not in (select oid from own)
    union all select 'role', concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
        rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil) from pg_authid
    union all select 'membership', m::text from pg_auth_members m
    union all select 'default privilege', d::text from pg_default_acl d
        where defaclrole <> '{role}'::regrole or '{role}' <> '{me}'
    union all select 'extension', extname from pg_extension
    union all select 'foreign server', srvname from pg_foreign_server
    union all select 'event trigger', concat_ws(' ', evtname, evtenabled) from pg_event_trigger
    union all select 'publication', pubname from pg_publication
    union all select 'subscription', subname from pg_subscription
    union all select 'database', concat_ws(' ', datname, datacl, datconnlimit, datallowconn) from pg_database
    union all select 'large object', concat_ws(' ', m.oid, lomowner::regrole, lomacl, lo_get(m.oid))
        from pg_largeobject_metadata m where m.oid in (4242, 4243)
    union all select 'comment', d::text from pg_description d where objoid >= 16384 and classoid = 'pg_class'::regclass
        and objoid not in (select oid from pg_class where relnamespace in (select oid from own))
    union all select 'role comment', d::text from pg_shdescription d
    union all select 'prepared transaction', gid from pg_prepared_xacts
    union all select 'replication slot', slot_name from pg_replication_slots
    union all select 'origin', o::text from pg_replication_origin o
    union all select 'tablespace', concat_ws(' ', spcname, spcacl) from pg_tablespace
    union all select 'cast', c::text from pg_cast c where oid >= 16384)
select kind || '=' || count(*) || ' ' || md5(string_agg(thing, chr(10) order by thing)) from things group by kind
union all select 'schema rows=' || md5(string_agg(o::text, chr(10) order by id)) from kandy.orders o";

pub const PATIENCE: Duration = Duration::from_secs(10);
