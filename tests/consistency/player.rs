//! One client: it writes its own register and list and its tenant's counters, reads what anybody of the tenant writes, by
//! every way that the protocol has, and remembers all of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage, Statement};

use super::field::Field;
use super::history::{Action, Event, Kind, Moment, Object, Outcome, Shown};

/// Writes of one register or list, until there is another.
const WRITES: u64 = 30;

/// Nothing takes so long: failover_timeout and what a frozen server costs lie below.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server's end, or its being away, may cost. Anything else nobody has asked for.
const TOLD: [&str; 7] = ["08006", "08007", "40001", "57P01", "57P02", "57P03", "closed"];

pub struct Player {
    field: Arc<Field>,
    number: usize,
    tenant: usize,
    chance: StdRng,
    own: Vec<Own>,
    made: usize,
    session: usize,
    played: Played,
}

/// What came of it.
#[derive(Default)]
pub struct Played {
    pub events: Vec<Event>,
    /// How often there was which.
    pub errors: BTreeMap<String, usize>,
    /// Why it gave up, if it did.
    pub wrong: Option<Wrong>,
}

/// What only this client writes.
struct Own {
    object: Arc<Object>,
    last: u64,
}

struct Session {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Simple,
    Extended,
    Prepared,
}

/// Something to be written.
struct Write {
    object: Arc<Object>,
    /// Of [`Player::own`].
    own: Option<usize>,
    value: u64,
}

type Answer = Result<Vec<String>, Error>;

/// The answer is not one that there could be, or none came.
pub type Wrong = String;

impl Player {
    pub fn new(field: &Arc<Field>, number: usize, tenant: usize, seed: u64) -> Self {
        let mut player = Self {
            field: Arc::clone(field),
            number,
            tenant,
            chance: StdRng::seed_from_u64(seed),
            own: Vec::new(),
            made: 0,
            session: 0,
            played: Played::default(),
        };
        player.own = [Kind::Register, Kind::List].map(|kind| player.another(kind)).into();
        player
    }

    /// Until all is over, or something is wrong.
    pub async fn play(mut self) -> Played {
        self.played.wrong = self.stay().await.err();
        self.played
    }

