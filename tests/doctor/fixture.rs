//! A database whose every name is odd, made well, and then spoiled one thing at a time.

#![allow(dead_code, reason = "each test binary uses its own part")]

use pgward::base::ClusterName;
use pgward::config::Settings;
use pgward::doctor::{self, Breadth, Finding, Found, Mend, Question};
use pgward::local::{Cluster, Server};
use tokio_postgres::Client;

use crate::support::parse;

/// A schema and a table; `we"ird; drop` as SQL quotes it.
pub const SCHEMA: &str = "\"we\"\"ird; drop\"";
pub const TABLE: &str = "\"we\"\"ird; drop\".\"we\"\"ird; drop\"";

pub struct Fixture {
    pub name: String,
    pub settings: Settings,
    pub client: Client,
}

pub fn configuration(name: &str, port: u16) -> String {
    format!(
        "master_key = \"0123456789abcdef0123456789abcdef\"
listen.address = \"127.0.0.1:0\"
context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
[[issuers]]
issuer = \"tests\"
audience = \"pgward\"
algorithms = [\"HS256\"]
secret = \"0123456789abcdef0123456789abcdef\"
[clusters.main]
logins = {{ app = '{name} a\"pp; drop', readonly = '{name}_ro' }}
tls.mode = \"off\"
[[clusters.main.servers]]
name = \"main-1\"
host = \"127.0.0.1\"
port = {port}
region = \"lk\"
[tenants.acme]
cluster = \"main\"
database = '{name} d\"b'
search_path = ['we\"ird; drop']
home = \"lk\"
[tenants.kandy]
isolation = \"schema\"
cluster = \"main\"
database = '{name} d\"b'
schema = 'kan\"dy; drop'
roles = {{ app = '{name} kan\"dy' }}
home = \"lk\"
[tenants.galle]
isolation = \"schema\"
cluster = \"main\"
database = '{name} d\"b'
roles = {{ app = '{name} galle' }}
home = \"lk\"
[tenants.pune]
isolation = \"database\"
cluster = \"main\"
database = '{name} o\"wn'
roles = {{ app = '{name} pune' }}
home = \"lk\"
"
    )
}

/// A table as a tenants' table should be.
pub fn good(table: &str, columns: &str) -> String {
    format!(
        "create table {table} (id bigint generated always as identity, tenant_id text not null default pgward.tenant(),
            {columns}, primary key (tenant_id, id));
        alter table {table} enable row level security;
        alter table {table} force row level security;
        create policy \"own; rows\" on {table} for all
            using (tenant_id = (select pgward.tenant())) with check (tenant_id = (select pgward.tenant()));
        grant select, insert, update, delete on {table} to {{app}};"
    )
}

impl Fixture {
    pub async fn new(server: &Server, name: &str) -> Self {
        let settings = parse(&configuration(name, server.port()));
        let administrator = server.connect("postgres").await.unwrap();
        for database in [format!("{name} d\"b"), format!("{name} o\"wn")] {
            let database = database.replace('"', "\"\"");
            administrator.batch_execute(&format!("create database \"{database}\"")).await.unwrap();
        }
        let client = connect(server, &format!("{name} d\"b")).await;
        let fixture = Self { name: name.to_owned(), settings, client };
        let own = connect(server, &format!("{name} o\"wn")).await;
        let cluster = ClusterName::parse("main").unwrap();
        for (client, database) in [(&fixture.client, "d\"b"), (&own, "o\"wn")] {
            let database = format!("{name} {database}");
            pgward::tenant::Installation::new(&fixture.settings, &cluster, &database).run(client).await.unwrap();
        }
        fixture.run(&format!("create schema {SCHEMA}; grant usage on schema {SCHEMA} to {{app}}, {{ro}};")).await;
        fixture.run(&good(TABLE, "item text")).await;
        fixture
    }

    /// Statements, with roles and databases in braces.
    pub fn sql(&self, text: &str) -> String {
        let name = &self.name;
        text.replace("{app}", &format!("\"{name} a\"\"pp; drop\""))
            .replace("{ro}", &format!("{name}_ro"))
            .replace("{kandy}", &format!("\"{name} kan\"\"dy\""))
            .replace("{galle}", &format!("\"{name} galle\""))
            .replace("{db}", &format!("\"{name} d\"\"b\""))
            .replace("{own}", &format!("\"{name} o\"\"wn\""))
            .replace("{name}", name)
            .replace("{S}", SCHEMA)
            .replace("{T}", TABLE)
            .replace("{K}", "\"kan\"\"dy; drop\"")
    }

