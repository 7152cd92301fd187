use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::base::Lsn;
use crate::config::{self, ReadRoute, ServerRole};
use crate::topology::{Balance, Health, Role, Samples, Seen};

const MS: Duration = Duration::from_millis(1);

fn rules(consistency: Consistency) -> ReadRules {
    ReadRules {
        route: ReadRoute::Auto,
        consistency,
        max_staleness: 1_000 * MS,
        wait: 50 * MS,
        max_lag: 10_000 * MS,
        max_lag_bytes: None,
    }
}

/// A cluster some seconds after its start: times are milliseconds from then.
#[derive(Debug)]
struct Scene {
    begin: Instant,
    snapshot: Snapshot,
}

impl Scene {
    /// A primary `p`, which had come to these places at these times.
    fn new(written: &[(u64, u64)]) -> Self {
        let begin = Instant::now();
        let servers = vec![view("p", "lk", Role::Primary, begin)];
        let written = samples(begin, written);
        let balance = Arc::new(Balance { near: None, slow_start: Duration::ZERO });
        Self { begin, snapshot: Snapshot { servers, primary: Some(0), in_doubt: false, timeline: 1, written, balance } }
    }

    /// A replica that had replayed so much at this time.
    fn replica(mut self, name: &str, at: u64, lsn: u64, lag: u64) -> Self {
        let mut replica = view(name, "lk", Role::Replica, self.begin);
        replica.seen = Some(Seen { role: Role::Replica, timeline: 1, lsn: Lsn(lsn), bound: Lsn(lsn) });
        replica.samples = samples(self.begin, &[(at, lsn)]);
        replica.lag = Some(Lag { bytes: 0, time: Duration::from_millis(lag) });
        replica.worst_lag = replica.lag;
        self.snapshot.servers.push(replica);
        self
    }

