//! A logged-in session: one task that moves bytes between its client and, while it has one, its backend.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Cx, Poll};

use bytes::BytesMut;

use super::aside::{Aside, Errand};
use super::cancel::CancelKey;
use super::core::Core;
use super::entry::{Entry, Kick};
use super::handshake::tell;
use super::link::{Link, RECOVERY};
use super::listen::{Hearing, Mail};
use super::login::Reported;
use super::mailbox::Stopped;
use super::names::Names;
use super::notify::Channels;
use super::reading::Reading;
use super::refuse;
use super::relay::Sink;
use super::room::Room;
use super::run::Outcome;
use super::state::Own;
use super::stay::Stay;
use super::terms::Terms;
use super::trial::Leaving;
use crate::base::Report;
use crate::limits::{ClientSlot, PinSlot, Usage};
use crate::net::Stream;
use crate::pool::{Granted, Local, Waiting};
use crate::sql::Pins;
use crate::telemetry::add;
use crate::tenant::Context;
use crate::wire::backend::Transaction;
use crate::wire::encode;
use crate::wire::flow::Flow;
use crate::wire::handover::Checker;

/// How many times a session moves what there is before others have their turn.
const AT_A_TIME: usize = 32;

/// Backends that fail at the hand-over before the session gives up.
pub(super) const HANDOVER_TRIES: u8 = 3;

pub(super) struct Session {
    pub core: Rc<Core>,
    pub client: Stream,
    /// It had nothing to read when it was asked last.
    pub client_is_dry: bool,
    pub entry: Rc<Entry>,
    pub key: CancelKey,
    pub terms: Arc<Terms>,
    pub usage: Arc<Usage>,
    pub slot: Option<ClientSlot>,
    /// It gave up its token and has no tenant: no backend serves it.
    pub nobody: bool,
    /// Startup parameters, which every tenant's backends are told.
    pub wanted: Option<Box<Reported>>,
    pub local: Rc<Local>,
    /// Its server was found to be where the session may be. No server's: 0.
    pub admitted_era: u32,
    /// What backends are told: the base, and the session's own state.
    pub context: Arc<Context>,
    pub base: Arc<Context>,
    pub own: Option<Box<Own>>,
    pub names: Names,
    pub hearing: Hearing,
    pub channels: Option<Box<Channels>>,
    /// In the audit log, if there is one.
    pub stay: Option<Box<Stay>>,
    /// What it listens to by its pool's hub.
    pub mail: Option<Box<Mail>>,
    /// Statements that pgward answers itself.
    pub aside: Option<Box<Aside>>,
    /// What such a statement asks for, to be done.
    pub errand: Option<Box<Errand>>,
    /// What it needs to read from replicas, once there are any.
    pub reading: Option<Box<Reading>>,
    /// It has seen nothing yet, of data or of notifications.
    pub is_new: bool,
    pub link: Room<Link>,
    /// Its place in the queue for a backend.
    pub waiting: Option<Waiting>,
    /// What a failed hand-over left to be sent again.
    pub retry: Option<Box<Retry>>,
    pub pins: Pins,
    /// Held while it keeps its backend for what it did.
    pub pin_slot: Option<PinSlot>,
    /// Client bytes that could not be taken yet.
    pub inbox: Vec<u8>,
    pub need: Need,
    /// Bytes of a client message that was seen only in part, and what becomes of them.
    pub rest: usize,
    pub rest_dropped: bool,
    /// A request was refused without a backend; what follows is dropped up to its Sync.
    pub skipping: Skipping,
    pub to_client: Sink,
    pub handover_failures: u8,
    /// How many times in a row a batch has been sent again.
    pub replayed: u8,
}

/// What is dropped of a request that was refused without a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skipping {
    Nothing,
    /// The message that was refused comes next: alone if it is a Query, else all up to the Sync.
    Request,
    ToSync,
}

/// What the inbox waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Bytes,
    Lease,
    /// Answers of the backend.
    Answers,
    /// What pgward does itself is to be done first.
    Errand,
    /// A replica that has come far enough.
    Replica,
}

pub(super) struct Handover {
    pub checker: Checker,
    /// Where in the write that carries it the client's bytes start.
    pub starts: usize,
    /// Client bytes that went out behind it, for another try.
    pub held: Vec<u8>,
    /// No more client bytes until it is answered.
    pub closed: bool,
    /// The backend served another tenant before.
    pub switch: bool,
    /// It is the session's own backend, which only forgot its context.
    pub kept: bool,
}

pub(super) struct Retry {
    pub held: Vec<u8>,
    pub flow: Flow,
    pub unnamed_known: bool,
}

/// Why a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said good-bye or vanished.
    Client,
    /// The client is told.
    Told(Box<Report>),
    /// The server's own FATAL was passed on.
    ServerSaid,
}

impl From<Report> for End {
    fn from(report: Report) -> Self {
        Self::Told(Box::new(report))
    }
}

