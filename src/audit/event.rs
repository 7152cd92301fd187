//! What is audited: an event a kind, and the members of its line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::redact::{Text, holds_token};
use crate::base::{Access, ClusterName, NodeName, Party, Region, ServerName, SqlState, TenantId, clock};
use crate::config::Grant;
use crate::sql::without_constants;

/// Longer statements are recorded by length and hash.
pub const LONGEST_STATEMENT: usize = 8 * 1024;

/// By what somebody came in, or tried to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Token,
    Password,
    Console,
}

/// Who it is about, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who {
    /// What the client and `SHOW CLIENTS` know the session by.
    pub session: Option<u32>,
    pub party: Option<Party>,
    /// As the client gave them; nothing proves them before a login.
    pub user: Option<Text>,
    pub database: Option<Text>,
    pub peer: Option<SocketAddr>,
    pub via: Option<Via>,
    pub token: Option<Token>,
    /// The other node that it has come by.
    pub came_by: Option<NodeName>,
    /// By what it is served where its tenant's data may not be.
    pub grant: Option<Arc<Grant>>,
}

/// What a verified token says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub issuer: Text,
    pub subject: Option<Text>,
    pub access: Access,
    /// Why its bearer is in a tenant that it does not name.
    pub break_glass: Option<Text>,
}

/// Why something was refused, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// A word out of a fixed set.
    pub reason: &'static str,
    /// What the client was told.
    pub sqlstate: Option<SqlState>,
}

/// A server that serves a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBy {
    pub cluster: ClusterName,
    pub server: ServerName,
    pub region: Region,
    /// Where servers may be that serve the session, as it was decided when it came in.
    pub regions: Arc<[Region]>,
}

/// A statement on its way to be recorded. Its text never gets to the log as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Text(Box<[u8]>),
    /// Too long to be kept, which is so many bytes.
    Long(usize),
    /// A function called by the fast path, by its number in pg_proc.
    Function(u32),
}

/// Who asked for an administrative act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Console,
    Signal,
    /// The tenants file has changed.
    File,
    /// The catalogue has.
    Catalogue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Login {
        who: Arc<Who>,
    },
    LoginRefused {
        who: Arc<Who>,
        refusal: Refusal,
    },
    /// A session is served where its tenant's data may not be.
    GrantUsed {
        who: Arc<Who>,
    },
    /// A session took another tenant's token.
    Switch {
        who: Arc<Who>,
    },
    SwitchRefused {
        who: Arc<Who>,
        refusal: Refusal,
    },
    /// A session gave up its token.
    TenantLeft {
        who: Arc<Who>,
    },
    SessionEnd {
        who: Arc<Who>,
        end: Refusal,
        lasted: Duration,
    },
    /// PostgreSQL said that a session's tenant context is not genuine.
    ContextForged {
        who: Arc<Who>,
    },
    /// A request of a session was refused; the session goes on.
    Denied {
        who: Arc<Who>,
        refusal: Refusal,
    },
    /// The tenant's data, or the token's bearer, may not be where a server is.
    ResidencyRefused {
        who: Arc<Who>,
        refusal: Refusal,
        server: Option<ServerName>,
        region: Region,
    },
    /// A client was passed on to another node, by its token or, where its TLS goes through, by the host name that it
    /// asked for.
    Forwarded {
        who: Arc<Who>,
        node: NodeName,
        region: Region,
        direct_tls: bool,
    },
    /// A server serves the session for the first time since that is of its tenant.
    Served {
        who: Arc<Who>,
        by: Arc<ServedBy>,
    },
    /// It has done so again.
    ServedAgain {
        who: Arc<Who>,
        by: Arc<ServedBy>,
        /// Since the log was told of it last.
        times: u64,
        until: SystemTime,
    },
    /// A cancel request whose key is nobody's.
    CancelRefused {
        peer: Option<SocketAddr>,
    },
    /// A command at the console that changes something.
    Command {
        who: Arc<Who>,
        command: &'static str,
        /// What it is done to.
        place: Option<Text>,
    },
    /// The configuration was read again. `reason` of a refusal: why the old one stays.
    Reload {
        source: Source,
        done: bool,
    },
    Shutdown {
        source: Source,
    },
    Statement {
        who: Arc<Who>,
        statement: Statement,
    },
    /// A command that changes tenants or what is installed for them.
    Administration {
        act: &'static str,
        tenant: Option<TenantId>,
        /// `database@cluster`.
        place: Option<Text>,
        operator: Option<Text>,
        outcome: &'static str,
    },
    /// Rows are gone whose time was up.
    Expired {
        /// `None`: of a table that tenants share.
        tenant: Option<TenantId>,
        /// `database@cluster`.
        place: Text,
        table: Text,
        partitions: u64,
        rows: u64,
    },
    /// A login role of tenants was not as it was installed, and has been put right; or it is not used, since it could
    /// get around isolation.
    LoginRole {
        role: Text,
        place: Text,
        outcome: &'static str,
    },
}

