//! One backend that listens for all sessions of a pool, and tells each what it listens to.
//!
//! A channel's name on the server is the tenant's own where tenants share a database, so what comes for a
//! name is for those sessions and for no others.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::core::Core;
use super::entry::Held;
use super::introduce::hand_over;
use super::mailbox::{Mailbox, Stopped};
use super::refuse::{self, Loss};
use crate::base::{Party, Report, Severity};
use crate::pool::{BackendRow, Budget, Lease, Local, Pool, Request};
use crate::sql::identifier;
use crate::tenant::Context;
use crate::wire::{Header, Origin, backend as answer, frame, frontend};

/// What `pg_stat_activity` shows of a hub: no tenant is to learn a channel's name there.
const AT_REST: &[u8] = b"/* pgward listens for sessions */";

/// How long the server may take to subscribe.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) enum Command {
    /// Sends what comes for this channel to this mailbox from now on.
    Listen { channel: Arc<str>, to: Arc<Mailbox>, done: oneshot::Sender<Result<(), Report>> },
    /// No more of these for this one.
    Unlisten { channels: Vec<Arc<str>>, to: Arc<Mailbox> },
}

/// The hubs of all pools, by the pools' numbers.
#[derive(Debug, Default)]
pub struct Hubs(Mutex<HashMap<usize, Known>>);

#[derive(Debug)]
struct Known {
    commands: mpsc::UnboundedSender<Command>,
    /// Its server's.
    budget: Arc<Budget>,
    /// Its backend, and since when it listens.
    backend: Option<(Held, Instant)>,
}

impl Hubs {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pool has a hub, or can have one: they are not to use up what a server has for requests. `serves`:
    /// nor what the pool has for them.
    pub(super) fn has_room(&self, pool: &Pool, serves: bool) -> bool {
        let hubs = self.lock();
        let others = || hubs.values().filter(|hub| Arc::ptr_eq(&hub.budget, pool.budget())).count();
        (pool.max() > 1 || !serves) && (hubs.contains_key(&pool.id()) || others() < pool.budget().max() / 4)
    }

    /// For the console.
    pub fn backends(&self, now: Instant) -> Vec<BackendRow> {
        let row = |pool: usize, (held, since): (Held, Instant)| BackendRow {
            pool,
            pid: held.pid,
            tenant: None,
            client: None,
            listens: true,
            age: now.duration_since(held.born),
            in_state: now.duration_since(since),
            close_needed: false,
        };
        self.lock().iter().filter_map(|(pool, hub)| Some(row(*pool, hub.backend?))).collect()
    }

    fn opened(&self, pool: usize, lease: &Lease) {
        let backend = &lease.conn.backend;
        if let Some(hub) = self.lock().get_mut(&pool) {
            hub.backend =
                Some((Held { pool: lease.local().pool.id(), pid: backend.pid, born: backend.born }, lease.since));
        }
    }

    /// Commands the pool's hub, which is made if there is none. Says how to reach it.
    pub(super) fn command(core: &Rc<Core>, local: &Rc<Local>, command: Command) -> mpsc::UnboundedSender<Command> {
        let mut hubs = core.shared.hubs.lock();
        let command = match hubs.get(&local.pool.id()) {
            Some(hub) => match hub.commands.send(command) {
                Ok(()) => return hub.commands.clone(),
                Err(mpsc::error::SendError(command)) => command,
            },
            None => command,
        };
        let (sender, commands) = mpsc::unbounded_channel();
        // It cannot fail: the other end is at hand.
        let _ = sender.send(command);
        hubs.insert(
            local.pool.id(),
            Known { commands: sender.clone(), budget: Arc::clone(local.pool.budget()), backend: None },
        );
        tokio::task::spawn_local(run(Rc::clone(core), Rc::clone(local), commands));
        sender
    }
}

/// Why a hub ends before its time.
enum Fault {
    /// The backend is gone or not to be understood.
    Server,
    /// There is none to be had.
    NoBackend(Report),
}

struct Hub {
    lease: Lease,
    input: BytesMut,
    /// Who listens to a channel.
    listeners: HashMap<Arc<str>, Vec<Arc<Mailbox>>>,
}

async fn run(core: Rc<Core>, local: Rc<Local>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let fault = match open(&core, &local).await {
        Ok(mut hub) => match hub.serve(&core, &local, &mut commands).await {
            Ok(()) => {
                // It cost the server nothing all the while.
                hub.lease.since = Instant::now();
                return core.shard.release(hub.lease, Instant::now());
            }
            Err(fault) => {
                tracing::warn!(database = local.pool.key.database, "the backend that listened for sessions is lost");
                hub.listeners.values().flatten().for_each(|mailbox| mailbox.stop(Stopped::Lost));
                fault
            }
        },
        Err(report) => Fault::NoBackend(report),
    };
    // Whoever comes from now on gets another hub.
    core.shared.hubs.lock().remove(&local.pool.id());
    commands.close();
    while let Some(command) = commands.recv().await {
        if let Command::Listen { done, .. } = command {
            let report = match &fault {
                Fault::Server => refuse::server_lost(Loss::Nothing),
                Fault::NoBackend(report) => report.clone(),
            };
            let _ = done.send(Err(Report { severity: Severity::Error, ..report }));
        }
    }
}