/// What is not done in passing.
enum Work {
    /// A backend must be opened, or fetched from another core.
    Fulfil(Granted),
    Errand,
    /// A read waits until servers have answered.
    AwaitReplica,
}

enum Event {
    Work(Work),
    /// To the core of this number.
    Leave(usize),
    End(End),
}

impl Session {
    /// Until the session ends, or goes on at another core.
    pub async fn serve(mut self: Box<Self>) -> Outcome {
        let end = loop {
            match poll_fn(|cx| self.poll_drive(cx)).await {
                Event::End(end) => break end,
                Event::Leave(to) => return Outcome::Leaves(to, Box::new(self.pack())),
                // Boxed, so that sessions at rest do not carry its size.
                Event::Work(work) => match Box::pin(self.work(work)).await {
                    Ok(()) => {}
                    Err(end) => break end,
                },
            }
        };
        Box::pin(self.finish(end)).await;
        Outcome::Over
    }

    async fn work(&mut self, work: Work) -> Result<(), End> {
        match work {
            Work::Fulfil(granted) => self.fulfil(granted).await,
            Work::Errand => self.run_errand().await,
            Work::AwaitReplica => self.await_replica().await,
        }
    }

    fn poll_drive(&mut self, cx: &mut Cx<'_>) -> Poll<Event> {
        match self.drive(cx) {
            Ok(Poll::Pending) => match self.leaves() {
                Some(to) => Poll::Ready(Event::Leave(to)),
                None => Poll::Pending,
            },
            Ok(Poll::Ready(work)) => Poll::Ready(Event::Work(work)),
            Err(end) => Poll::Ready(Event::End(end)),
        }
    }