    async fn stay(&mut self) -> Result<(), Wrong> {
        while !self.field.is_over() {
            let mut session = self.connect().await?;
            let stay = self.chance.random_range(20..300);
            for _ in 0..stay {
                if self.field.is_over() || session.client.is_closed() {
                    break;
                }
                let acted = tokio::time::timeout(PATIENCE, self.act(&mut session)).await;
                acted.map_err(|_| format!("session {} got no answer within {PATIENCE:?}", self.session))??;
                // Now and then a while in which replicas catch up with it.
                let pause = if self.chance.random_ratio(1, 12) { 30..200 } else { 0..6 };
                tokio::time::sleep(Duration::from_millis(self.chance.random_range(pause))).await;
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Session, Wrong> {
        let begin = self.field.now();
        loop {
            let url = self.field.stage.url(&format!("t{}", self.tenant), "app");
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    self.session = self.field.number_session();
                    return Ok(Session { client, prepared: HashMap::new() });
                }
                Err(error) => self.tell(&error)?,
            }
            if self.field.now() - begin > PATIENCE {
                return Err(format!("no login within {PATIENCE:?}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn act(&mut self, session: &mut Session) -> Result<(), Wrong> {
        match self.chance.random_range(0..100) {
            0..12 => self.write(session).await,
            12..15 => self.write_in_a_transaction(session).await,
            15..18 => self.write_and_read_at_once(session).await,
            18..28 => self.read_in_a_transaction(session).await,
            _ => self.read(session).await,
        }
    }

    // ------------------------------------------------------------------------------------- writing

    async fn write(&mut self, session: &mut Session) -> Result<(), Wrong> {
        let (write, way) = (self.some_write(), self.way());
        let sent = self.field.now();
        let answer = session.run(way, sql_to_write(write.object.kind), &write.parameters()).await;
        self.wrote(&write, sent, answer)
    }

    async fn write_in_a_transaction(&mut self, session: &mut Session) -> Result<(), Wrong> {
        let (write, way) = (self.some_write(), self.way());
        let sent = self.field.now();
        let done = async {
            session.client.batch_execute("begin").await?;
            session.run(way, sql_to_write(write.object.kind), &write.parameters()).await
        };
        let answer = match done.await {
            Ok(answer) => session.client.batch_execute("commit").await.map(|()| answer),
            Err(error) => {
                // Nobody has asked for the commit, whatever became of the session.
                self.tell(&error)?;
                self.note_write(&write, sent, Some(write.value), Outcome::Refused);
                if !session.client.is_closed()
                    && let Err(error) = session.client.batch_execute("rollback").await
                {
                    self.tell(&error)?;
                }
                return Ok(());
            }
        };
        self.wrote(&write, sent, answer)
    }

    /// The read is sent before the write has been answered, and comes after it all the same.
    async fn write_and_read_at_once(&mut self, session: &mut Session) -> Result<(), Wrong> {
        let write = self.some_write();
        let (to_write, to_read) = (sql_to_write(write.object.kind), sql_to_read(write.object.kind));
        for sql in [to_write, to_read] {
            if let Err(error) = session.prepare(sql).await {
                return self.tell(&error);
            }
        }
        let sent = self.field.now();
        let parameters = write.parameters();
        let (written, read) = tokio::join!(
            session.prepared(to_write, &parameters),
            session.prepared(to_read, std::slice::from_ref(&write.object.key))
        );
        self.wrote(&write, sent, written)?;
        match read {
            Ok(answer) => self.saw(&write.object, sent, &answer),
            Err(error) => self.tell(&error),
        }
    }

    fn some_write(&mut self) -> Write {
        let own = self.chance.random_range(0..3);
        match self.own.get_mut(own) {
            Some(mine) => {
                mine.last += 1;
                Write { object: Arc::clone(&mine.object), own: Some(own), value: mine.last }
            }
            None => {
                let objects = self.field.recent(self.tenant);
                let counters: Vec<_> = objects.into_iter().filter(|object| object.kind == Kind::Counter).collect();
                let object = Arc::clone(&counters[self.chance.random_range(0..counters.len())]);
                Write { object, own: None, value: 1 }
            }
        }
    }

    fn wrote(&mut self, write: &Write, sent: Moment, answer: Answer) -> Result<(), Wrong> {
        let value = match &answer {
            Ok(answer) => number(&answer[0])?,
            Err(_) if write.object.kind == Kind::Counter => None,
            Err(_) => Some(write.value),
        };
        let outcome = match &answer {
            Ok(_) => Outcome::Acknowledged,
            Err(error) if was_refused(error) => Outcome::Refused,
            Err(_) => Outcome::InDoubt,
        };
        self.note_write(write, sent, value, outcome);
        answer.map_or_else(|error| self.tell(&error), |_| Ok(()))
    }

    fn note_write(&mut self, write: &Write, sent: Moment, value: Option<u64>, outcome: Outcome) {
        let value = value.filter(|_| write.own.is_some() || outcome == Outcome::Acknowledged);
        self.note(&write.object, sent, Action::Write { value, outcome }, None);
        // What is in doubt may come about at any later time: nothing is written behind it.
        if let Some(own) = write.own.filter(|_| outcome == Outcome::InDoubt || write.value >= WRITES) {
            self.own[own] = self.another(write.object.kind);
        }
    }

    fn another(&mut self, kind: Kind) -> Own {
        self.made += 1;
        let key = format!("{kind:?}-{}-{}", self.number, self.made).to_lowercase();
        Own { object: self.field.add(self.tenant, kind, key), last: 0 }
    }

    // ------------------------------------------------------------------------------------- reading

    async fn read(&mut self, session: &mut Session) -> Result<(), Wrong> {
        let (object, way) = (self.some_object(), self.way());
        let sent = self.field.now();
        match session.run(way, sql_to_read(object.kind), std::slice::from_ref(&object.key)).await {
            Ok(answer) => self.saw(&object, sent, &answer),
            Err(error) => self.tell(&error),
        }
    }

    async fn read_in_a_transaction(&mut self, session: &mut Session) -> Result<(), Wrong> {
        let begin = ["begin read only", "start transaction isolation level repeatable read, read only"];
        let begin = begin[self.chance.random_range(0..begin.len())];
        let sent = self.field.now();
        if let Err(error) = session.client.batch_execute(begin).await {
            return self.tell(&error);
        }
        for _ in 0..self.chance.random_range(1..4) {
            let (object, way) = (self.some_object(), self.way());
            match session.run(way, sql_to_read(object.kind), std::slice::from_ref(&object.key)).await {
                Ok(answer) => self.saw(&object, sent, &answer)?,
                Err(error) => {
                    self.tell(&error)?;
                    break;
                }
            }
        }
        if session.client.is_closed() {
            return Ok(());
        }
        session.client.batch_execute("commit").await.or_else(|error| self.tell(&error))
    }

    /// One of its own, or any of the tenant's.
    fn some_object(&mut self) -> Arc<Object> {
        let own = self.chance.random_range(0..2 * self.own.len());
        if let Some(own) = self.own.get(own) {
            return Arc::clone(&own.object);
        }
        let objects = self.field.recent(self.tenant);
        Arc::clone(&objects[self.chance.random_range(0..objects.len())])
    }

    fn saw(&mut self, object: &Arc<Object>, sent: Moment, answer: &[String]) -> Result<(), Wrong> {
        let [what, port] = answer else { return Err(format!("{object}: {answer:?}")) };
        let port = port.parse().map_err(|_| format!("{object}: {answer:?}"))?;
        let shown = match object.kind {
            Kind::Register | Kind::Counter => Shown::Value(number(what)?.unwrap_or(0)),
            Kind::List => {
                let elements = what.split(',').filter(|text| !text.is_empty()).map(number);
                Shown::List(elements.filter_map(Result::transpose).collect::<Result<_, _>>()?)
            }
        };
        self.note(object, sent, Action::Read(shown), Some(port));
        Ok(())
    }

    // ---------------------------------------------------------------------------------------- both

    fn way(&mut self) -> Way {
        [Way::Simple, Way::Extended, Way::Prepared][self.chance.random_range(0..3)]
    }

    fn note(&mut self, object: &Arc<Object>, sent: Moment, action: Action, by: Option<u16>) {
        let (session, object, done) = (self.session, Arc::clone(object), self.field.now());
        self.played.events.push(Event { session, object, sent, done, action, by });
        self.field.done.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&mut self, error: &Error) -> Result<(), Wrong> {
        let closed = error.is_closed().then_some("closed");
        let code = error.code().map(|code| code.code()).or(closed).unwrap_or("none");
        *self.played.errors.entry(code.to_owned()).or_default() += 1;
        if TOLD.contains(&code) {
            Ok(())
        } else {
            Err(format!(
                "session {} of t{}, which has done {:?}: {error:?}",
                self.session,
                self.tenant,
                self.played.events.last()
            ))
        }
    }
}

impl Write {
    fn parameters(&self) -> [String; 2] {
        [self.object.key.clone(), self.value.to_string()]
    }
}

impl Session {
    async fn run(&mut self, way: Way, sql: &'static str, parameters: &[String]) -> Answer {
        match way {
            Way::Simple => {
                let text = parameters.iter().enumerate().fold(sql.to_owned(), |text, (i, parameter)| {
                    text.replace(&format!("${}", i + 1), &format!("'{parameter}'"))
                });
                let messages = self.client.simple_query(&text).await?;
                let row = messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                Ok(row.map(|row| (0..row.len()).map(|i| row.get(i).unwrap().to_owned()).collect()).unwrap_or_default())
            }
            Way::Extended => {
                let parameters: Vec<_> = parameters.iter().map(|text| (text as _, Type::TEXT)).collect();
                Ok(texts(&self.client.query_typed_one(sql, &parameters).await?))
            }
            Way::Prepared => {
                self.prepare(sql).await?;
                self.prepared(sql, parameters).await
            }
        }
    }

    async fn prepare(&mut self, sql: &'static str) -> Result<(), Error> {
        if !self.prepared.contains_key(sql) {
            let types = [Type::TEXT, Type::TEXT];
            let statement = self.client.prepare_typed(sql, &types[..1 + usize::from(sql.contains("$2"))]).await?;
            self.prepared.insert(sql, statement);
        }
        Ok(())
    }

    async fn prepared(&self, sql: &'static str, parameters: &[String]) -> Answer {
        let parameters: Vec<_> = parameters.iter().map(|text| text as _).collect();
        Ok(texts(&self.client.query_one(&self.prepared[sql], &parameters).await?))
    }
}

fn texts(row: &tokio_postgres::Row) -> Vec<String> {
    (0..row.len()).map(|i| row.get(i)).collect()
}

/// docs/errors.md: of these nothing was executed, where the session goes on.
fn was_refused(error: &Error) -> bool {
    let refusal = |error: &tokio_postgres::error::DbError| {
        let code = error.code().code();
        error.parsed_severity() == Some(Severity::Error) && matches!(code, "57P03" | "08006")
    };
    error.as_db_error().is_some_and(refusal)
}

fn number(text: &str) -> Result<Option<u64>, Wrong> {
    text.parse().map(Some).map_err(|_| format!("{text:?} is no number"))
}

fn sql_to_write(kind: Kind) -> &'static str {
    match kind {
        Kind::Register => {
            "insert into registers (key, value) values ($1, $2::text::bigint)
            on conflict (tenant_id, key) do update set value = excluded.value returning value::text"
        }
        Kind::Counter => {
            "insert into registers (key, value) values ($1, $2::text::bigint)
            on conflict (tenant_id, key) do update set value = registers.value + excluded.value returning value::text"
        }
        Kind::List => "insert into appends (list, n) values ($1, $2::text::bigint) returning n::text",
    }
}

fn sql_to_read(kind: Kind) -> &'static str {
    match kind {
        Kind::Register | Kind::Counter => {
            "select coalesce(max(value), 0)::text, where_am_i()::text from registers where key = $1"
        }
        Kind::List => {
            "select coalesce(string_agg(n::text, ',' order by serial), ''), where_am_i()::text
            from appends where list = $1"
        }
    }
}