async fn open(core: &Core, local: &Rc<Local>) -> Result<Hub, Report> {
    // Listening needs no rights, so its session is nobody's.
    let context = Context::plain(Party::Database("".into()), "").with_settings(&[
        // It is idle for as long as anybody listens.
        ("idle_session_timeout".to_owned(), "0".to_owned()),
    ]);
    let context = core.shared.contexts.shared(context);
    let request = Request { context: &context, usage: &core.shared.listening, max_leases: usize::MAX };
    let mut lease = core.shard.acquire(local, request).await.map_err(|error| refuse::acquire(&error))?;
    hand_over(&mut lease, &context).await?;
    core.shared.hubs.opened(local.pool.id(), &lease);
    Ok(Hub { lease, input: BytesMut::new(), listeners: HashMap::new() })
}

impl Hub {
    /// Until nobody listens any more.
    async fn serve(
        &mut self,
        core: &Core,
        local: &Local,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<(), Fault> {
        let era = self.lease.conn.era();
        loop {
            tokio::select! {
                biased;
                // The server has nothing to say any more that happens at the primary.
                () = local.pool.head().outdated(era) => return Err(Fault::Server),
                command = commands.recv() => match command {
                    Some(command) => tokio::select! {
                        biased;
                        () = local.pool.head().outdated(era) => return Err(Fault::Server),
                        done = tokio::time::timeout(PATIENCE, self.obey(command)) => done.map_err(|_| Fault::Server)??,
                    },
                    None => return Ok(()),
                },
                read = self.lease.conn.backend.stream.read_buf(&mut self.input) => {
                    if !matches!(read, Ok(n) if n > 0) {
                        return Err(Fault::Server);
                    }
                    while self.message()?.is_some() {}
                }
            }
            if self.listeners.is_empty() {
                let mut hubs = core.shared.hubs.lock();
                // Commands are sent under this lock.
                if commands.is_empty() {
                    hubs.remove(&local.pool.id());
                    return Ok(());
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Listen { channel, to, done } => {
                let known = self.listeners.contains_key(&channel);
                let outcome =
                    if known { Ok(()) } else { self.run(&format!("LISTEN {}", identifier(&channel))).await? };
                if outcome.is_ok() {
                    self.listeners.entry(channel).or_default().push(to);
                }
                // A session that is gone says so by itself.
                let _ = done.send(outcome);
            }
            Command::Unlisten { channels, to } => {
                for channel in channels {
                    let Some(listeners) = self.listeners.get_mut(&channel) else { continue };
                    listeners.retain(|mailbox| !Arc::ptr_eq(mailbox, &to));
                    if listeners.is_empty() {
                        self.listeners.remove(&channel);
                        let _ = self.run(&format!("UNLISTEN {}", identifier(&channel))).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs a statement. The inner error is the server's.
    async fn run(&mut self, text: &str) -> Result<Result<(), Report>, Fault> {
        let mut out = Vec::new();
        frontend::put_text(&mut out, b'Q', text.as_bytes());
        frontend::put_text(&mut out, b'Q', AT_REST);
        let stream = &mut self.lease.conn.backend.stream;
        stream.write_all(&out).await.map_err(|_| Fault::Server)?;
        stream.flush().await.map_err(|_| Fault::Server)?;
        let (mut outcome, mut answers) = (Ok(()), 0);
        loop {
            match self.message()? {
                Some(b'Z') => {
                    answers += 1;
                    if answers == 2 {
                        return Ok(outcome);
                    }
                }
                Some(b'E') => outcome = Err(refuse::not_listening()),
                Some(_) => {}
                None => match self.lease.conn.backend.stream.read_buf(&mut self.input).await {
                    Ok(n) if n > 0 => {}
                    _ => return Err(Fault::Server),
                },
            }
        }
    }

    /// Takes one message, if there is a whole one, and says of which type it is.
    fn message(&mut self) -> Result<Option<u8>, Fault> {
        let Some(header) = Header::read(&self.input, Origin::Server).map_err(|_| Fault::Server)? else {
            return Ok(None);
        };
        if self.input.len() < header.total {
            return Ok(None);
        }
        let body: Bytes = self.input.split_to(header.total).freeze().slice(frame::HEADER..);
        match header.tag {
            b'A' => {
                let (_, channel, _) = answer::notification(&body).ok_or(Fault::Server)?;
                let listeners = std::str::from_utf8(channel).ok().and_then(|channel| self.listeners.get(channel));
                listeners.into_iter().flatten().for_each(|mailbox| mailbox.put(&body));
            }
            b'E' if matches!(answer::field(&body, b'V'), Some(b"FATAL" | b"PANIC")) => return Err(Fault::Server),
            b'E' => {
                let text = |code| String::from_utf8_lossy(answer::field(&body, code).unwrap_or_default()).into_owned();
                tracing::warn!(sqlstate = text(b'C'), message = text(b'M'), "the server refused to listen");
            }
            _ => {}
        }
        Ok(Some(header.tag))
    }
}