    /// Moves what can be moved. Ready when something takes longer.
    fn drive(&mut self, cx: &mut Cx<'_>) -> Result<Poll<Work>, End> {
        // A socket that had nothing to read wakes the session when it has, and is not asked again before.
        self.client_is_dry &= self.client.is_quiet();
        if let Some(link) = self.link.as_mut() {
            link.is_dry = false;
        }
        for _ in 0..AT_A_TIME {
            // Asked far more often than it is so.
            if self.entry.kicked().is_some() {
                self.heed_kick()?;
            }
            if self.link.as_ref().is_some_and(|link| link.lease.conn.is_outdated()) {
                self.server_changed()?;
            }
            let mut moved = false;
            if !self.to_client.is_clear() {
                moved |= self.to_client.flush(&mut self.client, cx).map_err(|_| End::Client)?;
            }
            if self.link.is_some() {
                moved |= self.flush_server(cx);
                if self.to_client.is_clear() {
                    moved |= self.read_server(cx)?;
                }
            }
            if self.takes_client_bytes() {
                moved |= self.take_client_bytes(cx)?;
            }
            if self.need == Need::Lease {
                match self.poll_lease(cx)? {
                    Poll::Ready(Some(granted)) => return Ok(Poll::Ready(Work::Fulfil(granted))),
                    Poll::Ready(None) => moved = true,
                    Poll::Pending => {}
                }
            }
            match self.need {
                Need::Errand => return Ok(Poll::Ready(Work::Errand)),
                Need::Replica if self.to_client.is_clear() => return Ok(Poll::Ready(Work::AwaitReplica)),
                Need::Bytes | Need::Lease | Need::Answers | Need::Replica => {}
            }
            moved |= self.deliver()?;
            if !moved {
                self.entry.listen(cx);
                if let Some(mail) = &self.mail {
                    // What waits is taken once the backend or the client is through.
                    let blocked = mail.mailbox.any() && mail.mailbox.stopped() != Some(Stopped::Full);
                    mail.mailbox.listen(cx, blocked);
                }
                return Ok(Poll::Pending);
            }
        }
        // Others come first, and then it goes on.
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Whether more of the client may be looked at. A client that does not read its answers, or a server
    /// that does not take its input, stops here and nowhere else.
    fn takes_client_bytes(&self) -> bool {
        let server_ready = self.link.as_ref().is_none_or(|link| link.to_server.is_clear());
        let wanted = match self.need {
            Need::Bytes => true,
            Need::Lease | Need::Errand | Need::Replica => false,
            Need::Answers => !self.gated(),
        };
        wanted && server_ready && self.to_client.is_clear()
    }

    /// Whether the backend has to answer before it is sent more.
    pub(super) fn gated(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let flow = &link.lease.conn.backend.flow;
            // A batch without its Sync, and a COPY without its data, would never be answered.
            let complete = !link.at_rest && !flow.unsynced() && !flow.in_copy();
            link.awaits_handover()
                || link.checking
                || link.inquiry.is_some()
                || link.replay.awaits_rest()
                // What comes next may be the primary's.
                || ((link.reset || link.unsure || link.lease.replica().is_some()) && complete)
        })
    }

    fn take_client_bytes(&mut self, cx: &mut Cx<'_>) -> Result<bool, End> {
        if self.retry.is_some() || (!self.inbox.is_empty() && self.need != Need::Bytes) {
            let inbox = std::mem::take(&mut self.inbox);
            self.take_inbox(inbox, cx)?;
            return Ok(true);
        }
        if self.client_is_dry {
            return Ok(false);
        }
        let mut buffer = self.core.take_read_buffer();
        let read = match self.client.poll_receive(cx, &mut buffer) {
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => {
                self.core.give_read_buffer(buffer);
                return Err(End::Client);
            }
            Poll::Pending => {
                self.core.give_read_buffer(buffer);
                // Where tokio only wants the session to yield, nobody watches the socket.
                self.client_is_dry = tokio::task::coop::has_budget_remaining();
                return Ok(false);
            }
        };
        add(&self.core.stats.bytes_from_clients, read as u64);
        let fresh = buffer.get(..read).unwrap_or_default();
        let result = if self.inbox.is_empty() {
            self.upstream(fresh, cx).map(|consumed| {
                self.inbox.extend_from_slice(fresh.get(consumed..).unwrap_or_default());
            })
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(fresh);
            self.take_inbox(inbox, cx)
        };
        self.core.give_read_buffer(buffer);
        result.map(|()| true)
    }

    fn take_inbox(&mut self, mut inbox: Vec<u8>, cx: &mut Cx<'_>) -> Result<(), End> {
        let consumed = self.upstream(&inbox, cx)?;
        if consumed < inbox.len() {
            inbox.drain(..consumed);
            self.inbox = inbox;
        }
        Ok(())
    }

    fn flush_server(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(link) = self.link.as_mut() else { return false };
        if link.to_server.is_clear() || link.write_failed {
            return false;
        }
        match link.to_server.flush(&mut link.lease.conn.backend.stream, cx) {
            Ok(moved) => {
                if moved && link.to_server.is_clear() {
                    self.release_if_done();
                }
                moved
            }
            Err(_) => {
                link.write_failed = true;
                false
            }
        }
    }

    fn read_server(&mut self, cx: &mut Cx<'_>) -> Result<bool, End> {
        let Some(link) = self.link.as_mut().filter(|link| !link.is_dry) else { return Ok(false) };
        let backend = &mut link.lease.conn.backend;
        let mut buffer = self.core.take_read_buffer();
        let keep = backend.cut.len();
        if let Some(front) = buffer.get_mut(..keep) {
            front.copy_from_slice(&backend.cut);
        }
        let result = match backend.stream.poll_receive(cx, buffer.get_mut(keep..).unwrap_or_default()) {
            Poll::Pending => {
                link.is_dry = true;
                Ok(false)
            }
            Poll::Ready(Ok(n)) if n > 0 => {
                backend.cut.clear();
                self.downstream(buffer.get(..keep + n).unwrap_or_default(), cx).map(|()| true)
            }
            Poll::Ready(_) if self.leave_replica(Leaving::Lost) => Ok(true),
            Poll::Ready(_) => Err(refuse::server_lost(self.loss()).into()),
        };
        self.core.give_read_buffer(buffer);
        result
    }

    pub(super) fn heed_kick(&self) -> Result<(), End> {
        let Some(kick) = self.entry.kicked() else { return Ok(()) };
        let between = self.link.as_ref().is_none_or(|link| link.at_rest && link.transaction == Transaction::Idle);
        if kick.waits() && !between {
            return Ok(());
        }
        if kick == Kick::Pinned {
            return Err(refuse::too_many_pinned(self.terms.limits.max_pinned, self.entry.pins.get().label()).into());
        }
        let limit = self.core.shared.world.load().settings.session.idle_in_transaction_timeout;
        Err(refuse::kicked(kick, limit).into())
    }

    pub(super) fn tell_client(&mut self, report: &Report) {
        let mut out = BytesMut::new();
        encode::report(&mut out, report);
        self.note_denial(report);
        self.core.stats.error(report.sqlstate.as_str().as_bytes());
        self.to_client.queue(&out);
    }

    /// The end: the client is told as far as it can be, the backend brought to rest.
    async fn finish(mut self: Box<Self>, end: End) {
        self.note_end(&end);
        drop(self.stay.take());
        self.core.leave(&self.entry);
        let between_messages = self.link.as_ref().is_none_or(|link| link.lease.conn.backend.rest == 0);
        let undisturbed = self.to_client.is_clear() && between_messages;
        let server_gone = matches!(end, End::ServerSaid);
        self.abandon_link(server_gone);
        match end {
            End::Told(report) if undisturbed => {
                self.core.stats.error(report.sqlstate.as_str().as_bytes());
                drop((self.slot, self.key, self.names, self.local));
                tell(self.client, &report).await;
            }
            End::ServerSaid => {
                // What the server said last may still be on its way.
                let flush = poll_fn(|cx| match self.to_client.flush(&mut self.client, cx) {
                    Ok(_) if !self.to_client.is_clear() => Poll::Pending,
                    _ => Poll::Ready(()),
                });
                let _ = tokio::time::timeout(RECOVERY, flush).await;
            }
            End::Client | End::Told(_) => {}
        }
    }
}
