//! From a text to its facts, the slow and thorough way.

use std::rc::Rc;

use super::parsed::Parsed;
use super::shape::{Kind, Lexer, Mark, RUN_TEXT, Token, cut};
use super::token::SETTING;

/// Why a session must keep its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// A setting whose name the text does not tell.
    Setting,
    /// Another role than the one that logged in.
    Role,
    TemporaryTable,
    Listen,
    AdvisoryLock,
    HoldCursor,
    /// By SQL's PREPARE.
    Prepare,
    Load,
    Unknown,
    /// `SET pgward.pin = on`.
    Asked,
    /// Its pool's mode is session.
    Mode,
}

impl Pin {
    pub const ALL: [Self; 11] = [
        Self::Mode,
        Self::Asked,
        Self::Setting,
        Self::Role,
        Self::TemporaryTable,
        Self::Listen,
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::Prepare,
        Self::Load,
        Self::Unknown,
    ];

    /// For metrics and the console.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Role => "role",
            Self::TemporaryTable => "temporary_table",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldCursor => "hold_cursor",
            Self::Prepare => "prepare",
            Self::Load => "load",
            Self::Unknown => "unknown",
            Self::Asked => "asked",
            Self::Mode => "mode",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Any number of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u16);

impl Pins {
    pub const NONE: Self = Self(0);

    pub const fn of(pin: Pin) -> Self {
        Self(pin.bit())
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[must_use]
    pub const fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn has(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One of them, for metrics and the console.
    pub fn label(self) -> Option<&'static str> {
        self.iter().next().map(Pin::label)
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.has(*pin))
    }
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What one text, of one or of many statements, does to session state that outlives its transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The session must keep its backend after the transaction.
    pub pins: Pins,
    /// Settings of the session may be others afterwards.
    pub settings: bool,
    /// The custom ones among them, in lower case: PostgreSQL does not list those, so one must know their
    /// names to ask for them.
    pub custom: Option<Rc<[String]>>,
    /// Settings that the pool made may be gone or changed: the session's context must be set anew
    /// before the next transaction. `RESET x` is this alone, since it leaves nothing of the session's
    /// own behind (and drivers send `RESET ALL` whenever they hand a connection back).
    pub resets: bool,
    /// Prepared statements of the backend, those of the protocol included, may be gone.
    pub deallocates: Option<Deallocate>,
    /// It names notification channels.
    pub channels: bool,
    /// It would set the session's token, or reset it.
    pub token: bool,
    /// A parameter names the setting that it sets.
    pub names_setting: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deallocate {
    /// The text is this and nothing else.
    One(Rc<str>),
    All,
}

impl Facts {
    /// Nobody knows what such a text does.
    pub fn unknown() -> Self {
        Self { pins: Pins::of(Pin::Unknown), ..Self::default() }
    }

