//! The wiring: threads, listeners, signals, reload and the one way to shut down.
//!
//! ```text
//!   control runtime    listeners, JWKS refreshers, HTTP, signals, reload, shutdown
//!     | deals clients, asks for lists
//!   core 0 .. n        a thread, a runtime, its sessions and its shard of every pool; signatures are checked by
//!                      threads beside it that stand back
//! ```
//!
//! Running, then draining (no new clients, idle ones told 57P01, transactions finish), then closing
//! (what still runs is ended), then stopped.

mod balance;
mod cores;
mod follow;
mod functions;
mod listen;
mod pace;
mod reload;
mod tenants;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::follow::Followers;
use crate::admin::{Control, ReloadError, Request, http};
use crate::audit::{Audit, AuditError, Event, Here, Source};
use crate::base::{NodeName, clock};
use crate::catalogue::Standing;
use crate::config::Settings;
use crate::session::{self, Command, Door, Kick, Shared, World, WorldError};
use crate::sidecar;
use crate::sidecar::maintenance::Keeper;
use crate::telemetry;
use crate::tenant::SEALED_ANEW;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("a thread or its runtime could not be started")]
    Thread(#[source] std::io::Error),
}

/// A proxy that runs. Several can run in one process.
pub struct Proxy {
    pub addresses: Vec<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub control: Control,
    requests: mpsc::UnboundedReceiver<Request>,
    path: PathBuf,
    /// Cancelled when draining begins.
    draining: CancellationToken,
    /// Cancelled at the end, for what belongs to the control plane.
    stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    followers: Followers,
}

/// Runs until SIGTERM, SIGINT or the console's SHUTDOWN. SIGHUP reloads.
pub fn run(path: PathBuf, settings: Settings) -> Result<(), RunError> {
    telemetry::init(&settings.log);
    raise_file_limit(settings.listen.max_clients);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Thread)?;
    runtime.block_on(async {
        let proxy = Proxy::start(path, settings).await?;
        let (addresses, http) = (&proxy.addresses, &proxy.http);
        tracing::info!(?addresses, ?http, cores = proxy.control.cores.len(), "pgward is ready");
        proxy.serve_signals().await
    })
}

/// Each client and each backend takes a file descriptor, and the soft limit is often 1024.
fn raise_file_limit(clients: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < clients as u64 {
        tracing::warn!(
            files,
            clients,
            "fewer files may be open than listen.max_clients allows clients; raise ulimit -n"
        );
    }
}

/// Has the contexts of tenants sealed anew, again and again: what is old is not taken any more.
async fn seal_anew(shared: Arc<Shared>, stop: CancellationToken) {
    let mut due = tokio::time::interval(SEALED_ANEW);
    while stop.run_until_cancelled(due.tick()).await.is_some() {
        if let Some(sealer) = &shared.world.load().sealer {
            sealer.grow_old();
        }
    }
}

/// Whether there are any is looked at again and again: a reload may bring them.
fn keep_backups(shared: &Arc<Shared>, stop: &CancellationToken) {
    let of = Arc::clone(shared);
    let source: sidecar::backup::Source = Arc::new(move || Arc::clone(&of.world.load().settings));
    tokio::spawn(sidecar::backup::keep(source, Arc::clone(&shared.telemetry), stop.clone()));
}

/// What began with an old catalogue says so.
fn tell_cached(control: &Control) {
    let world = control.shared.world.load();
    if let Some(catalogue) = world.settings.catalogue.as_ref().filter(|catalogue| catalogue.snapshot.cached) {
        let (place, of) = (catalogue.place(), clock::timestamp(catalogue.snapshot.at));
        tracing::warn!(catalogue = %place, %of, "the catalogue could not be read, so its cache is in force");
    }
}