impl Event {
    /// Its name in the log and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Login { .. } => "login",
            Self::LoginRefused { .. } => "login_refused",
            Self::Switch { .. } => "switch",
            Self::GrantUsed { .. } => "grant_used",
            Self::SwitchRefused { .. } => "switch_refused",
            Self::TenantLeft { .. } => "tenant_left",
            Self::SessionEnd { .. } => "session_end",
            Self::ContextForged { .. } => "context_forged",
            Self::Denied { .. } => "denied",
            Self::ResidencyRefused { .. } => "residency_refused",
            Self::Forwarded { .. } => "forwarded",
            Self::Served { .. } => "served",
            Self::ServedAgain { .. } => "served_again",
            Self::CancelRefused { .. } => "cancel_refused",
            Self::Command { .. } => "command",
            Self::Reload { .. } => "reload",
            Self::Shutdown { .. } => "shutdown",
            Self::Statement { .. } => "statement",
            Self::Administration { .. } => "administration",
            Self::Expired { .. } => "expired",
            Self::LoginRole { .. } => "login_role",
        }
    }

    fn who(&self) -> Option<&Who> {
        match self {
            Self::Login { who }
            | Self::LoginRefused { who, .. }
            | Self::GrantUsed { who }
            | Self::Switch { who }
            | Self::SwitchRefused { who, .. }
            | Self::TenantLeft { who }
            | Self::SessionEnd { who, .. }
            | Self::ContextForged { who }
            | Self::Denied { who, .. }
            | Self::ResidencyRefused { who, .. }
            | Self::Forwarded { who, .. }
            | Self::Served { who, .. }
            | Self::ServedAgain { who, .. }
            | Self::Command { who, .. }
            | Self::Statement { who, .. } => Some(who),
            Self::CancelRefused { .. }
            | Self::Reload { .. }
            | Self::Shutdown { .. }
            | Self::Administration { .. }
            | Self::Expired { .. }
            | Self::LoginRole { .. } => None,
        }
    }

    /// Who can cause as many of these as it likes, before or after it has proved who it is. `None`: nobody.
    pub fn culprit(&self) -> Option<Culprit> {
        let (peer, reason) = match self {
            Self::LoginRefused { who, refusal }
            | Self::SwitchRefused { who, refusal }
            | Self::Denied { who, refusal }
            | Self::ResidencyRefused { who, refusal, .. } => (who.peer, refusal.reason),
            Self::ContextForged { who } => (who.peer, ""),
            Self::CancelRefused { peer } => (*peer, ""),
            Self::LoginRole { outcome, .. } => (None, *outcome),
            _ => return None,
        };
        let party = matches!(self, Self::ContextForged { .. } | Self::Denied { .. } | Self::SwitchRefused { .. });
        let party = self.who().filter(|_| party).and_then(|who| who.party.clone());
        Some(Culprit { event: self.name(), reason, network: peer.map(network), party })
    }

    /// What it weighs in the queue beyond its own size.
    pub fn weight(&self) -> usize {
        match self {
            Self::Statement { statement: Statement::Text(text), .. } => text.len(),
            _ => 0,
        }
    }

    /// The members of its line.
    pub(super) fn line(&self) -> Members<'_> {
        let who = self.who();
        let mut line = Members { event: self.name(), ..Members::default() };
        if let Some(who) = who {
            line.session = who.session;
            line.tenant = who.party.as_ref().and_then(Party::tenant).map(|id| id.as_str());
            line.user = who.user.as_ref();
            line.database = who.database.as_ref();
            line.peer = who.peer;
            line.via = who.via;
            line.grant = who.grant.as_ref().map(|grant| grant.name.as_str());
            line.came_by = who.came_by.as_ref().map(NodeName::as_str);
            if let Some(token) = &who.token {
                line.issuer = Some(&token.issuer);
                line.subject = token.subject.as_ref();
                line.role = Some(token.access.as_str());
                line.break_glass = token.break_glass.as_ref();
            }
        }
        match self {
            Self::LoginRefused { refusal, .. } | Self::SwitchRefused { refusal, .. } | Self::Denied { refusal, .. } => {
                line.refusal(refusal)
            }
            Self::ResidencyRefused { refusal, server, region, .. } => {
                line.refusal(refusal);
                line.server = server.as_ref().map(ServerName::as_str);
                line.region = Some(region.as_str());
            }
            Self::Forwarded { node, region, direct_tls, .. } => {
                line.forwarded_to = Some(node.as_str());
                line.region = Some(region.as_str());
                line.direct_tls = Some(*direct_tls);
            }
            Self::GrantUsed { who } => {
                let grant = who.grant.as_ref();
                line.purpose = grant.map(|grant| grant.purpose.as_str());
                line.legal_basis = grant.map(|grant| grant.legal_basis.as_str());
            }
            Self::Served { by, .. } => line.served(by),
            Self::ServedAgain { by, times, until, .. } => {
                line.served(by);
                line.times = Some(*times);
                line.until = Some(clock::rfc3339(*until));
            }
            Self::SessionEnd { end, lasted, .. } => {
                line.refusal(end);
                line.seconds = Some((lasted.as_secs_f64() * 1000.0).round() / 1000.0);
            }
            Self::CancelRefused { peer } => line.peer = *peer,
            Self::Command { command, place, .. } => {
                line.command = Some(command);
                line.place = place.as_ref();
            }
            Self::Reload { source, done } => {
                line.source = Some(*source);
                line.outcome = Some(if *done { "done" } else { "refused" });
            }
            Self::Shutdown { source } => line.source = Some(*source),
            Self::Administration { act, tenant, place, operator, outcome } => {
                line.act = Some(act);
                line.tenant = tenant.as_ref().map(TenantId::as_str);
                line.place = place.as_ref();
                line.operator = operator.as_ref();
                line.outcome = Some(outcome);
            }
            Self::Expired { tenant, place, table, partitions, rows } => {
                line.tenant = tenant.as_ref().map(TenantId::as_str);
                (line.place, line.table) = (Some(place), Some(table));
                (line.partitions, line.rows) = (Some(*partitions), Some(*rows));
            }
            Self::LoginRole { role, place, outcome } => {
                line.login_role = Some(role);
                line.place = Some(place);
                line.outcome = Some(outcome);
            }
            Self::Statement { statement, .. } => line.statement(statement),
            Self::Login { .. } | Self::Switch { .. } | Self::TenantLeft { .. } | Self::ContextForged { .. } => {}
        }
        line
    }
}

