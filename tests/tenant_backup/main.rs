//! One tenant out of exports and backups, and disposal: `pgward tenant export|open|restore|hold|erase`, run as a program
//! while a proxy serves and a witness looks on.

#[path = "../support/mod.rs"]
mod support;

#[path = "../provision/place.rs"]
mod place;

mod erased;
mod exported;
mod held;
mod interrupted;
mod killed;
mod loaded;
mod restored;
mod world;

use place::{Place, session};
use support::{Stage, one};
use tokio_postgres::Client;

/// A tenant at some level, what it does, and how that is seen.
pub struct Tenant<'a> {
    pub place: &'a Place,
    pub name: &'a str,
    /// Of `pgward tenant add`.
    pub options: String,
    /// The first statement of its own.
    pub make: &'a str,
}

/// Moments to be killed at, in ms: close together, and so that a slow machine comes to the end as well.
pub fn growing(first: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(first), |wait| Some(wait + 20 + wait / 50))
}

/// A command that goes on meanwhile.
pub fn running(place: &Place, line: &str) -> tokio::task::JoinHandle<std::process::Output> {
    tokio::spawn(place::output(place.command(line)))
}

/// A command that has suspended a tenant at level `rows` waits until transactions of others have come to their end.
pub async fn waits_for_others(admin: &Client) -> bool {
    let sql = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
        and query like '%xact_start < $2%' and pid <> pg_backend_pid()";
    one(admin, sql).await == "t"
}

/// What it has, in the end as in the beginning.
const SEEN: &str = "select string_agg(item, ',' order by item) from orders";

impl<'a> Tenant<'a> {
    pub fn rows(place: &'a Place) -> Self {
        Self { place, name: "acme", options: "--isolation rows --database {name}".to_owned(), make: "select 1" }
    }

    pub fn schema(place: &'a Place, name: &'a str) -> Self {
        let options = "--isolation schema --database {name} --role app --role readonly".to_owned();
        Self { place, name, options, make: OWN }
    }

    pub fn database(place: &'a Place, name: &'a str) -> Self {
        let options = format!("--isolation database --database {name} --role app --role readonly");
        Self { place, name, options, make: OWN }
    }

    /// Adds it, and has it make something.
    pub async fn settle(&self, stage: &Stage) -> Client {
        self.place.done(&format!("add {} --home lk --cluster main {}", self.name, self.options)).await;
        let client = session(stage, self.name).await.client;
        client.batch_execute(&self.make.replace("NAME", self.name)).await.unwrap();
        client.batch_execute("insert into orders (item) values ('a'), ('b'), ('c')").await.unwrap();
        client
    }

    pub async fn sees(&self, stage: &Stage) -> String {
        one(&session(stage, self.name).await.client, SEEN).await
    }
}

/// Names that need quotes, references in a circle, what is computed, what is checked by a function, and privileges.
const OWN: &str = "
    create table orders (id bigint generated always as identity primary key, item text unique, first bigint references orders,
        twice text generated always as (item || item) stored);
    create table \"Odd 'name'\" (\"a \"\"b\" int, c json);
    insert into \"Odd 'name'\" values (1, '{\"x\": 1}'), (1, '{\"x\": 1}'), (2, null);
    create function short(what text) returns bool language sql immutable as 'select length(what) < 100';
    alter table orders add constraint short check (short(item));
    create view few as select item from orders;
    create table events (at date, what text) partition by range (at);
    create table events_old partition of events for values from ('2000-01-01') to ('2020-01-01');
    insert into events values ('2010-01-01', 'old');
    grant select on orders, few to NAME_readonly;
";

/// A tenant that must not notice anything.
pub struct Witness(pub Client);

impl Witness {
    pub async fn new(stage: &Stage) -> Self {
        Self(session(stage, "witness").await.client)
    }

    pub async fn sees_what_it_saw(&self) {
        assert_eq!(one(&self.0, SEEN).await, "seen 1,seen 2,seen 3");
    }
}