    fn pin(&mut self, pin: Pin) {
        self.pins = self.pins.with(Pins::of(pin));
    }
}

const CALLS: &[(&str, Pin)] = &[
    ("pg_advisory_lock", Pin::AdvisoryLock),
    ("pg_advisory_lock_shared", Pin::AdvisoryLock),
    ("pg_try_advisory_lock", Pin::AdvisoryLock),
    ("pg_try_advisory_lock_shared", Pin::AdvisoryLock),
    ("dblink_connect", Pin::Unknown),
    ("dblink_connect_u", Pin::Unknown),
    // Temporary slots live as long as the session.
    ("pg_create_physical_replication_slot", Pin::Unknown),
    ("pg_create_logical_replication_slot", Pin::Unknown),
    ("pg_copy_physical_replication_slot", Pin::Unknown),
    ("pg_copy_logical_replication_slot", Pin::Unknown),
    ("pg_replication_origin_session_setup", Pin::Unknown),
];

/// Reads of a text's literals only what [`super::shape::Marker`] gives, which is what the shape has.
pub(super) fn read(parsed: &Parsed<'_>) -> Facts {
    let Parsed { tokens, marks, summary } = parsed;
    let mut reader = Reader { tokens, marks, facts: Facts::default(), custom: Vec::new(), openers: 0 };
    reader.read();
    let missed = summary.statement_types.iter().any(|kind| reader.openers & opener(kind) != opener(kind));
    if missed {
        reader.facts.pin(Pin::Unknown);
    }
    let Reader { mut facts, custom, .. } = reader;
    facts.custom = (!custom.is_empty()).then(|| custom.into());
    facts
}

/// Whether the text is one PREPARE and nothing else.
pub fn is_prepare(text: &str) -> bool {
    let Ok(tokens) = Lexer::new(text.as_bytes()).collect::<Result<Vec<_>, _>>() else { return false };
    let mut rest = tokens.iter().skip_while(|token| token.is_symbol(";"));
    rest.next().is_some_and(|token| token.is_word("prepare"))
        && rest.next().is_some_and(|token| !token.is_word("transaction"))
        && rest.skip_while(|token| !token.is_symbol(";")).all(|token| token.is_symbol(";"))
}

/// The statements that are told by their first word: the parser must not see one that we do not.
const OPENERS: &[(&str, &[&str])] = &[
    ("VariableSetStmt", &["set", "reset"]),
    ("DiscardStmt", &["discard"]),
    ("DeallocateStmt", &["deallocate"]),
    ("PrepareStmt", &["prepare"]),
    ("ListenStmt", &["listen"]),
    ("LoadStmt", &["load"]),
    ("DoStmt", &["do"]),
];

fn opener(kind: &str) -> u8 {
    OPENERS.iter().position(|(name, _)| *name == kind).map_or(0, |at| 1 << at)
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    marks: &'a [Mark],
    facts: Facts,
    /// For [`Facts::custom`].
    custom: Vec<String>,
    /// A bit for each of [`OPENERS`] met.
    openers: u8,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        for at in 0..self.tokens.len() {
            // A semicolon within a rule or a function body counts too: it can only add.
            if at == 0 || self.symbol(at - 1, ";") {
                self.statement(at);
            }
            match self.tokens[at].kind {
                Kind::Word => {
                    self.phrase(at);
                    self.name(at);
                    self.token_name(at);
                }
                Kind::Quoted => {
                    self.name(at);
                    self.token_name(at);
                }
                Kind::UnicodeName => {
                    // The name may be spelt in escapes, and any character can be the escape.
                    if self.tokens[at].body.contains(&b'\\') || self.word(at + 1, "uescape") {
                        self.facts.pin(Pin::Unknown);
                    }
                    self.name(at);
                }
                Kind::Parameter | Kind::Integer | Kind::Decimal | Kind::Text { .. } | Kind::Bits | Kind::Symbol => {}
            }
        }
    }

    fn statement(&mut self, at: usize) {
        for (i, (_, words)) in OPENERS.iter().enumerate() {
            if words.iter().any(|word| self.word(at, word)) {
                self.openers |= 1 << i;
            }
        }
        if self.word(at, "set") {
            self.set(at + 1);
        } else if self.word(at, "reset") {
            self.facts.resets = true;
            self.facts.token |= self.dotted(at + 1).is_some_and(|(name, _)| name == SETTING);
        } else if self.word(at, "discard") {
            self.facts.resets = true;
            if self.word(at + 1, "all") {
                self.facts.deallocates = Some(Deallocate::All);
            }
        } else if self.word(at, "deallocate") {
            self.facts.deallocates = Some(self.deallocate(at));
        } else if self.word(at, "prepare") {
            if !self.word(at + 1, "transaction") {
                self.facts.pin(Pin::Prepare);
            }
        } else if self.word(at, "listen") {
            self.facts.pin(Pin::Listen);
            self.facts.channels = true;
        } else if self.word(at, "unlisten") || self.word(at, "notify") {
            self.facts.channels = true;
        } else if self.word(at, "load") {
            self.facts.pin(Pin::Load);
        } else if self.word(at, "do") {
            self.anonymous_block(at + 1);
        }
    }

    /// `at` is behind `SET`.
    fn set(&mut self, mut at: usize) {
        if self.keyword(at, "local") {
            self.facts.token |= self.dotted(at + 1).is_some_and(|(name, _)| name == SETTING);
            if self.says_pg_temp(at) {
                self.facts.pin(Pin::TemporaryTable);
            }
            return;
        }
        if self.keyword(at, "constraints") {
            return;
        }
        if self.keyword(at, "session") {
            at += 1;
            if self.word(at, "authorization") {
                self.facts.resets = true;
                if !self.word(at + 1, "default") {
                    self.facts.pin(Pin::Role);
                }
                return;
            }
        }
        if self.keyword(at, "transaction") {
            return;
        }
        let (name, end) = match self.dotted(at) {
            Some((name, end)) => (Some(name), end),
            None => (None, self.behind_name(at)),
        };
        if (self.word(end, "to") || self.symbol(end, "=")) && self.word(end + 1, "default") {
            self.facts.resets = true;
            self.facts.token |= name.as_deref() == Some(SETTING);
            return;
        }
        if self.says_pg_temp(end) {
            // From here on any CREATE may make a temporary object.
            self.facts.pin(Pin::Setting);
        }
        match name {
            Some(name) => self.setting(&name),
            None => self.unnamed_setting(),
        }
    }

