//! The other tenants: what is theirs must be as it was after every case, in sessions that began before it and in
//! new ones, on every backend that the hostile tenant may have had.

use std::time::Duration;

use crate::place::{Level, Place, login};
use crate::support::raw::{Message, Raw, V3_0, bind, errors, execute, gists, parse, query, sync, terminate};

type Wire = Raw<tokio::net::TcpStream>;

/// One tenant's sessions, open through many cases.
pub struct Witness {
    tenant: &'static str,
    level: Level,
    /// How many backends it may find, besides those that are kept.
    backends: usize,
    /// Goes from backend to backend.
    main: Wire,
    /// Has its own backend, for what it left there.
    pinned: Wire,
    settings: String,
    fresh: String,
    told: u64,
}

/// As long as a notification may take. A case may have the server do much.
const PATIENCE: Duration = Duration::from_secs(15);

/// All settings, one a line.
const SETTINGS: &str = "select string_agg(name || '=' || setting, chr(10) order by name) || chr(10) || concat_ws(' ', \
    session_user, current_user, current_setting('role'), current_schemas(false)::text) from pg_settings where name !~ '^plpgsql' and name \
    not in ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')";

/// What a session that has just begun must not find.
const LEFT: &str = "select concat_ws(' ', \
    (select string_agg('prepared ' || name, ' ') from pg_prepared_statements where name !~ '^pgward_' or from_sql), \
    (select string_agg('cursor ' || name, ' ') from pg_cursors where name <> ''), \
    (select string_agg('listens ' || c, ' ') from pg_listening_channels() c), \
    (select string_agg('lock ' || objid, ' ') from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
    (select string_agg('temporary ' || objid::text, ' ') from pg_depend where refclassid = 'pg_namespace'::regclass \
        and refobjid = pg_my_temp_schema()), \
    nullif('token ' || current_setting('pgward.token', true), 'token '), \
    nullif('note ' || current_setting('app.note', true), 'note '), \
    nullif('pin ' || current_setting('pgward.pin', true), 'pin '), \
    (select 'known randomness' where random() * 1e6::float8 in (select k from unnest('{known}'::float8[]) k)))";

/// `random()` of a session in which somebody called `setseed(0.5)`, times a million.
pub const KNOWN: &str =
    "select setseed(0.5); select string_agg((random() * 1e6::float8)::text, ',') from generate_series(1, 200)";

async fn open(place: &Place, tenant: &str) -> Result<Wire, String> {
    let login = login(tenant);
    let mut wire = Raw::connect(place.address).await;
    let parameters = [("user", login.user.as_str()), ("database", login.database.as_str())];
    let said = wire.log_in(V3_0, &parameters, &place.password(&login)).await;
    match said.last() {
        Some(last) if last.tag == b'Z' => Ok(wire),
        _ => Err(format!("a login of {tenant} fails: {:?}", why(&said))),
    }
}

fn why(said: &[Message]) -> Vec<String> {
    let errors = said.iter().filter(|message| message.tag == b'E');
    errors.map(|error| format!("{} {}", error.field(b'C'), error.field(b'M'))).collect()
}

/// The first column of the only row.
async fn value(wire: &mut Wire, text: &str) -> Result<String, String> {
    let short: String = text.chars().take(60).collect();
    if !wire.try_send(query(text)).await {
        return Err(format!("the session has ended before {short:?}"));
    }
    let said = wire.ready().await;
    let errors = why(&said);
    if !errors.is_empty() || said.last().map(|last| last.tag) != Some(b'Z') {
        return Err(format!("{short:?} fails: {errors:?}"));
    }
    Ok(said.iter().rfind(|message| message.tag == b'D').map(|row| row.columns().remove(0)).unwrap_or_default())
}

async fn must(wire: &mut Wire, text: &str) -> String {
    value(wire, text).await.unwrap_or_else(|why| panic!("{why}"))
}