/// Whose events are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Culprit {
    event: &'static str,
    reason: &'static str,
    network: Option<std::net::IpAddr>,
    party: Option<Party>,
}

/// An address of version 4, or the network of 64 bits that whoever has one address of version 6 has all of.
fn network(peer: SocketAddr) -> std::net::IpAddr {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// A line's members, in their order.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Members<'a> {
    pub event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_tls: Option<bool>,
    /// The node that the client has come by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub came_by: Option<&'a str>,
    /// The crossing of borders that is made use of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legal_basis: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_role: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// So many more of the kind, from the same culprit, were not written one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    // Of the log itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_through: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

impl<'a> Members<'a> {
    fn served(&mut self, by: &'a ServedBy) {
        self.cluster = Some(by.cluster.as_str());
        self.server = Some(by.server.as_str());
        self.region = Some(by.region.as_str());
        self.regions = Some(by.regions.iter().map(Region::as_str).collect());
    }

    fn refusal(&mut self, refusal: &Refusal) {
        self.reason = Some(refusal.reason);
        self.sqlstate = refusal.sqlstate.map(SqlState::as_str);
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Function(number) => self.function = Some(*number),
            Statement::Long(length) => self.length = Some(*length),
            Statement::Text(text) => {
                let readable = std::str::from_utf8(text).ok().and_then(without_constants);
                match readable.filter(|text| text.len() <= LONGEST_STATEMENT && !holds_token(text)) {
                    Some(text) => self.statement = Some(text),
                    None => {
                        self.length = Some(text.len());
                        self.sha256 = Some(super::chain::Seal::Plain.hash(text).to_string());
                    }
                }
            }
        }
    }

    /// As JSON, without the braces.
    pub fn json(&self) -> String {
        // Strings, numbers and options: there is nothing in it that JSON cannot say.
        let text = serde_json::to_string(self).unwrap_or_default();
        text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or("\"event\":\"unwritable\"").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_recorded_without_values_and_unreadable_ones_without_text() {
        let who = Arc::new(Who { user: Some(Text::new("a\"\n\u{1}b")), ..Who::default() });
        let line = |text: &str| {
            let statement = Statement::Text(text.as_bytes().into());
            Event::Statement { who: Arc::clone(&who), statement }.line().json()
        };
        let said = line("select 'secret' -- secret\n");
        assert_eq!(said, r#""event":"statement","user":"a\"\n\u0001b","statement":"select ?""#);
        let said = line("secret 'open");
        assert!(!said.contains("secret") && said.contains("\"length\":12,\"sha256\":\""), "{said}");
        let said = line("select \"eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQ.c2ln\"");
        assert!(!said.contains("eyJ") && said.contains("sha256"), "{said}");
        assert!(!line(&format!("select {}", "a,".repeat(9000) + "b")).contains("a,a"));
    }

    #[test]
    fn one_network_is_one_culprit_whatever_name_it_gives() {
        let refused = |user: &str, peer: &str| {
            let peer = Some(peer.parse().unwrap());
            let who = Arc::new(Who { user: Some(Text::new(user)), peer, ..Who::default() });
            Event::LoginRefused { who, refusal: Refusal { reason: "malformed", sqlstate: None } }.culprit().unwrap()
        };
        assert_eq!(refused("a", "10.0.0.1:1"), refused("b", "10.0.0.1:2"));
        assert_eq!(refused("a", "[2001:db8::1]:1"), refused("b", "[2001:db8::ffff]:2"));
        assert_ne!(refused("a", "10.0.0.1:1"), refused("a", "10.0.0.2:1"));
    }
}
