//! What is done to the servers while players play: replicas fall behind, halt, freeze and crash, primaries are killed, and
//! whichever replica has most of their log takes over.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use pgward::base::Lsn;
use pgward::local::{Cluster, Host, Server};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::field::Field;
use super::history::Moment;
use super::support::replicated::{promote, shown, signal_all};
use super::support::until;

pub struct Nemesis<'a> {
    field: &'a Field,
    cluster: Cluster,
    /// Which of the cluster's servers.
    primary: usize,
    /// Who has been killed and not come back.
    left_out: Option<usize>,
    chance: StdRng,
    /// Which port was the primary's since when.
    primaries: Vec<(Moment, u16)>,
    /// What was done, and when.
    pub did: Vec<(Moment, String)>,
    pub counts: BTreeMap<&'static str, usize>,
}

/// What a server says of the log that it has.
struct Log {
    has: Lsn,
    timeline: i32,
    streams: bool,
}

impl<'a> Nemesis<'a> {
    pub fn new(field: &'a Field, cluster: Cluster, seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed);
        let primaries = vec![(Moment::ZERO, cluster.primary().port())];
        let (did, counts) = (Vec::new(), BTreeMap::new());
        Self { field, cluster, primary: 0, left_out: None, chance, primaries, did, counts }
    }

    /// One fault of a replica, which is over at the end but for its delay.
    pub async fn trouble(&mut self) {
        let replicas = self.replicas();
        let at = replicas[self.chance.random_range(0..replicas.len())];
        match self.chance.random_range(0..17) {
            0..9 => {
                let delay = [0, 0, 0, 20, 60, 150, 300][self.chance.random_range(0..7)];
                self.note("delay", at, &format!("applies after {delay} ms"));
                self.delay(at, delay).await;
            }
            9..13 => {
                let pause = self.millis(20..500);
                self.note("pause", at, &format!("does not replay for {pause:?}"));
                self.server(at).run("postgres", "pause", "select pg_wal_replay_pause()").await.unwrap();
                sleep(pause).await;
                self.server(at).run("postgres", "resume", "select pg_wal_replay_resume()").await.unwrap();
            }
            13..15 => {
                let pause = self.millis(20..1_200);
                self.note("freeze", at, &format!("is frozen for {pause:?}"));
                signal_all(self.server(at), "-STOP");
                sleep(pause).await;
                signal_all(self.server(at), "-CONT");
            }
            _ => self.restart(at).await,
        }
    }

    /// A replica crashes, or but one of its processes, and is back at once, having forgotten some of what it has shown:
    /// of what was committed lately it waits to replay it once more.
    async fn restart(&mut self, at: usize) {
        self.delay(at, 2_000).await;
        if self.chance.random() {
            self.note("crash", at, "crashes and comes back");
            crash(self.server(at)).await;
            self.server_mut(at).kill().await.unwrap();
            self.server_mut(at).start().await.unwrap();
        } else {
            self.note("restart", at, "loses a process and restarts the others");
            restart_in_place(self.server(at)).await;
        }
        let pause = self.millis(100..1_500);
        sleep(pause).await;
        self.delay(at, 0).await;
        self.follows(at).await;
    }

    /// The primary is killed, and a replica promoted that has all that was acknowledged.
    pub async fn fail_over(&mut self) {
        if let Some(at) = self.left_out.take() {
            self.rebuild(at).await;
        }
        for at in self.replicas() {
            self.follows(at).await;
        }
        let (old, stunned) = (self.primary, self.chance.random());
        if stunned {
            // Nobody confirms anything: what is written is in doubt when the primary dies, and some of it gone.
            self.replicas().into_iter().for_each(|at| signal_all(self.server(at), "-STOP"));
            let pause = self.millis(20..400);
            sleep(pause).await;
        }
        self.note("failover", old, if stunned { "is killed, its replicas being frozen" } else { "is killed" });
        crash(self.server(old)).await;
        if stunned {
            self.replicas().into_iter().for_each(|at| signal_all(self.server(at), "-CONT"));
        }
        self.server_mut(old).kill().await.unwrap();
        self.left_out = Some(old);
        let pause = self.millis(0..400);
        sleep(pause).await;
        let new = self.most_advanced().await;
        self.note("promotion", new, "is promoted");
        // As soon as it may answer as one.
        self.primaries.push((self.field.now(), self.server(new).port()));
        promote(self.server(new)).await;
        self.primary = new;
        for at in self.replicas() {
            let pause = self.millis(0..300);
            sleep(pause).await;
            self.follow(at).await;
        }
        let name = self.server(new).name().to_owned();
        until("writes to the new primary", async || shown(&self.field.stage, &name).await[2] == "yes").await;
        let stays_out = self.chance.random_ratio(1, 3);
        if !stays_out {
            self.left_out = None;
            self.rebuild(old).await;
        }
        self.note("end", new, "is the primary that all know");
    }

    /// Nobody is behind any more. A connection to the primary.
    pub async fn heal(&mut self) -> tokio_postgres::Client {
        for at in self.replicas() {
            self.delay(at, 0).await;
            self.follows(at).await;
        }
        self.server(self.primary).connect("app").await.unwrap()
    }

    /// Whether what this server answered then may have been the primary's answer.
    pub fn was_primary(&self, port: u16, sent: Moment) -> bool {
        let until = |at: usize| self.primaries.get(at + 1).map(|(since, _)| *since);
        self.primaries.iter().enumerate().any(|(at, (since, primary))| {
            // Who is asked before a promotion may be answered behind it.
            let since = since.saturating_sub(Duration::from_secs(2));
            *primary == port && since <= sent && until(at).is_none_or(|until| sent <= until)
        })
    }

