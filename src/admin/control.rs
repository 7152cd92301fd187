//! What the console and HTTP may see and do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::audit::Source;
use crate::base::NodeName;
use crate::catalogue::Standing;
use crate::pool::{BackendRow, PoolRow};
use crate::session::{ClientRow, Command, CoreHandle, Shared};

/// Asked of the control plane.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration again. A refusal that is known already is not told or recorded once more.
    Reload { source: Source, known: Option<ReloadError>, reply: oneshot::Sender<Result<(), ReloadError>> },
    /// Take up the servers that Patroni has told of.
    Members,
    /// Let sessions finish that have come by this node. By the control plane, as all that is sent to all cores: they get
    /// it in one order.
    DrainOf(NodeName),
    /// Drain and end.
    Shutdown,
}

/// Why a reload was refused; the old configuration stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ReloadError(pub Vec<String>);

impl ReloadError {
    /// In whatever order.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let sorted = |Self(problems): &Self| {
            let mut problems = problems.clone();
            problems.sort();
            problems
        };
        sorted(self) == sorted(other)
    }
}

/// A handle; clones are the same proxy.
#[derive(Clone)]
pub struct Control {
    pub shared: Arc<Shared>,
    pub cores: Arc<[CoreHandle]>,
    requests: mpsc::UnboundedSender<Request>,
    /// Cancelled when draining begins. Consoles end then, since each is a client that the drain waits for.
    pub draining: CancellationToken,
    /// `None`: the tenants stand in files.
    pub catalogue: Option<Arc<Standing>>,
}

impl Control {
    pub fn new(
        shared: Arc<Shared>,
        cores: Arc<[CoreHandle]>,
        requests: mpsc::UnboundedSender<Request>,
        draining: CancellationToken,
        catalogue: Option<Arc<Standing>>,
    ) -> Self {
        Self { shared, cores, requests, draining, catalogue }
    }

    /// Patroni has told of other servers than before.
    pub fn members_changed(&self) {
        // A proxy that has ended has no use for them.
        let _ = self.requests.send(Request::Members);
    }

    /// Another node is shutting down.
    pub fn drain_of(&self, node: NodeName) {
        let _ = self.requests.send(Request::DrainOf(node));
    }

    /// As somebody at the console asks for it.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        self.reload_for(Source::Console).await
    }

    pub async fn reload_for(&self, source: Source) -> Result<(), ReloadError> {
        self.reload_again(source, None).await
    }

    /// After a refusal, which may be no more.
    pub async fn reload_again(&self, source: Source, known: Option<ReloadError>) -> Result<(), ReloadError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ReloadError(vec!["pgward is shutting down".to_owned()]);
        self.requests.send(Request::Reload { source, known, reply }).map_err(|_| gone())?;
        // Once it drains, the proxy hears no requests; one that is under way is not waited for.
        tokio::select! {
            answer = answer => answer.map_err(|_| gone())?,
            () = self.draining.cancelled() => Err(gone()),
        }
    }

    pub fn shutdown(&self) {
        // Nobody there to hear it means that it has happened.
        let _ = self.requests.send(Request::Shutdown);
    }

    pub async fn clients(&self) -> Vec<ClientRow> {
        let mut rows = Vec::new();
        for core in self.cores.iter() {
            rows.extend(core.ask(Command::Clients).await.unwrap_or_default());
        }
        rows
    }

    pub async fn backends(&self) -> Vec<BackendRow> {
        let mut rows = Vec::new();
        for core in self.cores.iter() {
            rows.extend(core.ask(Command::Backends).await.unwrap_or_default());
        }
        rows.extend(self.shared.hubs.backends(std::time::Instant::now()));
        rows
    }

    /// All pools, each with how many of its backends are idle.
    pub async fn pools(&self) -> Vec<(PoolRow, usize)> {
        let mut idle = std::collections::HashMap::new();
        for core in self.cores.iter() {
            for (pool, count) in core.ask(Command::Idle).await.unwrap_or_default() {
                *idle.entry(pool).or_insert(0) += count;
            }
        }
        let rows = self.shared.pools.rows().into_iter();
        rows.map(|row| {
            let idle = idle.get(&row.id).copied().unwrap_or(0).min(row.open);
            (row, idle)
        })
        .collect()
    }

    pub fn client_count(&self) -> usize {
        self.shared.clients.load(Ordering::Relaxed)
    }
}