    /// A word of `SET`'s own, which may just as well begin the name of a setting: `SET local.x = 1`.
    fn keyword(&self, at: usize, lower: &str) -> bool {
        self.word(at, lower) && !self.symbol(at + 1, ".") && !self.symbol(at + 1, "=") && !self.word(at + 1, "to")
    }

    /// A setting's name, and where it ends. `None`: it is spelt in escapes.
    fn dotted(&self, at: usize) -> Option<(String, usize)> {
        let end = self.behind_name(at);
        let parts: Option<Vec<String>> = (at..end).step_by(2).map(|at| self.name_at(at)).collect();
        Some((parts?.join("."), end))
    }

    fn behind_name(&self, at: usize) -> usize {
        let mut end = at + 1;
        while self.symbol(end, ".") {
            end += 2;
        }
        end
    }

    /// A name as PostgreSQL compares settings' names. `None`: it is spelt in escapes.
    fn name_at(&self, at: usize) -> Option<String> {
        let token = self.tokens.get(at)?;
        let plain = !matches!(token.kind, Kind::Quoted | Kind::UnicodeName)
            || (!token.body.contains(&b'"') && !token.body.contains(&b'\\'));
        plain.then(|| {
            let mut name = String::from_utf8_lossy(token.body).to_ascii_lowercase();
            cut(&mut name);
            name
        })
    }

    /// The session sets this, by its name in lower case.
    fn setting(&mut self, name: &str) {
        match name {
            "role" | "session_authorization" => {
                self.facts.pin(Pin::Role);
                self.facts.resets = true;
            }
            "pgward.pin" => self.facts.settings = true,
            SETTING => self.facts.token = true,
            _ if name.starts_with("pgward.") && name != "pgward.route" => {
                self.facts.settings = true;
                self.facts.resets = true;
            }
            _ => {
                self.facts.settings = true;
                if name.contains('.') && !self.custom.iter().any(|known| known == name) {
                    self.custom.push(name.to_owned());
                }
            }
        }
    }

    fn unnamed_setting(&mut self) {
        self.facts.settings = true;
        self.facts.resets = true;
        self.facts.pin(Pin::Setting);
    }

    /// `at` is at `DEALLOCATE`.
    fn deallocate(&self, at: usize) -> Deallocate {
        let name = if self.word(at + 1, "prepare") && !self.symbol(at + 2, ";") && at + 2 < self.tokens.len() {
            at + 2
        } else {
            at + 1
        };
        let alone = (0..at).chain(name + 1..self.tokens.len()).all(|at| self.symbol(at, ";"));
        match self.tokens.get(name) {
            Some(token) if alone && !token.is_word("all") => {
                token.identifier().map_or(Deallocate::All, |name| Deallocate::One(name.into()))
            }
            _ => Deallocate::All,
        }
    }

    /// Its body may do anything; what it says tells most of it. Other languages are not followed.
    fn anonymous_block(&mut self, from: usize) {
        let end = self.end_of_statement(from);
        let language = (from..end).find(|&at| self.word(at, "language"));
        let foreign = language.is_some_and(|at| !self.word(at + 1, "plpgsql"));
        if foreign || self.marks[from..].iter().any(|mark| mark.suspicious) {
            self.facts.pin(Pin::Unknown);
        }
    }

    /// What is told by a few words in a row, wherever they stand: behind `EXPLAIN`, for one.
    fn phrase(&mut self, at: usize) {
        let next = at + 1;
        if self.word(at, "create") {
            let next = if self.word(next, "or") { next + 2 } else { next };
            self.temporary(next);
        } else if self.word(at, "into") {
            let statement = at.checked_sub(1);
            if !statement.is_some_and(|before| self.word(before, "insert") || self.word(before, "merge")) {
                self.temporary(next);
            }
        } else if self.word(at, "with") && self.word(next, "hold") && self.word(next + 1, "for") {
            self.facts.pin(Pin::HoldCursor);
        }
    }

