//! What a session keeps between its transactions, and the question to its backend that finds it out.
//!
//! The text of a statement tells *that* session state may have changed; what became of it depends on
//! savepoints, errors and functions. So nothing is guessed: when a transaction that may have changed
//! something is over, the backend is asked, before it is lent to anybody else and behind the client's own
//! answers. Settings and SQL's own prepared statements become part of the session's context, which the next
//! backend is told. What cannot move keeps the session on its backend until the answer says it is gone.

use std::fmt::Write;
use std::sync::Arc;

use super::entry::Kick;
use super::serve::Session;
use crate::sql::{Facts, ListenOrder, Pin, Pins, is_prepare};
use crate::wire::backend as answer;
use crate::wire::flow::{Fate, Owed};
use crate::wire::frontend;

/// Tries to get an answer: a cancel request of the client's may meet the question.
pub(super) const TRIES: u8 = 3;

/// SQL's own prepared statements that move with a session; with more or longer ones it keeps its backend.
const MOST_PREPARED: usize = 100;
const LONGEST_PREPARED: usize = 64 * 1024;

/// What a transaction may have changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    settings: bool,
    /// Settings that are asked for by name.
    custom: Vec<String>,
    /// The last command that was completed is DISCARD ALL.
    discarded: bool,
}

/// A session's own state, as far as it moves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub settings: Vec<(String, String)>,
    pub prepared: Vec<(String, String)>,
}

impl Own {
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.prepared.is_empty()
    }
}

/// A question that was sent.
#[derive(Debug)]
pub(super) struct Inquiry {
    asked: Pins,
    settings: bool,
    found: Found,
    failed: bool,
    tries: u8,
}

#[derive(Debug, Default)]
struct Found {
    own: Own,
    pins: Pins,
    /// Something that cannot be told to another backend.
    immovable: bool,
    /// The server has a token.
    token: bool,
}

/// Pins that the server can be asked about, each with the condition under which it still holds. `$1` is
/// the role that the backend logged in as.
const CONDITIONS: [(Pin, &str); 6] = [
    (Pin::Role, "pg_catalog.current_setting('role') <> 'none' or session_user <> $1::pg_catalog.name"),
    (
        Pin::TemporaryTable,
        "exists (select from pg_catalog.pg_depend where refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass \
         and refobjid = pg_catalog.pg_my_temp_schema())",
    ),
    (Pin::Listen, "exists (select from pg_catalog.pg_listening_channels())"),
    (
        Pin::AdvisoryLock,
        "exists (select from pg_catalog.pg_locks where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid())",
    ),
    (Pin::HoldCursor, "exists (select from pg_catalog.pg_cursors where is_holdable)"),
    (Pin::Asked, "pg_catalog.current_setting('pgward.pin', true) ilike any (array['on', 'true', 'yes', '1'])"),
];

const PREPARED: &str = "select 'q', name, statement from pg_catalog.pg_prepared_statements where from_sql";

/// Settings that a SET of the session's made. The transaction's own go with it.
const SETTINGS: &str = "select 's', name, setting from pg_catalog.pg_settings where source = 'session' \
     and name not in ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')";

/// A token that came to the server in a way that nobody saw.
const TOKEN: &str =
    "select 't', 'token', null where coalesce(pg_catalog.current_setting('pgward.token', true), '') <> ''";

fn askable() -> Pins {
    CONDITIONS.iter().fold(Pins::of(Pin::Prepare), |all, (pin, _)| all.with(Pins::of(*pin)))
}

/// The question, and how many parameters it takes: the login role, and the names.
fn question(asked: Pins, settings: bool, custom: usize) -> String {
    let mut text = "select 'n', $1::pg_catalog.text, null::pg_catalog.text where false".to_owned();
    let mut add = |part: &str| {
        text.push_str(" union all ");
        text.push_str(part);
    };
    add(TOKEN);
    for (pin, condition) in CONDITIONS.iter().filter(|(pin, _)| asked.has(*pin)) {
        add(&format!("select 'p', '{}', null where {condition}", pin.label()));
    }
    if asked.has(Pin::Prepare) {
        add(PREPARED);
    }
    if settings {
        add(SETTINGS);
    }
    for at in 0..custom {
        let mut part = String::new();
        // Writing to a String cannot fail.
        let _ = write!(part, "select 'c', ${0}::pg_catalog.text, pg_catalog.current_setting(${0}, true)", at + 2);
        add(&part);
    }
    text
}

