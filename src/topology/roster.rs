//! What Patroni has told, answer by answer: which members there are, and who holds the leader's lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::patroni::{Member, Told};
use crate::config::{Cluster, Patroni, Server};

/// A member goes when so many answers in a row, an interval apart, have left it out: what Patroni's store forgets for a
/// moment, as while it is restarted, runs on.
const ANSWERS: u32 = 10;

/// With those that are missing.
const MOST: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Vec<Listed>,
    last: Option<Last>,
    /// Who took the writes last, until another one leads.
    writer: Option<String>,
}

#[derive(Debug)]
struct Listed {
    member: Member,
    /// The answers that left it out, and the first of them.
    missing: Option<(u32, Instant)>,
}

#[derive(Debug)]
struct Last {
    leader: Option<Member>,
    paused: bool,
    until: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lock<'a> {
    /// Nothing follows from what Patroni says, or it says nothing.
    Unknown,
    Nobody,
    Held(&'a Member),
}

impl Roster {
    /// Takes note of an answer. `writes`: whether a member takes the writes now.
    pub fn take(&mut self, asked: Instant, told: Told, rules: &Patroni, writes: impl Fn(&Member) -> bool) {
        let (leader, paused) = (told.leader().cloned(), told.paused);
        // Without any member there is nobody who could hold the lock: the store has been emptied, and fills again.
        let says = !told.members.is_empty();
        let grace: Duration = rules.interval * (ANSWERS - 1);
        let members = || self.members.iter().map(|listed| &listed.member).chain(&told.members);
        let writer = members().find(|member| writes(member)).map(|member| member.name.clone());
        self.writer =
            writer.or(self.writer.take()).filter(|name| leader.as_ref().is_none_or(|leader| leader.name == *name));
        let most = MOST.saturating_sub(told.members.len());
        let mut kept = 0;
        self.members.retain_mut(|listed| {
            if told.members.iter().any(|member| member.name == listed.member.name) {
                return false;
            }
            let (answers, since) = listed.missing.get_or_insert((0, asked));
            *answers += 1;
            let gone = *answers >= ANSWERS && asked.duration_since(*since) >= grace;
            // While it is paused, what looks after a server may be stopped, and the server runs on.
            let stays = (!gone || told.paused) && kept < most;
            kept += usize::from(stays);
            stays || self.writer.as_ref() == Some(&listed.member.name)
        });
        self.members.extend(told.members.into_iter().map(|member| Listed { member, missing: None }));
        self.members.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        let until = asked + rules.interval * 3 + rules.timeout;
        self.last = says.then_some(Last { leader, paused, until });
    }

    pub fn lock(&self, now: Instant) -> Lock<'_> {
        match &self.last {
            Some(last) if now < last.until && !last.paused => last.leader.as_ref().map_or(Lock::Nobody, Lock::Held),
            _ => Lock::Unknown,
        }
    }

