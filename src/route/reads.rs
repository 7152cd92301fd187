//! Which replica serves a read: `(what must be seen, rules, topology snapshot) -> a replica, the primary, or wait`.
//!
//! What a session has seen is bounded from above without asking anybody at that moment: a server that is asked later, says
//! a place in the log past all of it. A replica that has replayed up to there shows no less. So reading what was written,
//! and never reading backwards, is one rule, whoever wrote or read last.

use std::time::Instant;

use crate::base::{Region, ServerName};
use crate::config::{Consistency, ReadRules};
use crate::residency;
use crate::topology::{Lag, NotReplica, ServerView, Snapshot};

/// A read that is to be served.
#[derive(Debug)]
pub struct Read<'a> {
    pub rules: &'a ReadRules,
    /// Where servers may be that serve the session. `None`: anywhere.
    pub regions: Option<&'a [Region]>,
    /// When the session's transaction before was over, and who served it.
    pub before: Option<Before<'a>>,
    /// When it was asked for.
    pub since: Instant,
    pub now: Instant,
    /// What it reads may be as old as replicas may be, and the primary is not to serve it.
    pub always: bool,
}

/// What a session has to be shown no less than.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub at: Instant,
    pub by: Server<'a>,
    /// When it may have written something last.
    pub wrote: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server<'a> {
    Primary,
    Replica(&'a ServerName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The server of this number in the snapshot.
    Replica(usize),
    /// `soon`: a replica may come far enough before long.
    Primary { soon: bool },
    /// A replica may have come far enough soon: when servers have answered, or at this time at the latest, it is to be asked
    /// for again.
    Wait(Instant),
    /// There is none, and it is not the primary's to serve. `ever`: one may come.
    Nobody { ever: bool },
}

/// Why a server serves no read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it is in a region where the tenant's data may not be")]
    Region,
    #[error("its weight is 0, so nobody reads there")]
    Weight,
    #[error(transparent)]
    State(#[from] NotReplica),
    #[error("it is not known how far it is behind")]
    Untold,
    #[error("it is further behind than reads may be (max_lag, max_lag_bytes)")]
    Lag,
    #[error("it has not come as far as a read must be shown")]
    Stale,
}

/// Who is preferred: the first of these that any server is.
#[derive(Debug, Clone, Copy)]
enum Tier {
    Near,
    Fresh,
    /// Where the primary is not to serve it.
    Usable,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Near, Self::Fresh, Self::Usable];

    fn has(self, snapshot: &Snapshot, read: &Read<'_>, view: &ServerView) -> bool {
        let near = |view: &ServerView| snapshot.balance.near.as_ref().is_some_and(|near| view.server.region == *near);
        match self {
            Self::Near => near(view) && serves(snapshot, read, view),
            Self::Fresh => serves(snapshot, read, view),
            Self::Usable => read.always && usable(snapshot, read, view).is_ok(),
        }
    }
}

