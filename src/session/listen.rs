//! Sessions that listen without a backend of their own: the pool's hub does so for all of them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::aside::Errand;
use super::hub::{Command, Hubs};
use super::mailbox::{Mailbox, Stopped};
use super::notify::put_notification;
use super::refuse::{self, Loss};
use super::serve::{End, Session};
use super::startup_settings::same_encoding;
use crate::base::{Party, Report};
use crate::pool::Local;
use crate::sql::{ListenOrder, listen_orders};
use crate::tenant::ChannelKey;
use crate::wire::backend::{self as answer, Transaction};
use crate::wire::encode;

/// Channels that one session may listen to.
const MOST: usize = 10_000;

/// How a session's channels are called on the server, and by whom they are listened to.
pub(super) struct Hearing {
    /// For a tenant that shares its database: what makes its channels its own.
    pub key: Option<Arc<ChannelKey>>,
    /// The pool whose hub listens: the session's own, or where tenants share a database that of pgward's own login,
    /// whose backends no tenant's role can end or look at.
    pub by: Rc<Local>,
}

/// What a session listens to by a hub.
#[derive(Debug)]
pub(super) struct Mail {
    pub mailbox: Arc<Mailbox>,
    /// By their names on the server, what the session calls them.
    channels: HashMap<Arc<str>, Box<str>>,
    hub: mpsc::UnboundedSender<Command>,
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.unlisten(self.channels.keys().cloned().collect());
    }
}

impl Mail {
    /// Whether what comes for this channel comes by the hub.
    pub fn hears(&self, channel: &[u8]) -> bool {
        std::str::from_utf8(channel).is_ok_and(|channel| self.channels.contains_key(channel))
    }

    fn unlisten(&self, channels: Vec<Arc<str>>) {
        // A hub that is gone has told whoever was with it.
        let _ = self.hub.send(Command::Unlisten { channels, to: Arc::clone(&self.mailbox) });
    }
}