    fn temporary(&mut self, at: usize) {
        let at = if self.word(at, "local") || self.word(at, "global") { at + 1 } else { at };
        if !self.word(at, "temp") && !self.word(at, "temporary") {
            return;
        }
        let gone_at_commit = (at..self.end_of_statement(at))
            .any(|i| self.word(i, "on") && self.word(i + 1, "commit") && self.word(i + 2, "drop"));
        if !gone_at_commit {
            self.facts.pin(Pin::TemporaryTable);
        }
    }

    /// The token's setting by its name, behind whatever it is to be set by.
    fn token_name(&mut self, at: usize) {
        self.facts.token |= self.symbol(at + 1, ".")
            && self.tokens.get(at).is_some_and(|token| token.is_name("pgward"))
            && self.tokens.get(at + 2).is_some_and(|token| token.is_name("token"));
    }

    /// A name, and what follows it. Whatever comes before (`pg_catalog.`) is of no matter.
    fn name(&mut self, at: usize) {
        if self.symbol(at + 1, ".") && self.is_pg_temp(at) {
            self.facts.pin(Pin::TemporaryTable);
        }
        if !self.symbol(at + 1, "(") {
            return;
        }
        if self.named(at, "set_config") {
            self.set_config(at);
        } else if self.named(at, "pg_notify") {
            self.facts.channels = true;
        } else if self.named(at, "set_limit") {
            // pg_trgm's, of its similarity threshold.
            self.facts.settings = true;
        } else if let Some((_, pin)) = CALLS.iter().find(|(name, _)| self.named(at, name)) {
            self.facts.pin(*pin);
        } else if RUN_TEXT.iter().any(|name| self.named(at, name)) && self.marks[at..].iter().any(|mark| mark.calls) {
            self.facts.pin(Pin::Unknown);
        }
    }

    fn set_config(&mut self, at: usize) {
        let arguments = self.arguments(at + 1);
        // The first literal is the only one that is in the shape. With too few arguments the call fails, but
        // the server's log has its text.
        let literal = arguments.iter().copied().flatten().find(|token| matches!(token.kind, Kind::Text { .. }));
        self.facts.token |= literal.is_some_and(|token| token.body.eq_ignore_ascii_case(SETTING.as_bytes()));
        let [setting, value, is_local] = arguments.as_slice() else {
            self.unnamed_setting();
            return;
        };
        self.facts.names_setting |= setting.iter().any(|token| token.kind == Kind::Parameter);
        // The bare keyword and nothing else: not a cast, not `is_local => true` in another place.
        if matches!(is_local, [one] if one.is_word("true")) {
            if self.says_pg_temp(at) {
                self.facts.pin(Pin::TemporaryTable);
            }
            return;
        }
        match setting {
            [Token { kind: Kind::Text { escapes: false }, body }] => {
                self.setting(&String::from_utf8_lossy(body).to_ascii_lowercase());
            }
            _ => self.unnamed_setting(),
        }
        self.facts.resets |= matches!(value, [one] if one.is_word("null"));
    }

    /// The arguments of a call; `open` is its parenthesis.
    fn arguments(&self, open: usize) -> Vec<&'a [Token<'a>]> {
        let mut arguments = Vec::new();
        let mut depth = 0usize;
        let mut start = open + 1;
        for at in open..self.tokens.len() {
            if self.symbol(at, "(") || self.symbol(at, "[") {
                depth += 1;
            } else if self.symbol(at, ")") || self.symbol(at, "]") {
                depth -= 1;
                if depth == 0 {
                    arguments.push(&self.tokens[start..at]);
                    break;
                }
            } else if depth == 1 && self.symbol(at, ",") {
                arguments.push(&self.tokens[start..at]);
                start = at + 1;
            }
        }
        arguments
    }

    fn word(&self, at: usize, lower: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_word(lower))
    }

    fn symbol(&self, at: usize, symbol: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_symbol(symbol))
    }

    fn named(&self, at: usize, lower: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_name(lower))
    }

    fn is_pg_temp(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| {
            matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeName)
                && token.body.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"pg_temp"))
        })
    }

    /// With `pg_temp` first in the search path, every CREATE makes a temporary object.
    fn says_pg_temp(&self, from: usize) -> bool {
        (from..self.tokens.len()).any(|at| self.is_pg_temp(at) || self.marks[at].temporary)
    }

    fn end_of_statement(&self, from: usize) -> usize {
        (from..self.tokens.len()).find(|&at| self.symbol(at, ";")).unwrap_or(self.tokens.len())
    }
}

#[cfg(test)]
mod tests;