    fn at(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    fn last(&mut self) -> &mut ServerView {
        self.snapshot.servers.last_mut().unwrap()
    }

    /// Where a read goes that is asked for at this time.
    fn choose(&self, rules: &ReadRules, now: u64, before: Option<(u64, Server<'_>)>) -> String {
        let before = before.map(|(at, by)| Before { at: self.at(at), by, wrote: None });
        let now = self.at(now);
        let read = Read { rules, regions: None, before, since: now, now, always: false };
        self.name(choose(&self.snapshot, &read, |_| Some(0), || [0.0; 4]))
    }

    fn name(&self, choice: Choice) -> String {
        match choice {
            Choice::Replica(at) => self.snapshot.servers[at].server.name.to_string(),
            Choice::Primary { .. } => "primary".to_owned(),
            Choice::Wait(_) => "wait".to_owned(),
            Choice::Nobody { .. } => "nobody".to_owned(),
        }
    }
}

fn samples(begin: Instant, places: &[(u64, u64)]) -> Samples {
    let add = |samples: Samples, (at, lsn): &(u64, u64)| samples.with(begin + Duration::from_millis(*at), Lsn(*lsn));
    places.iter().fold(Samples::default(), add)
}

fn view(name: &str, region: &str, role: Role, since: Instant) -> ServerView {
    let server = config::Server {
        name: ServerName::parse(name).unwrap(),
        host: "h".to_owned(),
        port: 1,
        region: Region::parse(region).unwrap(),
        role: if role == Role::Primary { ServerRole::Primary } else { ServerRole::Replica },
        max_backends: 10,
        weight: 100,
        data_directory: None,
    };
    ServerView {
        server: Arc::new(server),
        health: Health::Up,
        seen: Some(Seen { role, timeline: 1, lsn: Lsn(0), bound: Lsn(0) }),
        samples: Samples::default(),
        lag: None,
        worst_lag: None,
        fenced: false,
        held: false,
        since,
        trouble: None,
    }
}

const SESSION: Consistency = Consistency::Session;

#[test]
fn a_session_reads_its_own_writes() {
    let written = [(1_000, 10), (2_000, 20), (3_000, 30)];
    let at = |lsn| Scene::new(&written).replica("a", 3_000, lsn, 0);
    let wrote = |at| Some((at, Server::Primary));
    assert_eq!(
        at(20).choose(&rules(SESSION), 3_100, wrote(1_500)),
        "a",
        "it has replayed past what was there at 2,000"
    );
    assert_eq!(at(19).choose(&rules(SESSION), 3_100, wrote(1_500)), "wait");
    assert_eq!(at(99).choose(&rules(SESSION), 3_100, wrote(3_001)), "wait", "nobody has asked the primary since");
    assert_eq!(at(20).choose(&rules(SESSION), 3_100, None), "a", "it has seen nothing yet");
}

#[test]
fn a_session_never_reads_backwards() {
    let (a, b) = ([ServerName::parse("a").unwrap()], [ServerName::parse("b").unwrap()]);
    let (a, b) = (Server::Replica(&a[0]), Server::Replica(&b[0]));
    // The primary has not been asked since; a has come to 30 by 3,000, b to 25.
    let scene = || Scene::new(&[(1_000, 10)]).replica("a", 3_000, 30, 0).replica("b", 3_000, 25, 0);
    assert_eq!(scene().choose(&rules(SESSION), 3_100, Some((2_900, a))), "a", "b may be behind what a showed");
    assert_eq!(scene().choose(&rules(SESSION), 3_100, Some((3_050, b))), "b", "nobody knows how far b was then");
    let mut both = scene();
    both.snapshot.servers[1].health = Health::Down;
    assert_eq!(both.choose(&rules(SESSION), 3_100, Some((2_900, a))), "wait", "b has not come as far as a had");
    let mut both = scene();
    both.snapshot.servers[2].health = Health::Down;
    assert_eq!(both.choose(&rules(SESSION), 3_100, Some((2_900, b))), "a", "a has what b had");
}

#[test]
fn a_replica_that_was_away_may_have_come_back_with_less() {
    let a = ServerName::parse("a").unwrap();
    let mut scene = Scene::new(&[(1_000, 10), (3_000, 30)]).replica("a", 3_050, 20, 0);
    let returned = scene.at(2_950);
    scene.last().since = returned;
    assert_eq!(scene.choose(&rules(SESSION), 3_100, Some((2_900, Server::Replica(&a)))), "wait");
    scene.last().seen = Some(Seen { role: Role::Replica, timeline: 1, lsn: Lsn(30), bound: Lsn(30) });
    assert_eq!(scene.choose(&rules(SESSION), 3_100, Some((2_900, Server::Replica(&a)))), "a");
}

#[test]
fn a_tenants_reads_show_what_anybody_wrote_before_they_were_asked_for() {
    let scene = Scene::new(&[(1_000, 10), (3_000, 30)]).replica("a", 3_000, 30, 0);
    assert_eq!(scene.choose(&rules(Consistency::Tenant), 2_999, None), "a");
    assert_eq!(scene.choose(&rules(Consistency::Tenant), 3_001, None), "wait", "somebody else may have written since");
}

#[test]
fn bounded_reads_are_no_older_than_they_may_be_and_eventual_ones_are() {
    let scene = Scene::new(&[(1_000, 10), (2_000, 20), (3_000, 30)]).replica("a", 3_000, 20, 0);
    let bounded = rules(Consistency::Bounded);
    assert_eq!(scene.choose(&bounded, 3_000, None), "a", "it has everything of 2,000");
    assert_eq!(scene.choose(&bounded, 3_001, None), "wait");
    assert_eq!(scene.choose(&rules(Consistency::Eventual), 9_000, None), "a");
}

#[test]
fn nobody_waits_for_a_replica_that_is_further_behind_than_the_wait() {
    let wrote = Some((3_001, Server::Primary));
    let scene = |lag| Scene::new(&[(3_000, 30)]).replica("a", 3_000, 30, lag);
    assert_eq!(scene(50).choose(&rules(SESSION), 3_100, wrote), "wait");
    assert_eq!(scene(51).choose(&rules(SESSION), 3_100, wrote), "primary");
    let impatient = ReadRules { wait: Duration::ZERO, ..rules(SESSION) };
    assert_eq!(scene(0).choose(&impatient, 3_100, wrote), "primary");
}

#[test]
fn right_behind_its_own_write_a_session_reads_from_the_primary() {
    let scene = Scene::new(&[(3_000, 30)]).replica("a", 3_000, 30, 0);
    let (wrote, rules) = (Some(scene.at(3_010)), rules(SESSION));
    let mut chosen = Vec::new();
    for now in [3_020, 3_059, 3_060] {
        let before = Some(Before { at: scene.at(3_015), by: Server::Primary, wrote });
        let now = scene.at(now);
        let read = Read { rules: &rules, regions: None, before, since: now, now, always: false };
        chosen.push(scene.name(choose(&scene.snapshot, &read, |_| Some(0), || [0.0; 4])));
    }
    assert_eq!(chosen, ["primary", "primary", "wait"]);
}

#[test]
fn one_that_is_far_behind_or_elsewhere_on_the_timelines_or_not_up_serves_nobody() {
    let eventual = rules(Consistency::Eventual);
    let scene = |change: fn(&mut ServerView)| {
        let mut scene = Scene::new(&[(1_000, 10)]).replica("a", 1_000, 10, 0);
        change(scene.last());
        scene.choose(&eventual, 1_100, None)
    };
    let lag = |ms| Some(Lag { bytes: 1, time: Duration::from_millis(ms) });
    assert_eq!(scene(|_| ()), "a");
    assert_eq!(scene(|view| view.worst_lag = Some(Lag { bytes: 1, time: 10_001 * MS })), "primary");
    assert_eq!(scene(|view| view.worst_lag = None), "primary");
    assert_eq!(scene(|view| view.seen.as_mut().unwrap().timeline = 0), "primary");
    assert_eq!(scene(|view| view.seen.as_mut().unwrap().role = Role::Primary), "primary");
    assert_eq!(scene(|view| view.health = Health::Suspect), "primary");
    let bytes = ReadRules { max_lag_bytes: Some(100), ..rules(Consistency::Eventual) };
    let mut scene = Scene::new(&[(1_000, 10)]).replica("a", 1_000, 10, 0);
    scene.last().worst_lag = lag(0).map(|lag| Lag { bytes: 101, ..lag });
    assert_eq!(scene.choose(&bytes, 1_100, None), "primary");
}

#[test]
fn who_reads_from_replicas_only_never_gets_the_primary() {
    let rules = rules(SESSION);
    let chosen = |scene: &Scene, before| {
        let now = scene.at(3_100);
        let read = Read { rules: &rules, regions: None, before, since: now, now, always: true };
        scene.name(choose(&scene.snapshot, &read, |_| Some(0), || [0.0; 4]))
    };
    let mut scene = Scene::new(&[(3_000, 30)]).replica("a", 3_000, 10, 0);
    let before = Before { at: scene.at(3_050), by: Server::Primary, wrote: None };
    assert_eq!(chosen(&scene, Some(before)), "a", "better what is older than nothing");
    scene.last().health = Health::Down;
    assert_eq!(chosen(&scene, None), "nobody");
}

#[test]
fn the_less_busy_of_two_serves_and_those_nearby_come_first() {
    let eventual = rules(Consistency::Eventual);
    let mut scene = Scene::new(&[(1_000, 10)]).replica("a", 1_000, 10, 0).replica("b", 1_000, 10, 0);
    let now = scene.at(1_100);
    let read = Read { rules: &eventual, regions: None, before: None, since: now, now, always: false };
    let pick = |scene: &Scene, busy: [Option<usize>; 2], chance: [f64; 4]| {
        let busy = |view: &ServerView| busy[usize::from(view.server.name.as_str() == "b")];
        scene.name(choose(&scene.snapshot, &read, busy, || chance))
    };
    for (first, second) in [(0.0, 0.0), (0.6, 0.0), (0.99, 0.99)] {
        let chance = [first, second, 0.5, 0.5];
        assert_eq!(pick(&scene, [Some(3), Some(2)], chance), "b");
        assert_eq!(pick(&scene, [Some(2), Some(3)], chance), "a");
        assert_eq!(pick(&scene, [None, Some(9)], chance), "b", "the login is not served at the other one");
    }
    // How often b serves, of a thousand times when nobody is busy.
    let share = |scene: &Scene| {
        let spread = |i: usize, by: f64| (i as f64 * by).fract();
        let chance = |i| [spread(i, 0.618), 0.0, spread(i, 0.7548), spread(i, 0.5698)];
        (0..1_000).filter(|i| pick(scene, [Some(0); 2], chance(*i)) == "b").count()
    };
    assert!(share(&scene).abs_diff(500) < 50, "{}", share(&scene));
    let server = config::Server { weight: 300, ..(*scene.last().server).clone() };
    scene.last().server = Arc::new(server);
    assert!(share(&scene).abs_diff(750) < 50, "three times the weight: {}", share(&scene));
    scene.snapshot.balance = Arc::new(Balance { near: None, slow_start: 10_000 * MS });
    scene.last().since = now - 2_000 * MS;
    scene.snapshot.servers[1].since = now - 20_000 * MS;
    assert!(share(&scene).abs_diff(375) < 50, "and a fifth of its start: {}", share(&scene));
    let server = config::Server { region: Region::parse("in").unwrap(), ..(*scene.last().server).clone() };
    scene.last().server = Arc::new(server);
    scene.snapshot.balance = Arc::new(Balance { near: Region::parse("in").ok(), slow_start: Duration::ZERO });
    assert_eq!(pick(&scene, [Some(0), Some(100)], [0.0; 4]), "b");
}

#[test]
fn what_was_read_from_a_replica_that_did_not_have_it_does_not_stand_for_ones_own_writes() {
    let a = ServerName::parse("a").unwrap();
    let scene = Scene::new(&[(1_000, 10), (3_000, 30)]).replica("a", 3_000, 20, 0);
    let (rules, now) = (rules(SESSION), scene.at(3_100));
    let chosen = |wrote: Option<u64>| {
        let wrote = wrote.map(|wrote| scene.at(wrote));
        let before = Some(Before { at: scene.at(3_050), by: Server::Replica(&a), wrote });
        let read = Read { rules: &rules, regions: None, before, since: now, now, always: false };
        scene.name(choose(&scene.snapshot, &read, |_| Some(0), || [0.0; 4]))
    };
    assert_eq!((chosen(None), chosen(Some(900)), chosen(Some(2_000))), ("a".into(), "a".into(), "wait".into()));
}

fn topologies() -> impl Strategy<Value = (Scene, Vec<Region>)> {
    let region = || prop::sample::select(vec!["lk", "in", "sg", "us"]);
    let server = (region(), any::<bool>(), 0..3u32, 0..3u8, prop::option::of((0..200u64, 0..20_000u64)), 0..5_000u64);
    let servers = prop::collection::vec(server, 0..6);
    let written = prop::collection::vec((0..5_000u64, 0..200u64), 0..5);
    (servers, written, prop::collection::vec(region(), 1..3), 0..3u32, prop::option::of(region())).prop_map(
        |(servers, mut written, regions, timeline, near)| {
            written.sort_unstable();
            let mut lsn = 0;
            written.iter_mut().for_each(|(_, place)| {
                lsn = lsn.max(*place);
                *place = lsn;
            });
            let mut scene = Scene::new(&written);
            scene.snapshot.timeline = timeline;
            let near = near.map(|near| Region::parse(near).unwrap());
            scene.snapshot.balance = Arc::new(Balance { near, slow_start: 1_000 * MS });
            for (i, (region, primary, on, health, told, since)) in servers.into_iter().enumerate() {
                let role = if primary { Role::Primary } else { Role::Replica };
                let mut view = view(&format!("s{i}"), region, role, scene.at(since));
                view.health = [Health::Up, Health::Suspect, Health::Down][usize::from(health)];
                view.seen = told.map(|(lsn, _)| Seen { role, timeline: on, lsn: Lsn(lsn), bound: Lsn(lsn) });
                view.worst_lag = told.map(|(_, ms)| Lag { bytes: 0, time: Duration::from_millis(ms) });
                view.lag = view.worst_lag;
                scene.snapshot.servers.push(view);
            }
            (scene, regions.into_iter().map(|region| Region::parse(region).unwrap()).collect())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever else is wished for.
    #[test]
    fn no_server_outside_the_tenants_regions_is_ever_chosen(
        (scene, regions) in topologies(),
        consistency in prop::sample::select(Consistency::ALL.map(|(_, consistency)| consistency).to_vec()),
        (always, now, chance) in (any::<bool>(), 4_000..6_000u64, prop::array::uniform4(0.0..1.0f64)),
        (before, by) in (prop::option::of(0..5_000u64), prop::option::of(0..6usize)),
    ) {
        let (rules, now) = (rules(consistency), scene.at(now));
        let by = by.and_then(|at| scene.snapshot.servers.get(at)).map_or(Server::Primary, |view| Server::Replica(&view.server.name));
        let before = before.map(|at| Before { at: scene.at(at), by, wrote: None });
        let read = Read { rules: &rules, regions: Some(&regions), before, since: now, now, always };
        match choose(&scene.snapshot, &read, |view| Some(view.server.name.as_str().len()), || chance) {
            Choice::Replica(at) => {
                let view = &scene.snapshot.servers[at];
                prop_assert!(regions.contains(&view.server.region), "{} is in {}", view.server.name, view.server.region);
                let seen = view.seen.unwrap();
                prop_assert_eq!((view.health, seen.role, seen.timeline), (Health::Up, Role::Replica, scene.snapshot.timeline));
                prop_assert!(view.worst_lag.unwrap().time <= rules.max_lag);
            }
            Choice::Nobody { .. } => prop_assert!(always),
            Choice::Primary { .. } | Choice::Wait(_) => prop_assert!(!always),
        }
    }
}