    /// The servers of a cluster that are not configured, and the members that none is made of, as nobody knows where they
    /// are, or has a name of its own for them.
    pub fn servers(&self, cluster: &Cluster) -> (Vec<Arc<Server>>, Vec<&str>) {
        let (mut servers, mut left_out): (Vec<Arc<Server>>, Vec<&str>) = Default::default();
        let Some(rules) = &cluster.patroni else { return (servers, left_out) };
        let members = || self.members.iter().map(|listed| &listed.member);
        for member in members().filter(|member| member.position(cluster.servers.iter()).is_none()) {
            let taken = |server: &Server| cluster.servers.iter().chain(&servers).any(|known| known.name == server.name);
            match member.server(rules).filter(|server| !taken(server)) {
                Some(server) => servers.push(Arc::new(server)),
                None => left_out.push(&member.name),
            }
        }
        (servers, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::patroni::tests::{cluster, told};
    use super::*;

    struct Scene {
        roster: Roster,
        now: Instant,
        cluster: Arc<Cluster>,
    }

    impl Scene {
        /// With the default interval of a second.
        fn new(region: &str) -> Self {
            Self { roster: Roster::default(), now: Instant::now(), cluster: cluster(region, "") }
        }

        /// After so many seconds an answer comes: members like `a` or `b!` (it leads).
        fn hears(&mut self, after: u64, members: &str, paused: bool, writes: &str) -> String {
            self.now += Duration::from_secs(after);
            let rules = self.cluster.patroni.clone().unwrap();
            self.roster.take(self.now, told(members, paused), &rules, |member| member.name == writes);
            let (servers, _) = self.roster.servers(&self.cluster);
            servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn one_that_is_missing_for_a_moment_stays_and_goes_in_the_end() {
        let mut scene = Scene::new(", region = \"lk\"");
        assert_eq!(scene.hears(0, "a! b c", false, "a"), "a b c");
        for _ in 0..3 {
            for _ in 0..ANSWERS - 1 {
                assert_eq!(scene.hears(1, "a! b", false, "a"), "a b c");
            }
            assert_eq!(scene.hears(1, "a! b c", false, "a"), "a b c");
        }
        // However long it takes until another answer comes, or how soon.
        assert_eq!(scene.hears(60, "a! b", false, "a"), "a b c");
        assert_eq!(scene.hears(60, "a! b", false, "a"), "a b c");
        for _ in 0..20 {
            scene.hears(0, "a! b c", false, "a");
            assert_eq!(scene.hears(0, "a! b", false, "a"), "a b c");
        }
        for _ in 0..ANSWERS - 2 {
            assert_eq!(scene.hears(1, "a! b", false, "a"), "a b c");
        }
        assert_eq!(scene.hears(1, "a! b", false, "a"), "a b");
    }

    #[test]
    fn a_server_went_when_its_patroni_was_stopped_in_a_pause_and_a_primary_when_the_store_was_empty() {
        let mut scene = Scene::new(", region = \"lk\"");
        scene.hears(0, "a! b", false, "a");
        for _ in 0..3 * ANSWERS {
            assert_eq!(scene.hears(1, "b", true, "a"), "a b");
        }
        // Nobody has taken its place, though it gets no writes while nobody leads.
        for _ in 0..3 * ANSWERS {
            assert_eq!(scene.hears(1, "b", false, ""), "a b");
        }
        for _ in 0..ANSWERS - 1 {
            assert_eq!(scene.hears(1, "", false, ""), "a b");
        }
        assert_eq!(scene.hears(1, "", false, ""), "a");
        assert_eq!(scene.hears(1, "b!", false, "b"), "b");
    }

    #[test]
    fn answers_with_ever_other_names_do_not_make_ever_more_servers() {
        let mut scene = Scene::new(", region = \"lk\"");
        scene.hears(0, "first!", false, "first");
        for round in 0..50 {
            let names: Vec<String> = (0..60).map(|i| format!("m{round}-{i}")).collect();
            scene.hears(1, &names.join(" "), true, "first");
            assert!(scene.roster.members.len() <= MOST + 1, "{}", scene.roster.members.len());
        }
        assert!(scene.roster.members.iter().any(|listed| listed.member.name == "first"));
    }

    #[test]
    fn what_is_told_holds_for_a_while_and_not_in_a_pause() {
        let mut scene = Scene::new(", region = \"lk\"");
        assert_eq!(scene.roster.lock(scene.now), Lock::Unknown);
        scene.hears(0, "a! b", false, "a");
        assert!(matches!(scene.roster.lock(scene.now), Lock::Held(member) if member.name == "a"));
        assert_eq!(scene.roster.lock(scene.now + Duration::from_secs(5)), Lock::Unknown);
        scene.hears(1, "a b", false, "a");
        assert_eq!(scene.roster.lock(scene.now), Lock::Nobody);
        scene.hears(1, "a b", true, "a");
        assert_eq!(scene.roster.lock(scene.now), Lock::Unknown);
        scene.hears(1, "", false, "a");
        assert_eq!(scene.roster.lock(scene.now), Lock::Unknown, "a store that is empty knows nobody");
    }

    #[test]
    fn who_has_no_place_or_no_name_of_its_own_is_left_out() {
        let mut scene = Scene::new("");
        scene.hears(0, "a b", false, "");
        assert_eq!(scene.roster.servers(&scene.cluster).1, ["a", "b"]);
        let mut scene = Scene::new(", region = \"lk\"");
        assert_eq!(scene.hears(0, "p.1 p-1", false, ""), "p-1");
        assert_eq!(scene.roster.servers(&scene.cluster).1, ["p.1"]);
    }

    #[test]
    fn a_member_that_is_configured_abroad_is_not_at_home_since_it_says_nothing() {
        let abroad = r#"regions = ["lk"]
            servers = [{ name = "b", host = "10.0.0.1", region = "de", role = "replica" }]"#;
        let mut scene = Scene { cluster: cluster(", region = \"lk\"", abroad), ..Scene::new("") };
        assert_eq!(scene.hears(0, "a b", false, ""), "a");
    }
}
