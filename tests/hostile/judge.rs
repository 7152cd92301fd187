//! Runs one case after another and says what came of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::awaited::is_awaited;
use crate::bouncer;
use crate::case::{Case, Expected, How, Session};
use crate::place::{Level, PATIENCE, Place};
use crate::support::raw::{Message, bind, errors, execute, parse, sync};
use crate::tap::{Hostile, Wire, answers, ask, first, leave, rows};
use crate::witness::{KNOWN, Witness};

/// What came of a case: for the page, and what is wrong.
pub struct Outcome {
    pub id: &'static str,
    pub happened: String,
    pub wrong: Vec<String>,
}

/// One place with its witnesses.
pub struct Court {
    place: Arc<Place>,
    witnesses: Vec<Witness>,
    digest: BTreeMap<String, String>,
    own: String,
    known: String,
}

/// The SQL-level steps of a case as they went.
struct Deed {
    steps: Vec<Vec<Message>>,
    /// The connection was closed by the other side.
    ended: bool,
}

impl Court {
    pub async fn new(place: Place) -> Self {
        let place = Arc::new(place);
        let known = format!("{{{}}}", place.really(KNOWN).await.trim());
        let mut court = Self { place, witnesses: Vec::new(), digest: BTreeMap::new(), own: String::new(), known };
        court.swear_in().await;
        court
    }

    async fn swear_in(&mut self) {
        self.witnesses.clear();
        if self.place.is_pgward() {
            for level in [Level::Rows, Level::Schema] {
                self.witnesses.push(Witness::new(&self.place, level).await);
            }
        }
        self.digest = self.place.digest().await;
        self.own = self.place.own().await;
    }

    /// All that must hold, whatever was tried, is looked at here and not in the case.
    pub async fn try_case(&mut self, case: &'static Case) -> Outcome {
        let hostile = Hostile::new(&self.place);
        let mut wrong = Vec::new();
        let task = tokio::spawn(perform(hostile.clone(), case));
        let (happened, wire) = match task.await {
            Ok(Ok(result)) => result,
            Ok(Err(why)) => {
                wrong.push(why.clone());
                (why, None)
            }
            Err(error) => {
                let why = panicked(error);
                wrong.push(format!("the case itself came to grief: {why}"));
                (why, None)
            }
        };
        for witness in &mut self.witnesses {
            wrong.extend(witness.check(&self.place).await);
        }
        if let Some(mut wire) = wire {
            wrong.extend(own_session(&hostile, &mut wire, case.session).await.err());
            leave(wire).await;
        }
        for witness in &mut self.witnesses {
            wrong.extend(witness.check_backends(&self.place, &self.known).await);
        }
        if !self.place.is_pgward() {
            wrong.extend(bouncer::witness(&self.place).await);
        }
        wrong.extend(self.changes().await);
        if case.logins {
            wrong.extend(self.later_logins().await);
        }
        if hostile.heard.has(&self.place.secret) {
            wrong.push(format!("it saw what is another's: {:?}", hostile.heard.around(&self.place.secret)));
        }
        if !wrong.is_empty() || self.place.own().await != self.own {
            self.witnesses.clear();
            self.place.restore().await;
            self.swear_in().await;
        }
        Outcome { id: case.id, happened, wrong }
    }

    async fn changes(&mut self) -> Vec<String> {
        let now = self.place.digest().await;
        let kinds: std::collections::BTreeSet<_> = self.digest.keys().chain(now.keys()).collect();
        let changed = kinds.into_iter().filter(|kind| self.digest.get(*kind) != now.get(*kind));
        changed.map(|kind| format!("changed for others: {kind}")).collect()
    }

    async fn later_logins(&mut self) -> Vec<String> {
        if !self.place.is_pgward() {
            return bouncer_later(&self.place).await;
        }
        let later = self.place.later().await;
        let mut wrong = Vec::new();
        for witness in &self.witnesses {
            wrong.extend(witness.check_logins(later.address, &self.place).await);
        }
        drop(later);
        self.place.mend_roles().await;
        wrong
    }
}

/// New backends, as PgBouncer opens them some day.
async fn bouncer_later(place: &Place) -> Vec<String> {
    place.really("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'").await;
    let wrong = bouncer::witness(place).await;
    place.restore().await;
    wrong.into_iter().map(|why| format!("later: {why}")).collect()
}