impl Witness {
    pub async fn new(place: &Place, level: Level) -> Self {
        let (tenant, secret) = (level.victim(), &place.secret);
        let backends = if level == place.level && level == Level::Rows { crate::place::SHARED } else { 1 };
        let mut fresh = open(place, tenant).await.unwrap();
        let settings_of_fresh = must(&mut fresh, SETTINGS).await;
        fresh.send(terminate()).await;
        let mut main = open(place, tenant).await.unwrap();
        must(&mut main, "set timezone = 'Asia/Colombo'").await;
        must(&mut main, "set statement_timeout = '61s'").await;
        must(&mut main, &format!("set app.own = '{secret} setting'")).await;
        must(&mut main, &format!("prepare mine as select '{secret} prepared'")).await;
        must(&mut main, "listen news").await;
        main.send([parse("kept", "select count(*) from orders where amount >= $1::numeric"), sync()].concat()).await;
        main.ready().await;
        let settings = must(&mut main, SETTINGS).await;
        let mut pinned = open(place, tenant).await.unwrap();
        must(&mut pinned, &format!("create temp table scratch as select '{secret} temporary' as note")).await;
        must(&mut pinned, &format!("select pg_advisory_lock({})", lock(level))).await;
        let cursor = format!("declare held cursor with hold for select '{secret} cursor' from generate_series(1, 3)");
        must(&mut pinned, &cursor).await;
        must(&mut pinned, "create temp sequence counted; select nextval('counted'); select nextval('counted')").await;
        let pid = must(&mut pinned, "select pg_backend_pid()").await;
        if level == place.level {
            place.word("pid", pid);
            place.word("channel", must(&mut main, "select pgward.channel('news')").await);
            let sealed = must(&mut pinned, "select coalesce(current_setting('pgward.context', true), '')").await;
            place.word("sealed", sealed);
        }
        must(&mut pinned, &format!("select '{secret} last'")).await;
        Self { tenant, level, backends, main, pinned, settings, fresh: settings_of_fresh, told: 0 }
    }

