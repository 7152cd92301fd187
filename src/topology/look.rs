//! What a cluster's servers are at one moment, without a running pgward: they are asked as it asks them, and what they say
//! is judged by the same rules.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::board::{Board, Topology};
use super::patroni::Asker;
use super::probe::{Probed, ask_within};
use super::snapshot::Snapshot;
use crate::base::{Region, causes};
use crate::config::{Cluster, Probe, ProbeRules};

/// Where nobody asks the servers while pgward runs, since there is nothing to choose between.
const ONCE: ProbeRules = ProbeRules {
    interval: Duration::from_millis(500),
    timeout: Duration::from_secs(2),
    down_after: Duration::from_secs(3),
    up_after: 2,
};

/// Who takes the writes must be known before the others can be said to be behind it.
const ROUNDS: usize = 2;

/// A cluster as it was found.
#[derive(Debug)]
pub struct Look {
    /// With the members that Patroni told of.
    pub cluster: Arc<Cluster>,
    pub snapshot: Arc<Snapshot>,
    /// When the first question was sent.
    pub began: Instant,
    /// Why what the configuration says has to be taken for what is.
    pub unasked: Option<&'static str>,
    /// Why Patroni did not tell.
    pub patroni: Option<String>,
}

/// `probed`: how a cluster's servers are asked; nobody where there is no login to ask them as.
pub async fn look(cluster: &Cluster, near: Option<&Region>, probed: impl Fn(&Cluster) -> Vec<Probed>) -> Look {
    let (began, topology) = (Instant::now(), Topology::default());
    let mut cluster = cluster.clone();
    let asks = cluster.service.is_some();
    let once = || Probe { database: "postgres".to_owned(), rules: ONCE };
    let probe = cluster.probe.clone().or_else(|| asks.then(once));
    let in_force = |cluster: &Cluster| Arc::new(Cluster { probe: probe.clone(), ..cluster.clone() });
    let mut board = topology.renew(&in_force(&cluster), near);
    let mut patroni = None;
    if let Some(rules) = cluster.patroni.clone() {
        match Asker::new(Arc::clone(&rules)).ask().await {
            Ok(told) => {
                board.told(began, told, &rules);
                cluster.members = topology.members(&cluster);
                board = topology.renew(&in_force(&cluster), near);
            }
            Err(error) => patroni = Some(causes(&error)),
        }
    }
    let unasked = match &probe {
        Some(probe) => {
            ask_all(&board, probed(&cluster), probe.rules.timeout).await;
            None
        }
        None => Some("there is no service login to ask the servers as"),
    };
    Look { snapshot: board.snapshot(), cluster: Arc::new(cluster), began, unasked, patroni }
}

async fn ask_all(board: &Board, probed: Vec<Probed>, limit: Duration) {
    let mut due: Vec<_> = probed.into_iter().map(|probed| (probed, None)).collect();
    for _ in 0..ROUNDS {
        let mut asking = JoinSet::new();
        for (probed, mut backend) in due.drain(..) {
            asking.spawn(async move {
                let asked = Instant::now();
                let answer = ask_within(limit, &mut backend, &probed).await;
                (asked, answer, probed, backend)
            });
        }
        while let Some(done) = asking.join_next().await {
            let Ok((asked, answer, probed, backend)) = done else { continue };
            board.note(&probed.server, asked, answer);
            // Who does not answer is not waited for twice.
            if backend.is_some() {
                due.push((probed, backend));
            }
        }
    }
}
