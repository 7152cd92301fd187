//! Sessions that move to another core. Only one that is at rest can: it has no backend, waits for nothing, and owes
//! its client nothing, so all of it fits into a parcel. What is shared among the sessions of a core stays behind and
//! is made anew.

use std::rc::Rc;
use std::sync::Arc;

use super::cancel::CancelKey;
use super::core::Core;
use super::entry::{Entry, Kick};
use super::listen::Hearing;
use super::login::Reported;
use super::names::PackedNames;
use super::notify::Channels;
use super::reading::PackedReading;
use super::relay::Sink;
use super::room::Room;
use super::serve::{Need, Session, Skipping};
use super::state::Own;
use super::stay::Stay;
use super::terms::Terms;
use crate::limits::{ClientSlot, Usage};
use crate::net::Stream;
use crate::pool::Pool;
use crate::sql::Pins;
use crate::telemetry::add;
use crate::tenant::{ChannelKey, Context};

/// A session on its way.
pub struct Parcel {
    client: Stream,
    entry: Entry,
    key: CancelKey,
    terms: Arc<Terms>,
    usage: Arc<Usage>,
    slot: Option<ClientSlot>,
    nobody: bool,
    wanted: Option<Box<Reported>>,
    pool: Arc<Pool>,
    context: Arc<Context>,
    base: Arc<Context>,
    own: Option<Box<Own>>,
    names: PackedNames,
    channel_key: Option<Arc<ChannelKey>>,
    heard_by: Arc<Pool>,
    channels: Option<Box<Channels>>,
    stay: Option<Box<Stay>>,
    reading: Option<PackedReading>,
    is_new: bool,
    /// The kicks that have reached it, of those that all sessions are given.
    kicks: u64,
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parcel").field("session", &self.entry.id).finish_non_exhaustive()
    }
}

impl Session {
    /// The core that it is to go to, if it is to go and can.
    pub(super) fn leaves(&self) -> Option<usize> {
        self.core.sends.get().filter(|_| self.is_at_rest())?;
        self.core.send_one()
    }

    fn is_at_rest(&self) -> bool {
        let owes_nothing = self.need == Need::Bytes
            && self.rest == 0
            && self.skipping == Skipping::Nothing
            && self.inbox.is_empty()
            && self.to_client.is_clear();
        let has_nothing = self.link.is_none()
            && self.waiting.is_none()
            && self.retry.is_none()
            && self.mail.is_none()
            && self.aside.is_none()
            && self.errand.is_none()
            && self.pins.is_empty();
        owes_nothing && has_nothing && self.names.is_at_rest() && self.entry.kicked().is_none()
    }

    pub(super) fn pack(self) -> Parcel {
        let Self { core, client, entry, key, terms, usage, slot, nobody, wanted, local, context, base, own, .. } = self;
        let Self { names, hearing, channels, stay, reading, is_new, .. } = self;
        core.leave(&entry);
        add(&core.stats.moved, 1);
        Parcel {
            client,
            entry: Rc::unwrap_or_clone(entry),
            key,
            terms,
            usage,
            slot,
            nobody,
            wanted,
            pool: Arc::clone(&local.pool),
            context,
            base,
            own,
            names: names.pack(),
            channel_key: hearing.key,
            heard_by: Arc::clone(&hearing.by.pool),
            channels,
            stay,
            reading: reading.map(|reading| reading.pack()),
            is_new,
            kicks: core.kicks.get(),
        }
    }
}

impl Parcel {
    /// Goes on here. A session whose socket this thread cannot take over is at its end.
    pub(super) fn unpack(self, core: Rc<Core>) -> std::io::Result<Box<Session>> {
        let Self { client, entry, key, terms, usage, slot, nobody, wanted, pool, context, base, own, names, .. } = self;
        let Self { channel_key, heard_by, channels, stay, reading, is_new, kicks, .. } = self;
        let client = client.rehome().inspect_err(|_| {
            if let Some(stay) = &stay {
                stay.ends("dropped", None);
            }
        })?;
        let entry = Rc::new(entry);
        core.enter(&entry);
        // A kick for all that this core has had already, and the one before had not, is not to be escaped.
        if core.draining.get() {
            entry.kick(Kick::Drain);
        } else if kicks < core.kicks.get() {
            entry.kick(Kick::Moved);
        }
        let mut session = Box::new(Session {
            client,
            client_is_dry: false,
            entry,
            key,
            terms,
            usage,
            slot,
            nobody,
            wanted,
            local: core.shard.local(&pool),
            admitted_era: 0,
            context,
            base,
            own,
            names: names.unpack(&core),
            hearing: Hearing { key: channel_key, by: core.shard.local(&heard_by) },
            channels,
            stay,
            mail: None,
            aside: None,
            errand: None,
            reading: None,
            is_new,
            link: Room::default(),
            waiting: None,
            retry: None,
            pins: Pins::NONE,
            pin_slot: None,
            inbox: Vec::new(),
            need: Need::Bytes,
            rest: 0,
            rest_dropped: false,
            skipping: Skipping::Nothing,
            to_client: Sink::default(),
            handover_failures: 0,
            replayed: 0,
            core,
        });
        reading.into_iter().for_each(|reading| reading.unpack(&mut session));
        Ok(session)
    }
}