impl Session {
    /// Whether the session listens by the hub, rather than on its own backend: not where it keeps that
    /// anyway, nor where backends are few, nor in another encoding than the hub.
    pub(super) fn listens_aside(&self) -> bool {
        let pool = &self.hearing.by.pool;
        let greeting = self.local.pool.greeting();
        let usual = greeting.as_ref().and_then(|greeting| greeting.parameters.get("client_encoding"));
        let strange = self.context.settings().iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("client_encoding") && !usual.is_some_and(|usual| same_encoding(usual, value))
        });
        !self.nobody
            && self.pins.is_empty()
            && !strange
            && self.core.shared.hubs.has_room(pool, Rc::ptr_eq(&self.local, &self.hearing.by))
    }

    /// A channel's name on the server.
    fn channel(&self, name: &str) -> Arc<str> {
        match (&self.hearing.key, &self.terms.id) {
            (Some(key), Party::Tenant(tenant)) => key.name(tenant, name).into(),
            _ => name.into(),
        }
    }

    /// Does what statements about listening ask for.
    pub(super) async fn listen(&mut self, errand: &Errand, orders: &[ListenOrder]) -> Result<(), End> {
        let mut outcome = Ok(());
        for order in orders {
            outcome = match order {
                // It may have given up its token since it prepared this.
                _ if self.nobody => Err(refuse::no_tenant()),
                ListenOrder::Listen(name) => self.listen_to(name).await?,
                ListenOrder::Unlisten(_) | ListenOrder::UnlistenAll => {
                    self.unlisten(order, false);
                    Ok(())
                }
            };
            match &outcome {
                Ok(()) => self.complete(order.tag()),
                Err(report) => {
                    self.fail_errand(errand, report);
                    break;
                }
            }
        }
        if errand.simple && outcome.is_ok() {
            self.to_client.queue(encode::READY);
        }
        Ok(())
    }

    async fn listen_to(&mut self, name: &str) -> Result<Result<(), Report>, End> {
        let channel = self.channel(name);
        let count = self.mail.as_ref().map_or(0, |mail| mail.channels.len());
        if self.mail.as_ref().is_some_and(|mail| mail.channels.contains_key(&channel)) {
            return Ok(Ok(()));
        }
        if count >= MOST {
            return Ok(Err(refuse::too_many_channels(MOST)));
        }
        // A hub of the server that it may not be at would tell it nothing, and knows its channels all the same.
        if let Err(report) = self.admitted_at_head() {
            return Ok(Err(report));
        }
        let to = self.mail.as_ref().map_or_else(Arc::default, |mail| Arc::clone(&mail.mailbox));
        let (done, answered) = oneshot::channel();
        let command = Command::Listen { channel: Arc::clone(&channel), to: Arc::clone(&to), done };
        let hub = Hubs::command(&self.core, &self.hearing.by, command);
        // From here on it is to be taken back if nothing comes of it.
        let mail =
            self.mail.get_or_insert_with(|| Box::new(Mail { mailbox: to, channels: HashMap::new(), hub: hub.clone() }));
        mail.hub = hub;
        mail.channels.insert(Arc::clone(&channel), name.into());
        let entry = Rc::clone(&self.entry);
        let outcome = tokio::select! {
            outcome = answered => outcome.unwrap_or_else(|_| Err(refuse::server_lost(Loss::Nothing))),
            () = entry.until_kicked() => return Err(self.heed_kick().err().unwrap_or(End::Client)),
        };
        match &outcome {
            Ok(()) => self.note_heard(),
            Err(_) => self.forget_channels(|known| *known == channel),
        }
        Ok(outcome)
    }

    /// What others tell it comes from this server from now on.
    fn note_heard(&mut self) {
        let pool = &self.hearing.by.pool;
        let at = pool.head().at();
        if let (Some(stay), Some(regions), Some(endpoint)) = (&mut self.stay, &self.terms.regions, &at.endpoint) {
            stay.note_served(&pool.key.cluster, endpoint, regions, Instant::now());
        }
    }

    /// `on_server`: the name is the channel's on the server already.
    pub(super) fn unlisten(&mut self, order: &ListenOrder, on_server: bool) {
        match order {
            ListenOrder::Listen(_) => {}
            ListenOrder::UnlistenAll => self.mail = None,
            ListenOrder::Unlisten(name) if on_server => self.forget_channels(|channel| **channel == **name),
            ListenOrder::Unlisten(name) => {
                let gone = self.channel(name);
                self.forget_channels(|channel| *channel == gone);
            }
        }
    }

    fn forget_channels(&mut self, gone: impl Fn(&Arc<str>) -> bool) {
        let Some(mail) = &mut self.mail else { return };
        let channels: Vec<Arc<str>> =
            mail.channels.extract_if(|channel, _| gone(channel)).map(|(channel, _)| channel).collect();
        mail.unlisten(channels);
        if mail.channels.is_empty() {
            self.mail = None;
        }
    }

    /// A text that goes to a backend may end subscriptions too, once its transaction is through.
    pub(super) fn note_unlisten(&mut self, text: &[u8], on_server: bool) {
        if self.mail.is_none() {
            return;
        }
        let (Some(link), Some(found)) = (self.link.as_mut(), listen_orders(text)) else { return };
        let ends = found.orders.into_iter().filter(|order| !matches!(order, ListenOrder::Listen(_)));
        link.unlistens.extend(ends.map(|order| (order, on_server)));
    }

    pub(super) fn end_unlistens(&mut self) {
        let Some(link) = self.link.as_mut().filter(|link| !link.unlistens.is_empty()) else { return };
        for (order, on_server) in std::mem::take(&mut link.unlistens) {
            self.unlisten(&order, on_server);
        }
    }

    /// Gives the client the notifications that have come. They are for between transactions, as PostgreSQL's are.
    ///
    /// `false`: there are none, or they have to wait.
    pub(super) fn deliver(&mut self) -> Result<bool, End> {
        let Some(mail) = self.mail.as_ref().filter(|mail| mail.mailbox.any()) else { return Ok(false) };
        let stopped = mail.mailbox.stopped();
        if stopped == Some(Stopped::Full) {
            return Err(refuse::too_many_notifications().into());
        }
        let idle = self.link.as_ref().is_none_or(|link| {
            let backend = &link.lease.conn.backend;
            let whole = backend.rest == 0 && backend.cut.is_empty();
            link.at_rest && link.transaction == Transaction::Idle && link.handover.is_none() && whole
        });
        if !idle || !self.to_client.is_clear() {
            return Ok(false);
        }
        if stopped == Some(Stopped::Lost) {
            return Err(refuse::listening_lost().into());
        }
        let mut out = Vec::new();
        self.note_told();
        let Some(mail) = self.mail.as_ref() else { return Ok(false) };
        // What has stopped it meanwhile is found the next time.
        for body in mail.mailbox.take().unwrap_or_default() {
            let Some((pid, channel, payload)) = answer::notification(&body) else { continue };
            let name = std::str::from_utf8(channel).ok().and_then(|channel| mail.channels.get(channel));
            if let Some(name) = name {
                put_notification(pid, name.as_bytes(), payload, &mut out);
            }
        }
        self.to_client.queue(&out);
        Ok(true)
    }
}