impl Found {
    /// Takes one row of the answer.
    fn row(&mut self, body: &[u8], base: &[(String, String)]) -> Option<()> {
        let columns = answer::row(body)?;
        let text = |at: usize| columns.get(at).copied().flatten().map(std::str::from_utf8).transpose();
        let (kind, name, value) = match (text(0), text(1), text(2)) {
            (Ok(Some(kind)), Ok(Some(name)), Ok(value)) => (kind, name, value),
            // In another encoding than ours: it cannot be told to another backend.
            (Ok(Some(_)), ..) => {
                self.immovable = true;
                return Some(());
            }
            _ => return None,
        };
        match (kind, value) {
            ("s", Some(value)) => {
                // From there on any CREATE may make a temporary object.
                self.immovable |= name == "search_path" && value.contains("pg_temp");
                self.setting(name, value, base);
            }
            // Once set, a custom setting is never without a value again; RESET leaves an empty one.
            ("c", Some("")) if base.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) => {}
            ("c", Some(value)) => self.setting(name, value, base),
            ("t", None) => self.token = true,
            ("p", None) => {
                let pin = Pin::ALL.into_iter().find(|pin| pin.label() == name)?;
                self.pins = self.pins.with(Pins::of(pin));
            }
            ("q", Some(text)) => self.prepared(name, text),
            ("c" | "s", None) => {}
            _ => return None,
        }
        Some(())
    }

    fn setting(&mut self, name: &str, value: &str, base: &[(String, String)]) {
        let known = base.iter().any(|(known, same)| known.eq_ignore_ascii_case(name) && same == value);
        if !known && !self.own.settings.iter().any(|(known, _)| known == name) {
            self.own.settings.push((name.to_owned(), value.to_owned()));
        }
    }

    fn prepared(&mut self, name: &str, text: &str) {
        let length: usize = self.own.prepared.iter().map(|(_, text)| text.len()).sum();
        let few = self.own.prepared.len() < MOST_PREPARED && length + text.len() <= LONGEST_PREPARED;
        // The server keeps the whole text of the Query; with other statements in it, it cannot be run again.
        if few && is_prepare(text) {
            self.own.prepared.push((name.to_owned(), text.to_owned()));
        } else {
            self.pins = self.pins.with(Pins::of(Pin::Prepare));
        }
    }

    /// Values outside of ASCII are read in the client's encoding, which the next backend may not have yet.
    fn is_movable(&self) -> bool {
        let ascii = self.own.settings.iter().chain(&self.own.prepared).all(|(a, b)| a.is_ascii() && b.is_ascii());
        !self.immovable && (ascii || !self.own.settings.iter().any(|(name, _)| name == "client_encoding"))
    }
}

impl Session {
    /// A statement with these facts is on its way; `lets_go`: it may end what pins the session.
    pub(super) fn touch(&mut self, facts: &Facts, lets_go: bool) {
        let Some(link) = self.link.as_mut() else { return };
        let new = facts.pins.without(self.pins);
        for pin in new.iter() {
            self.core.stats.pin(pin.label());
        }
        let own = self.own.as_ref().is_some_and(|own| !own.is_empty());
        let deallocates = facts.deallocates.is_some();
        link.reset |= facts.resets;
        let mode = self.pins.has(Pin::Mode);
        let asks = if mode {
            facts.resets
        } else {
            let known = own || link.touched.is_some();
            !facts.pins.is_empty() || facts.settings || lets_go || (known && (facts.resets || deallocates))
        };
        if asks {
            let touched = link.touched.get_or_insert_default();
            touched.settings |= facts.settings || facts.resets;
            for name in facts.custom.iter().flat_map(|names| names.iter()) {
                if !touched.custom.contains(name) {
                    touched.custom.push(name.clone());
                }
            }
        }
        if !facts.pins.is_empty() {
            link.lease.conn.dirty = true;
            self.set_pins(self.pins.with(facts.pins));
        }
    }

    /// Whether this text may end what pins the session.
    pub(super) fn lets_go(&self, text: &[u8]) -> bool {
        !self.pins.without(Pins::of(Pin::Mode)).is_empty() && crate::sql::lets_go(text)
    }