    pub async fn run(&self, text: &str) {
        let sql = self.sql(text);
        self.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub fn question(&self) -> Question {
        let cluster = ClusterName::parse("main").unwrap();
        Question::new(&self.settings, &cluster, &format!("{} d\"b", self.name), &["tenant_id".to_owned()])
    }

    pub async fn found(&self) -> Vec<Finding> {
        let Found { findings, not_examined } = self.examined(&self.client).await;
        assert_eq!(not_examined, [], "all can be looked at");
        findings
    }

    /// Of the database and of the cluster.
    pub async fn examined(&self, client: &Client) -> Found {
        let question = self.question();
        let mut found = doctor::examine(client, &question, Breadth::DatabaseAndCluster).await.unwrap();
        found.database.findings.extend(found.cluster.findings);
        found.database.not_examined.extend(found.cluster.not_examined);
        found.database
    }

    /// What PostgreSQL and pgward install leave open is mended; what else is wrong must be a test's doing.
    pub async fn well(&self) {
        let others = |finding: &Finding| finding.rule.id == "database-reachable";
        let found = self.found().await;
        doctor::mend(&self.client, found.iter().filter(|finding| !others(finding))).await.unwrap();
        let left = self.found().await;
        let left: Vec<_> = left.iter().filter(|f| !others(f) && f.rule.id != "prepared-transactions").collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}

pub async fn connect(server: &Server, database: &str) -> Client {
    let config: tokio_postgres::Config = server.url().parse().unwrap();
    let (client, connection) = config.clone().dbname(database).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// One thing that is wrong.
pub struct Case {
    pub rule: &'static str,
    /// How doctor names it.
    pub object: String,
    pub wrong: String,
    /// What ends it where there is only advice.
    pub right: Option<String>,
    /// What is cleared away before the next case.
    pub tidy: String,
}

pub fn case(rule: &'static str, object: &str, wrong: &str) -> Case {
    Case { rule, object: object.to_owned(), wrong: wrong.to_owned(), right: None, tidy: String::new() }
}

impl Case {
    pub fn right(mut self, sql: &str) -> Self {
        self.right = Some(sql.to_owned());
        self
    }

    pub fn tidy(mut self, sql: &str) -> Self {
        self.tidy = sql.to_owned();
        self
    }
}

/// Each is named, mended by what doctor says, and gone.
pub async fn play(cluster: &Cluster, name: &str, cases: Vec<Case>) {
    let fixture = Fixture::new(cluster.primary(), name).await;
    fixture.well().await;
    for Case { rule, object, wrong, right, tidy } in cases {
        let object = fixture.sql(&object);
        let is = |finding: &&Finding| finding.rule.id == rule && finding.object == object;
        fixture.run(&wrong).await;
        let found = fixture.found().await;
        let Some(finding) = found.iter().find(is) else {
            let other = found.iter().filter(|f| f.rule.id == rule || f.rule.id != "database-reachable");
            panic!("{wrong}\nis not found as {rule}: {object}, but as {:#?}", other.collect::<Vec<_>>());
        };
        match (&finding.mend, right) {
            (Mend::Sql(_), None) => {
                assert_eq!(doctor::mend(&fixture.client, [finding].into_iter()).await.unwrap(), 1);
            }
            (Mend::Advice(_), Some(right)) => fixture.run(&right).await,
            (mend, right) => panic!("{rule}: {mend:?}, and the test has {right:?}"),
        }
        let left = fixture.found().await;
        assert!(!left.iter().any(|finding| is(&finding)), "{finding:#?} is not gone");
        fixture.run(&tidy).await;
    }
    let left = fixture.found().await;
    let known = ["database-reachable", "prepared-transactions"];
    let left: Vec<_> = left.iter().filter(|f| !known.contains(&f.rule.id)).collect();
    assert!(left.is_empty(), "mended and tidied, and yet {left:#?}");
}
