//! Two hundred clients of fifty tenants over ten backends, every answer checked: nobody ever sees a row
//! of another tenant, whatever runs beside it and however clients leave.
//!
//! PGWARD_LOAD_SECONDS says how long, 8 by default; PGWARD_LOAD_SEED repeats one run's choices.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::{Stage, cluster};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const TENANTS: usize = 50;
const CLIENTS: usize = 200;
const BACKENDS: usize = 10;

/// What all clients share.
struct Load {
    stage: Stage,
    over: AtomicBool,
    /// Checked answers by tenant.
    checked: Vec<AtomicU64>,
    left: AtomicU64,
}

/// One client, who numbers what it writes so that it can tell its own rows.
struct Player {
    load: Arc<Load>,
    number: usize,
    tenant: String,
    chance: StdRng,
    written: u64,
}

/// A connection and the task that drives it; aborting the task closes the socket without a word.
struct Connected {
    client: Client,
    task: tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("an error that nobody asked for: {0:?}")]
    Unexpected(#[from] tokio_postgres::Error),
    #[error("ISOLATION: {0}")]
    Foreign(String),
    #[error("{0}")]
    Answer(String),
}

impl Player {
    async fn play(mut self) -> Result<(), Wrong> {
        while !self.load.over.load(Ordering::Relaxed) {
            let connected = self.connect().await?;
            let stay = self.chance.random_range(3..25);
            for _ in 0..stay {
                if self.load.over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.act(&connected.client).await?;
            }
            self.leave(connected).await?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Connected, Wrong> {
        let (client, connection) = tokio_postgres::connect(&self.load.stage.url(&self.tenant, "app"), NoTls).await?;
        Ok(Connected { client, task: tokio::spawn(connection) })
    }

    async fn act(&mut self, client: &Client) -> Result<(), Wrong> {
        match self.chance.random_range(0..11) {
            0..3 => self.read_simple(client).await?,
            3..6 => self.read_prepared(client).await?,
            6 => self.write_and_keep(client).await?,
            7 => self.write_and_roll_back(client).await?,
            8 => self.reach_out(client).await?,
            9 => self.attack(client).await?,
            _ => self.fail(client).await?,
        }
        let tenant = self.number % TENANTS;
        self.load.checked[tenant].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn own(&self, tenant: Option<&str>) -> Result<(), Wrong> {
        if tenant == Some(&self.tenant) {
            return Ok(());
        }
        Err(Wrong::Foreign(format!("{} was shown a row of {tenant:?}", self.tenant)))
    }

    async fn read_simple(&mut self, client: &Client) -> Result<(), Wrong> {
        let rows = simple(client, "select tenant_id, item from orders").await?;
        for row in &rows {
            self.own(row.get(0))?;
        }
        let loaded = rows.iter().filter(|row| row.get(1).is_some_and(|item| item.starts_with(&self.tenant))).count();
        if loaded == 100 { Ok(()) } else { Err(Wrong::Answer(format!("{loaded} rows instead of 100"))) }
    }

    async fn read_prepared(&mut self, client: &Client) -> Result<(), Wrong> {
        let from = self.chance.random_range(1..90).to_string();
        let sql =
            "select tenant_id, pgward.tenant() from orders where amount >= $1::text::numeric order by amount limit 10";
        let statement = client.prepare(sql).await?;
        for _ in 0..self.chance.random_range(1..4) {
            let rows = client.query(&statement, &[&from]).await?;
            for row in &rows {
                self.own(row.get(0))?;
                self.own(row.get(1))?;
            }
            if rows.len() < 10 {
                return Err(Wrong::Answer(format!("{} rows instead of 10", rows.len())));
            }
        }
        Ok(())
    }

    fn note(&mut self) -> String {
        self.written += 1;
        format!("load {} {} {}", self.tenant, self.number, self.written)
    }

    /// How many rows of this name there are, each checked.
    async fn count(&self, client: &Client, item: &str) -> Result<usize, Wrong> {
        let rows = client.query("select tenant_id from orders where item = $1", &[&item]).await?;
        rows.iter().try_for_each(|row| self.own(row.get(0)))?;
        Ok(rows.len())
    }

    async fn expect(&self, client: &Client, item: &str, count: usize) -> Result<(), Wrong> {
        match self.count(client, item).await? {
            found if found == count => Ok(()),
            found => Err(Wrong::Answer(format!("{found} rows \"{item}\" instead of {count}"))),
        }
    }

    async fn write_and_keep(&mut self, client: &Client) -> Result<(), Wrong> {
        let item = self.note();
        let sql = "insert into orders (item, amount) values ($1, 0) returning tenant_id";
        self.own(client.query_one(sql, &[&item]).await?.get(0))?;
        self.expect(client, &item, 1).await?;
        let changed = client.execute("update orders set amount = -1 where item = $1", &[&item]).await?;
        let deleted = client.execute("delete from orders where item = $1", &[&item]).await?;
        self.expect(client, &item, 0).await?;
        if (changed, deleted) == (1, 1) { Ok(()) } else { Err(Wrong::Answer(format!("{changed}, {deleted}"))) }
    }

    async fn write_and_roll_back(&mut self, client: &Client) -> Result<(), Wrong> {
        let item = self.note();
        client.batch_execute("begin").await?;
        client.execute("insert into orders (item) values ($1)", &[&item]).await?;
        self.expect(client, &item, 1).await?;
        client.batch_execute("rollback").await?;
        self.expect(client, &item, 0).await
    }

    /// Asks for another tenant's rows, by every way that SQL has.
    async fn reach_out(&mut self, client: &Client) -> Result<(), Wrong> {
        let other = format!("t{}", (self.number + self.chance.random_range(1..TENANTS)) % TENANTS);
        for sql in [
            format!("select tenant_id from orders where tenant_id = '{other}'"),
            format!("update orders set item = 'taken' where tenant_id = '{other}' returning tenant_id"),
            format!("begin; delete from orders where tenant_id = '{other}' returning tenant_id; rollback"),
        ] {
            if let Some(row) = simple(client, &sql).await?.first() {
                return Err(Wrong::Foreign(format!("{} got at a row of {:?}: {sql}", self.tenant, row.get(0))));
            }
        }
        let sql = format!("insert into orders (item, tenant_id) values ('given', '{other}')");
        self.refused(client, &sql, "42501").await
    }

    /// Tries to become another tenant, or to harm whoever shares the role, and goes on as itself.
    async fn attack(&mut self, client: &Client) -> Result<(), Wrong> {
        let other = format!("t{}", (self.number + self.chance.random_range(1..TENANTS)) % TENANTS);
        let hex: String = other.bytes().map(|byte| format!("{byte:02x}")).collect();
        let stolen = "select string_agg(tenant_id, ',') from orders";
        let attacks = [
            (format!("set pgward.context = '2.k1.1.1.{hex}.7b7d.00'; {stolen}"), "28000"),
            (
                format!(
                    "do $$ begin perform set_config('pgward.context', '2.k1.1.1.{hex}.7b7d.00', false); end $$; {stolen}"
                ),
                "28000",
            ),
            (format!("set role = '{other}'"), "22023"),
            ("set session authorization postgres".to_owned(), "42501"),
            ("drop owned by current_user".to_owned(), "42501"),
            ("select pg_terminate_backend(pid) from pg_locks".to_owned(), "42501"),
            ("select query from pg_stat_activity".to_owned(), "42501"),
            ("alter table orders no force row level security".to_owned(), "42501"),
            ("truncate orders".to_owned(), "42501"),
            ("set row_security = off; select * from orders".to_owned(), "42501"),
            (
                "create function pg_temp.f() returns text language sql as 'select 1 / 0'; select pg_temp.f()"
                    .to_owned(),
                "22012",
            ),
            ("create temp table orders as select 'none' as tenant_id; select 1 / 0".to_owned(), "22012"),
        ];
        let (sql, code) = &attacks[self.chance.random_range(0..attacks.len())];
        self.refused(client, sql, code).await?;
        self.read_simple(client).await
    }

    /// A transaction that fails half-way, or a session that throws its settings away.
    async fn fail(&mut self, client: &Client) -> Result<(), Wrong> {
        if self.chance.random() {
            client.batch_execute(if self.chance.random() { "reset all" } else { "discard all" }).await?;
            return self.read_simple(client).await;
        }
        let item = self.note();
        client.batch_execute("begin").await?;
        client.execute("insert into orders (item) values ($1)", &[&item]).await?;
        self.refused(client, "select 1 / 0", "22012").await?;
        self.refused(client, "select 1", "25P02").await?;
        client.batch_execute("commit").await?;
        self.expect(client, &item, 0).await
    }

    async fn refused(&self, client: &Client, sql: &str, code: &str) -> Result<(), Wrong> {
        match client.simple_query(sql).await {
            Ok(_) => Err(Wrong::Answer(format!("{sql} was done"))),
            Err(error) if support::code(&error) == code => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says good-bye, or goes without a word: at rest, in a transaction, or in the middle of a statement.
    async fn leave(&mut self, connected: Connected) -> Result<(), Wrong> {
        self.load.left.fetch_add(1, Ordering::Relaxed);
        let item = self.note();
        match self.chance.random_range(0..4) {
            0 => {
                let Connected { ref client, .. } = connected;
                client.batch_execute("begin").await?;
                client.execute("insert into orders (item) values ($1)", &[&item]).await?;
            }
            1 => {
                let batch = format!("begin; insert into orders (item) values ('{item}'); select pg_sleep(0.05)");
                let wait = Duration::from_millis(self.chance.random_range(0..20));
                let _ = tokio::time::timeout(wait, connected.client.simple_query(&batch)).await;
            }
            2 => {
                let long = "select tenant_id, item, repeat('x', 2000) from orders, generate_series(1, 50)";
                let wait = Duration::from_millis(self.chance.random_range(0..20));
                let _ = tokio::time::timeout(wait, connected.client.simple_query(long)).await;
            }
            _ => {}
        }
        drop(connected);
        Ok(())
    }
}

async fn simple(client: &Client, sql: &str) -> Result<Vec<tokio_postgres::SimpleQueryRow>, Wrong> {
    let messages = client.simple_query(sql).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// pgward's backends, as the server sees them.
async fn backends(superuser: &Client) -> HashSet<i32> {
    let sql = "select pid from pg_stat_activity where usename = 'pgward_app'";
    superuser.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_ever_sees_anothers_row() {
    let seconds = std::env::var("PGWARD_LOAD_SECONDS").map_or(8, |text| text.parse().unwrap());
    let seed = std::env::var("PGWARD_LOAD_SEED")
        .map_or_else(|_| u64::from(rand::random::<u32>()), |text| text.parse().unwrap());
    println!("PGWARD_LOAD_SECONDS={seconds} PGWARD_LOAD_SEED={seed}");
    let extra = format!("[pool]\nmax_per_login = {BACKENDS}\nacquire_timeout = \"30s\"\n");
    let load = Arc::new(Load {
        stage: Stage::new(&extra).await,
        over: AtomicBool::new(false),
        checked: (0..TENANTS).map(|_| AtomicU64::new(0)).collect(),
        left: AtomicU64::new(0),
    });
    let mut players = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let chance = StdRng::seed_from_u64(seed + number as u64);
        let tenant = format!("t{}", number % TENANTS);
        players.spawn(Player { load: Arc::clone(&load), number, tenant, chance, written: 0 }.play());
    }
    let superuser = cluster().await.primary().connect("app").await.unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut most = 0;
    while Instant::now() < end {
        if let Some(ended) = players.try_join_next() {
            ended.unwrap().unwrap();
        }
        // A process takes a moment to end after its connection has: such a one is not there twice.
        let first = backends(&superuser).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let open = backends(&superuser).await.intersection(&first).count();
        assert!(open <= BACKENDS, "{open} backends");
        most = most.max(open);
    }
    load.over.store(true, Ordering::Relaxed);
    while let Some(ended) = players.join_next().await {
        ended.unwrap().unwrap();
    }
    let misplaced = "select count(*) from orders where item like 'load %' and split_part(item, ' ', 2) <> tenant_id
            or item in ('given', 'taken')";
    assert_eq!(superuser.query_one(misplaced, &[]).await.unwrap().get::<_, i64>(0), 0, "rows in the wrong place");
    let left_over = "select count(*) from orders where item like 'load %'";
    support::until("the roll-back of what was left open", async || {
        superuser.query_one(left_over, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let checked: Vec<u64> = load.checked.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let switches = load.stage.metric("pgward_tenant_switches_total").await;
    println!(
        "{} checked, {} to {} a tenant; {} left and came again; {switches} switches over {most} backends",
        checked.iter().sum::<u64>(),
        checked.iter().min().unwrap(),
        checked.iter().max().unwrap(),
        load.left.load(Ordering::Relaxed)
    );
    assert!(checked.iter().all(|count| *count > 0), "a tenant got nothing done: {checked:?}");
    assert!(switches > 0.0, "no backend went from tenant to tenant");
    assert_eq!(load.stage.metric("pgward_handovers_failed_total").await, 0.0);
}

/// A client goes while the hand-over of its backend is under way, its statement behind it. Until the
/// server's process has ended, it counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_whose_client_has_gone_keeps_its_place_in_the_budget() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let superuser = cluster().await.primary().connect("app").await.unwrap();
    // A role that no other test of this binary uses, so that its backends can be counted.
    let globex = stage.try_connect(&stage.url("globex", "readonly")).await.unwrap();
    for _ in 0..30 {
        globex.simple_query("select 1").await.unwrap();
        let (acme, connection) = tokio_postgres::connect(&stage.url("acme", "readonly"), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let _ = tokio::time::timeout(Duration::from_micros(200), acme.simple_query("select pg_sleep(2)")).await;
        connection.abort();
        globex.simple_query("select 1").await.unwrap();
        let sql = "select count(*) from pg_stat_activity where usename = 'pgward_readonly'";
        let open: i64 = superuser.query_one(sql, &[]).await.unwrap().get(0);
        assert!(open <= 1, "{open} backends are open where one is allowed");
    }
}