impl Proxy {
    /// Starts threads and listeners on the calling runtime. `path` is what a reload reads.
    pub async fn start(path: PathBuf, settings: Settings) -> Result<Self, RunError> {
        let listen = settings.listen.clone();
        let http = settings.http;
        let forwarding = settings.forwarding.as_ref().and_then(|forwarding| forwarding.listen);
        let catalogue = Standing::of(&settings).map(Arc::new);
        let world = World::new(settings, None)?;
        let telemetry = Arc::new(telemetry::Telemetry::new());
        let audit = Audit::start(world.settings.audit.as_ref(), Here::from(&*world.settings), &telemetry)?;
        let shared = Arc::new(Shared::new(world, listen.cores, telemetry, audit));
        let cell = cores::ControlCell::default();
        let (cores, threads) = cores::start(&shared, listen.cores, &cell).map_err(RunError::Thread)?;
        let (sender, requests) = mpsc::unbounded_channel();
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let control = Control::new(Arc::clone(&shared), cores, sender, draining.clone(), catalogue.clone());
        // Set once, here.
        let _ = cell.set(control.clone());
        reload::spawn_refreshers(&shared);
        let followers = Followers::default();
        followers.renew(&control);
        tokio::spawn(functions::keep(Arc::clone(&shared), stop.clone()));
        tokio::spawn(Keeper::new(Arc::clone(&shared), control.catalogue.clone()).run(stop.clone()));
        tokio::spawn(seal_anew(Arc::clone(&shared), stop.clone()));
        keep_backups(&shared, &stop);
        let mut addresses = Vec::new();
        for address in listen.addresses {
            let listener = listen::bind(address).map_err(|source| RunError::Listen { address, source })?;
            addresses.push(listener.local_addr().map_err(|source| RunError::Listen { address, source })?);
            tokio::spawn(listen::accept(listener, Door::Clients, control.clone(), draining.clone()));
        }
        if let Some(address) = forwarding {
            let failed = |source| RunError::Listen { address, source };
            let listener = listen::bind(address).map_err(failed)?;
            tokio::spawn(listen::accept(listener, Door::Nodes, control.clone(), draining.clone()));
        }
        let mut http_address = None;
        if let Some(address) = http {
            let failed = |source| RunError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            http_address = Some(listener.local_addr().map_err(failed)?);
            tokio::spawn(http::serve(listener, control.clone(), draining.clone(), stop.clone()));
        }
        tokio::spawn(reload::watch(control.clone()));
        if let Some(standing) = catalogue {
            tell_cached(&control);
            tenants::keep(&control);
            tokio::spawn(tenants::watch(control.clone(), standing));
        }
        Ok(Self { addresses, http: http_address, control, requests, path, draining, stop, threads, followers })
    }

    async fn serve_signals(mut self) -> Result<(), RunError> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = |kind| signal(kind).map_err(RunError::Thread);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let source = loop {
            tokio::select! {
                _ = terminate.recv() => break Source::Signal,
                _ = interrupt.recv() => break Source::Signal,
                _ = hangup.recv() => drop(self.reload(Source::Signal, None).await),
                request = self.requests.recv() => match request {
                    Some(Request::Reload { source, known, reply }) => {
                        drop(reply.send(self.reload(source, known.as_ref()).await));
                    }
                    Some(Request::Members) => self.take_members(),
                    Some(Request::DrainOf(node)) => self.drain_of(&node),
                    Some(Request::Shutdown) | None => break Source::Console,
                },
            }
        };
        self.control.shared.audit.record(|| Event::Shutdown { source });
        self.shutdown().await;
        Ok(())
    }

    /// For tests and other hosts: serves reloads until SHUTDOWN is asked for, or for ever.
    pub async fn serve(mut self) {
        while let Some(request) = self.requests.recv().await {
            match request {
                Request::Reload { source, known, reply } => {
                    drop(reply.send(self.reload(source, known.as_ref()).await));
                }
                Request::Members => self.take_members(),
                Request::DrainOf(node) => self.drain_of(&node),
                Request::Shutdown => break,
            }
        }
        self.control.shared.audit.record(|| Event::Shutdown { source: Source::Console });
        self.shutdown().await;
    }

    /// `known`: a refusal that is not told or recorded once more.
    async fn reload(&self, source: Source, known: Option<&ReloadError>) -> Result<(), ReloadError> {
        let outcome = reload::reload(&self.path, &self.control).await;
        if outcome.is_ok() {
            self.followers.renew(&self.control);
            tenants::keep(&self.control);
        }
        let again = known.zip(outcome.as_ref().err()).is_some_and(|(known, error)| known.says_the_same(error));
        if !again {
            reload::tell(&self.path, &outcome);
            self.control.shared.audit.record(|| Event::Reload { source, done: outcome.is_ok() });
        }
        outcome
    }

    fn take_members(&self) {
        reload::take_members(&self.control);
        self.followers.renew(&self.control);
    }

    /// Drains up to the configured time, then ends what is left.
    pub async fn shutdown(mut self) {
        let limit = self.control.shared.world.load().settings.listen.drain_timeout;
        tracing::info!(clients = self.control.client_count(), limit = ?limit, "draining");
        self.draining.cancel();
        self.kick(Kick::Drain);
        let shared = Arc::clone(&self.control.shared);
        if shared.forwarded.load(Ordering::Relaxed) > 0 {
            tokio::spawn(async move { session::drain(&shared).await });
        }
        if !self.emptied(limit).await {
            tracing::warn!(clients = self.control.client_count(), "the drain took too long; ending what is left");
            self.kick(Kick::Stop);
            self.emptied(Duration::from_secs(5)).await;
        }
        self.stop.cancel();
        for core in self.control.cores.iter() {
            core.ask(Command::Flush).await;
            core.send(Command::End);
        }
        for thread in std::mem::take(&mut self.threads) {
            // A core that panicked has been logged; the others end all the same.
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        // Last, since the ends of sessions are recorded too.
        self.control.shared.audit.stop().await;
        tracing::info!("stopped");
    }

    fn drain_of(&self, node: &NodeName) {
        self.control.cores.iter().for_each(|core| core.send(Command::DrainOf(node.clone())));
    }

    fn kick(&self, kick: Kick) {
        self.control.cores.iter().for_each(|core| core.send(Command::Kick(kick)));
    }

    async fn emptied(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.control.shared.clients.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}