    /// The server reported a setting that changed without the text saying so.
    pub(super) fn setting_reported(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|_| !self.pins.has(Pin::Mode)) {
            link.touched.get_or_insert_default().settings = true;
        }
    }

    /// DISCARD, DEALLOCATE or ROLLBACK, or another command that begins like one.
    pub(super) fn command_completed(&mut self, tag: &[u8]) {
        let discarded = tag.starts_with(b"DISCARD ALL\0");
        let Some(link) = self.link.as_mut() else { return };
        if tag.starts_with(b"ROLLBACK\0") {
            link.unlistens = Vec::new();
        } else if discarded {
            link.unlistens.push((ListenOrder::UnlistenAll, false));
        }
        if let Some(touched) = &mut link.touched {
            touched.discarded = discarded;
        }
        if discarded || tag.starts_with(b"DEALLOCATE ALL\0") {
            self.names.forget_all();
            self.forget_aside(None);
        } else if tag.starts_with(b"DEALLOCATE\0")
            && let Some(name) = link.deallocating.take()
        {
            self.names.close(name.as_bytes());
            self.forget_aside(Some(name.as_bytes()));
        }
    }

    /// A session that keeps its backend is counted; past the tenant's limit it ends.
    fn hold_pin_slot(&mut self) {
        if self.pins.without(Pins::of(Pin::Mode)).is_empty() {
            self.pin_slot = None;
        } else if self.pin_slot.is_none() {
            self.pin_slot = self.usage.pin(self.terms.limits.max_pinned);
            if self.pin_slot.is_none() {
                self.entry.kick(Kick::Pinned);
            }
        }
    }

    pub(super) fn set_pins(&mut self, pins: Pins) {
        self.pins = pins;
        self.entry.pins.set(pins);
    }

    /// Asks the backend what the transaction left. It is at rest and outside of a transaction.
    pub(super) fn inquire(&mut self, tries: u8) {
        let asked_before = self.own.as_ref().is_some_and(|own| !own.prepared.is_empty());
        let Some(link) = self.link.as_mut() else { return };
        let Some(touched) = &mut link.touched else { return };
        if touched.discarded {
            self.pins = self.pins.among(Pins::of(Pin::Mode).with(Pins::of(Pin::Load)));
        }
        let mut asked = self.pins.among(askable());
        if asked_before {
            asked = asked.with(Pins::of(Pin::Prepare));
        }
        if touched.settings {
            asked = asked.with(Pins::of(Pin::Asked));
        }
        let own = self.own.as_deref();
        for (name, _) in own.iter().flat_map(|own| &own.settings).filter(|(name, _)| name.contains('.')) {
            if !touched.custom.contains(name) {
                touched.custom.push(name.clone());
            }
        }
        let custom: &[String] = if touched.settings { &touched.custom } else { &[] };
        let mut text = question(asked, touched.settings, custom.len()).into_bytes();
        text.extend_from_slice(b"\0\0\0");
        let login = link.lease.local().pool.key.role.as_bytes();
        let parameters: Vec<Option<&[u8]>> =
            std::iter::once(login).chain(custom.iter().map(|name| name.as_bytes())).map(Some).collect();
        let mut out = Vec::with_capacity(text.len() + 128);
        frontend::put_parse(&mut out, b"", &text);
        frontend::put_bind(&mut out, b"", &parameters);
        frontend::put_execute(&mut out);
        out.extend_from_slice(frontend::SYNC);
        for owed in
            [Owed::Parse { statement: None, hidden: true }, Owed::Bind { statement: None }, Owed::Execute, Owed::Sync]
        {
            link.lease.conn.backend.flow.push(owed);
        }
        link.to_server.queue(&out);
        link.at_rest = false;
        link.unnamed_known = false;
        let settings = touched.settings;
        link.inquiry = Some(Box::new(Inquiry { asked, settings, found: Found::default(), failed: false, tries }));
    }

    /// Takes one whole message of the answer. `None`: it makes no sense.
    pub(super) fn answer(&mut self, tag: u8, body: &[u8]) -> Option<()> {
        let link = self.link.as_mut()?;
        let inquiry = link.inquiry.as_mut()?;
        if tag == b'E' {
            inquiry.failed = true;
            link.lease.conn.backend.flow.error(|_| {});
            return Some(());
        }
        let fate = link.lease.conn.backend.flow.take(tag, body);
        match (tag, fate) {
            (_, Fate::Unexpected) => return None,
            (b'D', _) if !inquiry.failed => inquiry.found.row(body, self.base.settings())?,
            (_, Fate::Settled(_)) => {
                link.at_rest = true;
                let inquiry = link.inquiry.take()?;
                self.learn(*inquiry);
            }
            _ => {}
        }
        Some(())
    }

    fn learn(&mut self, inquiry: Inquiry) {
        if inquiry.failed && inquiry.tries > 1 {
            return self.inquire(inquiry.tries - 1);
        }
        let Inquiry { asked, settings, found, failed, .. } = inquiry;
        if found.token {
            self.entry.kick(Kick::Token);
        }
        let movable = found.is_movable();
        let mut pins = self.pins.without(asked).with(found.pins);
        if failed || !movable {
            pins = self.pins.with(found.pins).with(Pins::of(Pin::Unknown));
        } else {
            let mut own = self.own.take().map(|own| *own).unwrap_or_default();
            if settings {
                own.settings = found.own.settings;
                own.settings.sort();
            }
            if asked.has(Pin::Prepare) {
                own.prepared = if pins.has(Pin::Prepare) { Vec::new() } else { found.own.prepared };
                own.prepared.sort();
            }
            self.own = (!own.is_empty()).then(|| Box::new(own));
            self.renew_context();
        }
        self.set_pins(pins);
        self.hold_pin_slot();
        if !pins.is_empty() && self.is_astray() {
            self.entry.kick(Kick::Replica);
        }
        let context = Arc::clone(&self.context);
        let Some(link) = self.link.as_mut() else { return };
        link.touched = None;
        let conn = &mut link.lease.conn;
        if !link.reset {
            conn.context = Some(context);
        }
        conn.dirty = !pins.is_empty();
    }

    /// The context of the session as it is now.
    fn renew_context(&mut self) {
        let context = match &self.own {
            None => Arc::clone(&self.base),
            Some(own) => {
                let context = self.base.with_settings(&own.settings).with_prepared(own.prepared.clone());
                self.core.shared.contexts.shared(context)
            }
        };
        self.context = context;
    }

    /// SQL's prepared statements could not be made on another backend, such as when a table is gone: the
    /// session goes on without them. `false`: there are none.
    pub(super) fn forget_prepared(&mut self) -> bool {
        let Some(own) = self.own.as_mut().filter(|own| !own.prepared.is_empty()) else { return false };
        own.prepared.clear();
        self.renew_context();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            match column {
                Some(text) => {
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
                None => out.extend((-1i32).to_be_bytes()),
            }
        }
        out
    }

    fn found(rows: &[[Option<&str>; 3]]) -> Found {
        let base = [("search_path".to_owned(), "\"app\"".to_owned()), ("app.tenant".to_owned(), "acme".to_owned())];
        let mut found = Found::default();
        rows.iter().for_each(|columns| found.row(&row(columns), &base).unwrap());
        found
    }

    #[test]
    fn what_differs_from_the_base_is_the_sessions_own() {
        let found = found(&[
            [Some("s"), Some("search_path"), Some("\"app\"")],
            [Some("s"), Some("work_mem"), Some("8192")],
            [Some("c"), Some("app.tenant"), Some("")],
            [Some("c"), Some("app.user"), Some("7")],
            [Some("c"), Some("app.none"), None],
            [Some("p"), Some("listen"), None],
        ]);
        let own: Vec<_> = found.own.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(own, [("work_mem", "8192"), ("app.user", "7")]);
        assert_eq!(found.pins, Pins::of(Pin::Listen));
        assert!(found.is_movable());
    }

    #[test]
    fn a_prepared_statement_moves_only_if_its_text_is_nothing_else() {
        let one = found(&[[Some("q"), Some("p"), Some("prepare p as select 1")]]);
        assert_eq!((one.own.prepared.len(), one.pins), (1, Pins::NONE));
        let two = found(&[[Some("q"), Some("p"), Some("select 2; prepare p as select 1")]]);
        assert_eq!((two.own.prepared.len(), two.pins), (0, Pins::of(Pin::Prepare)));
    }

    #[test]
    fn text_in_an_unknown_encoding_does_not_move() {
        let mut found = found(&[
            [Some("s"), Some("client_encoding"), Some("LATIN1")],
            [Some("s"), Some("application_name"), Some("a")],
        ]);
        assert!(found.is_movable());
        found.own.settings.push(("app.x".into(), "\u{e9}".into()));
        assert!(!found.is_movable());
        assert!(self::found(&[[Some("s"), Some("search_path"), Some("a, pg_temp")]]).immovable);
    }
}