    /// What is wrong, in words. The hostile tenant is still there.
    pub async fn check(&mut self, place: &Place) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut note = |result: Result<(), String>| wrong.extend(result.err());
        note(self.main_is_well(&place.secret).await);
        note(self.pinned_is_well(&place.secret).await);
        wrong.iter().map(|why| format!("{}: {why}", self.tenant)).collect()
    }

    async fn main_is_well(&mut self, secret: &str) -> Result<(), String> {
        own_rows(&mut self.main, secret, self.level).await?;
        same_settings(&self.settings, &value(&mut self.main, SETTINGS).await?)?;
        expect("execute mine", &value(&mut self.main, "execute mine").await?, &format!("{secret} prepared"))?;
        let own = value(&mut self.main, "select current_setting('app.own')").await?;
        expect("its setting", &own, &format!("{secret} setting"))?;
        self.main.send([bind("", "kept", &["51"]), execute("", 0), sync()].concat()).await;
        let said = gists(&self.main.ready().await);
        expect("its prepared statement", &said.join(" "), "2 D 50 C SELECT 1\0 Z I")?;
        self.told += 1;
        let payload = format!("{secret} payload {}", self.told);
        self.main.send(query(&format!("notify news, '{payload}'"))).await;
        let mut said = Vec::new();
        while !said.iter().any(|message: &Message| message.tag == b'A') || !ready(&said) {
            match tokio::time::timeout(PATIENCE, self.main.next()).await {
                Ok(Some(message)) => said.push(message),
                Ok(None) => return Err(format!("it ended: {:?}", why(&said))),
                Err(_) => return Err(format!("it hears nothing for {PATIENCE:?}, behind {:?}", gists(&said))),
            }
        }
        let heard: Vec<String> = said.iter().filter(|message| message.tag == b'A').map(notification).collect();
        expect("what it hears", &heard.join(", "), &format!("news {payload}"))
    }

    async fn pinned_is_well(&mut self, secret: &str) -> Result<(), String> {
        let note = value(&mut self.pinned, "select note from scratch").await?;
        expect("its temporary table", &note, &format!("{secret} temporary"))?;
        expect("lastval", &value(&mut self.pinned, "select lastval()").await?, "2")?;
        let locks =
            "select string_agg(objid::text, ',') from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
        expect("its lock", &value(&mut self.pinned, locks).await?, lock(self.level))?;
        let cursor = value(&mut self.pinned, "move absolute 0 in held; fetch 1 from held").await?;
        expect("its cursor", &cursor, &format!("{secret} cursor"))?;
        same_settings(&self.fresh, &value(&mut self.pinned, SETTINGS).await?)?;
        // What pg_stat_activity keeps showing of this backend.
        let last = format!("{secret} last");
        expect("its last statement", &value(&mut self.pinned, &format!("select '{last}'")).await?, &last)
    }

    /// New sessions, as many at a time as there are backends to be had. The hostile tenant has left.
    pub async fn check_backends(&mut self, place: &Place, known: &str) -> Vec<String> {
        let mut sessions = Vec::new();
        let mut wrong = Vec::new();
        for _ in 0..self.backends {
            match self.fresh_is_well(place, known).await {
                Ok(session) => sessions.push(session),
                Err(why) => wrong.push(format!("{} anew: {why}", self.tenant)),
            }
        }
        for mut session in sessions {
            if let Err(why) = value(&mut session, "rollback").await {
                wrong.push(format!("{} anew: {why}", self.tenant));
            }
            session.try_send(terminate()).await;
        }
        wrong
    }

    async fn fresh_is_well(&self, place: &Place, known: &str) -> Result<Wire, String> {
        let mut session = open(place, self.tenant).await?;
        value(&mut session, "begin").await?;
        expect("what was left", &value(&mut session, &LEFT.replace("{known}", known)).await?, "")?;
        same_settings(&self.fresh, &value(&mut session, SETTINGS).await?)?;
        own_rows(&mut session, &place.secret, self.level).await?;
        session.send(query("select lastval()")).await;
        expect("lastval", &errors(&session.ready().await).join(" "), "55000")?;
        Ok(session)
    }

    /// Another proxy logs in anew, as this one will do some day.
    pub async fn check_logins(&self, address: std::net::SocketAddr, place: &Place) -> Vec<String> {
        let check = async {
            let mut session = Raw::connect(address).await;
            let parameters = [("user", self.tenant), ("database", "app")];
            let said = session.log_in(V3_0, &parameters, &place.password(&login(self.tenant))).await;
            if said.last().map(|last| last.tag) != Some(b'Z') {
                return Err(format!("fails: {:?}", why(&said)));
            }
            same_settings(&self.fresh, &value(&mut session, SETTINGS).await?)?;
            own_rows(&mut session, &place.secret, self.level).await
        };
        let result: Result<(), String> = check.await;
        result.err().map(|why| format!("a later login of {}: {why}", self.tenant)).into_iter().collect()
    }
}

/// Advisory locks have one name space for all of a database.
pub fn lock(level: Level) -> &'static str {
    match level {
        Level::Rows => "77001",
        Level::Schema => "77002",
    }
}

fn ready(said: &[Message]) -> bool {
    said.iter().any(|message| message.tag == b'Z')
}

fn notification(message: &Message) -> String {
    let texts: Vec<_> = message.body[4..].split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    format!("{} {}", texts[0], texts[1])
}

async fn own_rows(wire: &mut Wire, secret: &str, level: Level) -> Result<(), String> {
    let text = format!(
        "/* {secret} text */ select count(*) || ' ' || count(*) filter (where item like '{secret} row %') || ' ' || \
         sum(amount) from orders"
    );
    expect("its rows", &value(wire, &text).await?, "100 100 5050")?;
    if level == Level::Rows {
        expect("its tenant", &value(wire, "select pgward.tenant()").await?, level.victim())?;
    }
    Ok(())
}

fn same_settings(expected: &str, found: &str) -> Result<(), String> {
    let known: std::collections::BTreeSet<&str> = expected.lines().collect();
    let other: Vec<&str> = found.lines().filter(|line| !known.contains(line)).collect();
    expect("its settings", &other.join(", "), "")
}

fn expect(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}