    fn server(&self, at: usize) -> &Server {
        self.cluster.servers().nth(at).unwrap()
    }

    fn server_mut(&mut self, at: usize) -> &mut Server {
        self.cluster.servers_mut().nth(at).unwrap()
    }

    fn replicas(&self) -> Vec<usize> {
        let all = 0..self.cluster.servers().count();
        all.filter(|at| *at != self.primary && Some(*at) != self.left_out).collect()
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.chance.random_range(range))
    }

    fn note(&mut self, what: &'static str, at: usize, how: &str) {
        *self.counts.entry(what).or_default() += 1;
        let text = format!("{} (port {}) {how}", self.server(at).name(), self.server(at).port());
        self.did.push((self.field.now(), text));
    }

    async fn delay(&self, at: usize, delay: u64) {
        self.set(at, "recovery_min_apply_delay", &format!("{delay}ms")).await;
        self.reload(at).await;
    }

    async fn set(&self, at: usize, name: &str, value: &str) {
        let text = format!("alter system set {name} = '{value}'");
        self.server(at).run("postgres", "change a setting", &text).await.unwrap();
    }

    async fn reload(&self, at: usize) {
        self.server(at).run("postgres", "reload", "select pg_reload_conf()").await.unwrap();
    }

    async fn log(&self, at: usize) -> Log {
        let sql = "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text,
            coalesce((select received_tli from pg_stat_wal_receiver), 0),
            coalesce((select status = 'streaming' from pg_stat_wal_receiver), false)";
        let client = self.server(at).connect("postgres").await.unwrap();
        let row = client.query_one(sql, &[]).await.unwrap();
        Log { has: Lsn::parse(row.get(0)).unwrap(), timeline: row.get(1), streams: row.get(2) }
    }

    /// Waits until a replica receives what the primary writes and has what it had written by now.
    async fn follows(&self, at: usize) {
        let primary = self.server(self.primary).connect("postgres").await.unwrap();
        let sql = "select pg_current_wal_flush_lsn()::text,
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
        let row = primary.query_one(sql, &[]).await.unwrap();
        let (written, timeline) = (Lsn::parse(row.get(0)).unwrap(), row.get::<_, i32>(1));
        until("a replica's following", async || {
            let log = self.log(at).await;
            log.streams && log.timeline == timeline && log.has >= written
        })
        .await;
    }

    /// Once nobody receives anything any more, the one that has received most: it has what the others have shown and what
    /// any of them has confirmed.
    async fn most_advanced(&self) -> usize {
        let mut best = None;
        for at in self.replicas() {
            until("the end of the stream", async || !self.log(at).await.streams).await;
            best = best.max(Some((self.log(at).await.has, at)));
        }
        best.unwrap().1
    }

    fn primary_of(&self, at: usize) -> String {
        format!("{}?application_name={}", self.server(self.primary).url(), self.server(at).name())
    }

    async fn follow(&self, at: usize) {
        // The slot was at the primary before.
        self.set(at, "primary_slot_name", "").await;
        self.set(at, "primary_conninfo", &self.primary_of(at)).await;
        self.reload(at).await;
    }

    /// A server that was killed comes back as a replica, with what the primary has.
    async fn rebuild(&mut self, at: usize) {
        let (host, data) = (Host::find().unwrap(), self.server(at).data().to_owned());
        std::fs::remove_dir_all(&data).unwrap();
        let mut command = host.command(host.binary("pg_basebackup"));
        command.args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data);
        command.arg("--dbname").arg(format!("{}?application_name=copy", self.server(self.primary).url()));
        let copied = tokio::process::Command::from(command).output().await.unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let settings = data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&settings).unwrap();
        let own = [
            ("primary_conninfo", self.primary_of(at)),
            ("primary_slot_name", String::new()),
            ("recovery_min_apply_delay", "0".to_owned()),
        ];
        let own: String = own.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
        std::fs::write(&settings, text + &own).unwrap();
        let signal = data.join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        host.own(&signal).unwrap();
        self.server_mut(at).start().await.unwrap();
        self.note("rebuilt", at, "is a replica again");
    }
}

/// All processes of a server at once, so that none of them notices that others are gone: as if the machine had lost its
/// power, but for the log, which has been handed over to it.
async fn crash(server: &Server) {
    let mut pids = vec![server.pid().unwrap().to_string()];
    kill("-STOP", &pids);
    // What it was about to begin when it was stopped comes a moment later.
    for _ in 0..2 {
        let children = Command::new("pgrep").args(["-P", &pids[0]]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        let fresh = |pid: &&str| !pids.iter().any(|known| known == pid);
        let fresh: Vec<String> = children.split_whitespace().filter(fresh).map(str::to_owned).collect();
        kill("-STOP", &fresh);
        pids.extend(fresh);
    }
    kill("-KILL", &pids);
    let ended = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
    };
    until("the end of its processes", async || pids.iter().all(ended)).await;
}

/// A server one of whose processes is killed ends the others and begins anew from its last restart point.
pub async fn restart_in_place(server: &Server) {
    let process = "select pid from pg_stat_activity where backend_type = 'background writer'";
    let client = server.connect("postgres").await.unwrap();
    let process: i32 = client.query_one(process, &[]).await.unwrap().get(0);
    kill("-KILL", &[process.to_string()]);
    until("the end of the connection", async || client.is_closed()).await;
    until("its return", async || server.connect("postgres").await.is_ok()).await;
}

fn kill(signal: &str, pids: &[String]) {
    if !pids.is_empty() {
        Command::new("kill").arg(signal).args(pids).status().unwrap();
    }
}
