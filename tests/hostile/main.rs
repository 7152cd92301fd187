//! A hostile tenant: it holds a good token of its own, speaks the protocol by hand and writes any SQL. Every case
//! here is such an attempt, and after each of them two other tenants are looked after, one at level `rows` and one
//! at level `schema`: their sessions, new sessions of theirs on every backend, their data, and whether a byte of
//! theirs came to the hostile tenant.
//!
//! `PGWARD_CASES=role,context.set cargo test --test hostile -- --nocapture` runs the cases whose names begin so.
//! `scripts/hostile` writes docs/hostile.md.

mod awaited;
mod bouncer;
mod case;
mod context;
mod ends;
mod hurting;
mod identity;
mod judge;
mod leftovers;
mod page;
mod place;
mod protocol;
mod remains;
mod routes;
mod routing;
mod seeing;
#[path = "../support/mod.rs"]
mod support;
mod tap;
mod tokens;
mod witness;

use case::Case;
use place::{Level, Place};

static LOG: Log = Log(std::sync::Mutex::new(Vec::new()));

/// All that is logged in this process, at every level.
struct Log(std::sync::Mutex<Vec<u8>>);

impl std::io::Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log_text() -> String {
    String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned()
}

fn listen_to_the_log() {
    let filter = tracing_subscriber::EnvFilter::new("info,pgward=trace");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| &LOG);
    // The other test of this binary may have been faster.
    let _ = subscriber.try_init();
}

fn cases() -> Vec<Case> {
    let families = [
        identity::cases(),
        context::cases(),
        ends::cases(),
        routes::cases(),
        protocol::cases(),
        tokens::cases(),
        leftovers::cases(),
        seeing::cases(),
        hurting::cases(),
        routing::cases(),
        remains::cases(),
    ];
    families.into_iter().flatten().collect()
}

async fn at(level: Level) {
    listen_to_the_log();
    let (outcomes, wrong) = judge::all(Place::of_pgward(level).await, cases()).await;
    println!("{} cases at {}", outcomes.len(), level.name());
    assert!(wrong.is_empty(), "{} of {} cases\n{}\n", wrong.len(), outcomes.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_at_level_rows() {
    at(Level::Rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_at_level_schema() {
    at(Level::Schema).await;
}

#[test]
fn cases_have_names_of_their_own_and_every_line_has_some() {
    let cases = cases();
    let mut names: Vec<&str> = cases.iter().map(|case| case.id).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for line in 1..=21 {
        let count = cases.iter().filter(|case| case.line == line).count();
        assert!(count > 0 || page::ELSEWHERE.iter().any(|(known, _)| *known == line), "line {line} has no case");
    }
    for (_, level, ids) in awaited::AWAITED {
        for id in *ids {
            let case = cases.iter().find(|case| case.id == *id).unwrap_or_else(|| panic!("{id} is no case"));
            assert!(case.levels.contains(level), "{id} is not tried at {level:?}");
        }
    }
}

/// With `PGWARD_HOSTILE=page` it is written first, which takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_tells_of_every_case() {
    let mut wrong = Vec::new();
    if std::env::var("PGWARD_HOSTILE").is_ok_and(|what| what == "page") {
        wrong = page::write(cases).await;
    }
    wrong.extend(page::is_of(&cases()));
    assert!(wrong.is_empty(), "make hostile writes the page\n{}\n", wrong.join("\n"));
}