/// Those replicas that reads are shared among, by their numbers in the snapshot.
pub fn sharing(snapshot: &Snapshot, read: &Read<'_>) -> Vec<usize> {
    let of = |tier: Tier| {
        let servers = snapshot.servers.iter().enumerate();
        servers.filter(|(_, view)| tier.has(snapshot, read, view)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    Tier::ALL.into_iter().map(of).find(|servers| !servers.is_empty()).unwrap_or_default()
}

/// `busy`: how many are served by a server, or wait to be; `None`: the session's login is not served there. `chance`: random
/// numbers from 0 to less than 1.
pub fn choose(
    snapshot: &Snapshot,
    read: &Read<'_>,
    busy: impl Fn(&ServerView) -> Option<usize>,
    chance: impl Fn() -> [f64; 4],
) -> Choice {
    let servers = || snapshot.servers.iter().enumerate();
    for tier in Tier::ALL {
        let fits = |view: &ServerView| tier.has(snapshot, read, view) && busy(view).is_some();
        let candidates = || servers().filter(|(_, view)| fits(view)).map(|(at, _)| at);
        if let Some(at) = less_busy(snapshot, candidates, read.now, &busy, &chance) {
            return Choice::Replica(at);
        }
    }
    let may = |view: &ServerView| usable(snapshot, read, view).is_ok() && busy(view).is_some();
    let soon = |view: &ServerView| may(view) && view.lag.is_some_and(|lag| lag.time <= read.rules.wait);
    let until = read.since + read.rules.wait;
    let soon = servers().any(|(_, view)| soon(view));
    match read.always {
        true => Choice::Nobody {
            ever: servers().any(|(at, view)| may_serve(read, view).is_ok() && snapshot.primary != Some(at)),
        },
        false if read.now < until && may_wait(read) && soon => Choice::Wait(until),
        false => Choice::Primary { soon },
    }
}

/// Whether a replica that was chosen a moment ago would be again.
pub fn serves(snapshot: &Snapshot, read: &Read<'_>, view: &ServerView) -> bool {
    fitness(snapshot, read, view).is_ok()
}

/// The same, with the reason.
pub fn fitness(snapshot: &Snapshot, read: &Read<'_>, view: &ServerView) -> Result<(), Unfit> {
    usable(snapshot, read, view)?;
    if is_fresh(snapshot, read, view) { Ok(()) } else { Err(Unfit::Stale) }
}

fn usable(snapshot: &Snapshot, read: &Read<'_>, view: &ServerView) -> Result<(), Unfit> {
    may_serve(read, view)?;
    view.replica_on(snapshot.timeline)?;
    within(read.rules, view.worst_lag)
}

/// However it is right now.
fn may_serve(read: &Read<'_>, view: &ServerView) -> Result<(), Unfit> {
    // Residency before anything else.
    if !residency::confined(read.regions, &view.server.region) {
        return Err(Unfit::Region);
    }
    if view.server.weight == 0 { Err(Unfit::Weight) } else { Ok(()) }
}

/// Right behind a write the primary is the quick way, and the next read may be, too.
fn may_wait(read: &Read<'_>) -> bool {
    let wrote = read.before.and_then(|before| before.wrote);
    read.rules.consistency != Consistency::Session
        || wrote.is_none_or(|wrote| read.now.duration_since(wrote) >= read.rules.wait)
}

fn within(rules: &ReadRules, lag: Option<Lag>) -> Result<(), Unfit> {
    // Of one that has not told how far it is, nobody knows.
    let lag = lag.ok_or(Unfit::Untold)?;
    let near = lag.time <= rules.max_lag && rules.max_lag_bytes.is_none_or(|most| lag.bytes <= most);
    if near { Ok(()) } else { Err(Unfit::Lag) }
}

/// Whether it shows what has to be seen.
fn is_fresh(snapshot: &Snapshot, read: &Read<'_>, view: &ServerView) -> bool {
    let Some(replayed) = view.seen.map(|seen| seen.lsn) else { return false };
    let has = |then| snapshot.written.since(then).is_some_and(|lsn| lsn <= replayed);
    let own = |before: &Before<'_>| before.wrote.is_none_or(has);
    match read.rules.consistency {
        Consistency::Eventual => true,
        Consistency::Bounded => {
            let covered = snapshot.written.covered(replayed);
            covered.is_some_and(|then| read.now.duration_since(then) <= read.rules.max_staleness)
        }
        Consistency::Tenant => has(read.since),
        Consistency::Session => match read.before {
            None => true,
            Some(Before { at, by: Server::Primary, .. }) => has(at),
            // What served it last need not have shown what it wrote, if it did not insist on that.
            Some(before) if !own(&before) => false,
            Some(Before { at, by: Server::Replica(name), .. }) => {
                let undisturbed = |server: &ServerView| server.since <= at;
                if view.server.name == *name {
                    return undisturbed(view) || has(at);
                }
                let of = snapshot.servers.iter().find(|server| server.server.name == *name && undisturbed(server));
                let there = of.and_then(|server| server.samples.since(at));
                has(at) || there.is_some_and(|lsn| lsn <= replayed)
            }
        },
    }
}

/// The less busy of two by chance: nearly as good as the least busy of all, and not everybody's choice at once.
fn less_busy<I: Iterator<Item = usize>>(
    snapshot: &Snapshot,
    candidates: impl Fn() -> I,
    now: Instant,
    busy: impl Fn(&ServerView) -> Option<usize>,
    chance: impl Fn() -> [f64; 4],
) -> Option<usize> {
    let mut all = candidates();
    let only = all.next()?;
    let count = 1 + all.count();
    if count == 1 {
        return Some(only);
    }
    let [first, second, one, other] = chance();
    let pick = |chance: f64, of: usize| ((chance * of as f64) as usize).min(of - 1);
    let first = pick(first, count);
    let second = (first + 1 + pick(second, count - 1)) % count;
    // Where nobody is busy, each gets its share: the least of numbers that are spread like this, by how great it is.
    let load = |at: usize, chance: f64| {
        let at = candidates().nth(at)?;
        let view = snapshot.servers.get(at)?;
        Some((at, (busy(view)? as f64 - (1.0 - chance).ln()) / share(snapshot, view, now)))
    };
    let (one, other) = (load(first, one)?, load(second, other)?);
    Some(if other.1 < one.1 { other.0 } else { one.0 })
}

/// How much a server takes beside others. One that has just come back has nothing in its caches.
fn share(snapshot: &Snapshot, view: &ServerView, now: Instant) -> f64 {
    const LEAST: f64 = 0.1;
    let up = now.duration_since(view.since).as_secs_f64();
    let warm = (up / snapshot.balance.slow_start.as_secs_f64().max(f64::MIN_POSITIVE)).clamp(LEAST, 1.0);
    view.server.weight as f64 * warm
}

#[cfg(test)]
mod tests;