fn panicked(error: tokio::task::JoinError) -> String {
    let Ok(cause) = error.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// What happened, and the session if there is one that should be looked at.
async fn perform(hostile: Hostile, case: &'static Case) -> Result<(String, Option<Wire>), String> {
    let run = match &case.how {
        How::Run(run) => run,
        How::Simple(_) | How::Extended(_) => return by_sql(hostile, case).await,
    };
    let deed = run(hostile.clone());
    let happened = tokio::time::timeout(PATIENCE * 4, deed).await.map_err(|_| "it came to no end".to_owned())??;
    Ok((happened, None))
}

async fn by_sql(hostile: Hostile, case: &'static Case) -> Result<(String, Option<Wire>), String> {
    let mut wire = hostile.session().await;
    if !hostile.place.is_pgward() {
        ask(&mut wire, &bouncer::begin(hostile.place.level.hostile())).await;
    }
    let mut deed = Deed { steps: Vec::new(), ended: false };
    match &case.how {
        How::Simple(texts) => {
            for text in texts {
                deed.steps.push(ask(&mut wire, &hostile.words(text)).await);
            }
        }
        How::Extended(texts) => {
            for (text, parameters) in texts {
                let parameters: Vec<String> = parameters.iter().map(|text| hostile.words(text)).collect();
                let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
                let batch = [parse("", &hostile.words(text)), bind("", "", &parameters), execute("", 0), sync()];
                deed.steps.push(answers(&mut wire, batch.concat()).await);
            }
        }
        How::Run(_) => {}
    }
    deed.ended = deed.steps.last().is_some_and(|said| said.last().is_none_or(|last| last.tag != b'Z'));
    let expected = case.expected[hostile.place.level as usize];
    let happened = deed.told();
    if hostile.place.is_pgward() {
        deed.judged(&hostile, expected, case.session).map_err(|why| format!("{why}; it {happened}"))?;
    }
    Ok((happened, (!deed.ended).then_some(wire)))
}

impl Deed {
    fn refusal(&self) -> Option<(String, String)> {
        let error = self.steps.iter().flatten().find(|message| message.tag == b'E')?;
        Some((error.field(b'C'), error.field(b'M')))
    }

    fn last(&self) -> Vec<Vec<String>> {
        self.steps.last().map(|said| rows_or_extended(said)).unwrap_or_default()
    }

    /// For the page.
    fn told(&self) -> String {
        if let Some((code, _)) = self.refusal() {
            return format!("refused, {code}");
        }
        match self.last().len() {
            _ if self.ended => "the session ends".to_owned(),
            0 => "no row".to_owned(),
            _ => "its own only".to_owned(),
        }
    }

    fn judged(&self, hostile: &Hostile, expected: Expected, session: Session) -> Result<(), String> {
        let (rows, refusal) = (self.last(), self.refusal());
        let row = rows.last().map(|row| row.join(",")).unwrap_or_default();
        let good = match (expected, &refusal) {
            // What PostgreSQL does not even read tries nothing.
            (Expected::Harmless, Some((code, _))) => code != "42601",
            (Expected::Harmless, None) => true,
            (Expected::Denied(codes), Some((code, _))) => codes.split(' ').any(|known| known == code),
            (Expected::Blind, refusal) => refusal.is_some() || rows.is_empty(),
            (Expected::NoRow, None) => rows.is_empty(),
            (Expected::Shows(text) | Expected::Remains(text), None) => row == hostile.words(text),
            _ => false,
        };
        if !good {
            let found = refusal.map_or_else(|| format!("{} rows, {row:?}", rows.len()), |r| format!("{r:?}"));
            return Err(format!("expected {expected:?}, found {found}"));
        }
        if session == Session::Lives && self.ended { Err("its session ended".to_owned()) } else { Ok(()) }
    }
}

/// As [`rows`], also where no description of the rows was asked for.
fn rows_or_extended(said: &[Message]) -> Vec<Vec<String>> {
    if said.iter().any(|message| message.tag == b'T') {
        return rows(said);
    }
    said.iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
}

/// The hostile tenant's session sees its own rows at most, and answers if it is to live.
async fn own_session(hostile: &Hostile, wire: &mut Wire, session: Session) -> Result<(), String> {
    if !hostile.place.is_pgward() {
        ask(wire, "commit").await;
        return Ok(());
    }
    ask(wire, "rollback").await;
    let mine = hostile.words("{mine}");
    let text = match hostile.place.level {
        Level::Rows => format!("select pg_catalog.string_agg(distinct tenant_id, ' ') from {mine}"),
        Level::Schema => {
            format!("select pg_catalog.string_agg(distinct pg_catalog.split_part(item, ' ', 1), ' ') from {mine}")
        }
    };
    let said = ask(wire, &text).await;
    let own = first(&said);
    if said.last().is_none_or(|last| last.tag != b'Z') {
        return if session == Session::Lives { Err("its session did not live".to_owned()) } else { Ok(()) };
    }
    let me = hostile.place.level.hostile();
    if errors(&said).is_empty() && own != me && own != "NULL" && !own.is_empty() {
        return Err(format!("its session sees {own:?}"));
    }
    Ok(())
}

/// All cases of a place, one after another; what is wrong and was not said to be.
pub async fn all(place: Place, cases: Vec<Case>) -> (Vec<Outcome>, Vec<String>) {
    let level = place.level;
    let pgward = place.is_pgward();
    let asked = std::env::var("PGWARD_CASES").unwrap_or_default();
    let cases: &'static [Case] = cases.leak();
    let chosen = |case: &&Case| asked.is_empty() || asked.split(',').any(|name| case.id.starts_with(name));
    let mut court = Court::new(place).await;
    let (mut outcomes, mut wrong) = (Vec::new(), Vec::new());
    for case in cases.iter().filter(|case| case.levels.contains(&level)).filter(chosen) {
        let begin = std::time::Instant::now();
        let outcome = court.try_case(case).await;
        let awaited = is_awaited(case.id, level);
        let name = format!("{} at {}", case.id, level.name());
        if std::env::var("PGWARD_CASES").is_ok() {
            println!("{name}: {} {:?} {:?}", outcome.happened, begin.elapsed(), outcome.wrong);
        }
        match (outcome.wrong.is_empty(), awaited) {
            (true, true) if pgward => wrong.push(format!("{name} passes now: take it off the list of what is awaited")),
            (false, false) if pgward => wrong.push(format!("{name}:\n    {}", outcome.wrong.join("\n    "))),
            _ => {}
        }
        outcomes.push(outcome);
    }
    (outcomes, wrong)
}
