//! What the audit log is told of a login and of the session that comes of it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::core::Core;
use super::handshake::{Refused, Started};
use super::login::Admitted;
use super::serve::{End, Session};
use super::served::{Served, Serving};
use super::{Shared, refuse};
use crate::audit::{Audit, Event, Refusal, Statement, Text, Token, Via, Who};
use crate::auth::Identity;
use crate::backend::Endpoint;
use crate::base::{ClusterName, NodeName, Party, Region, Report};
use crate::route;
use crate::sql::identifier;

/// Reasons of refusals in a session that are worth a line.
const DENIALS: [&str; 3] = ["no_tenant", "token_misplaced", "function_call"];

/// Longer statements are recorded by their length alone. Copying them would cost memory that is everybody's.
const LONGEST: usize = 64 * 1024;

/// A session in the audit log: its end is recorded when this is dropped.
pub struct Stay {
    audit: Audit,
    pub(super) who: Arc<Who>,
    began: Instant,
    end: RefCell<Refusal>,
    /// The log has been told that it began, and is to be told that it ended.
    told: bool,
    /// Its statements are recorded too.
    pub(super) statements: bool,
    /// By whom, since it is of its tenant.
    served: Served,
}

impl Stay {
    /// Records a login, if there is an audit log. Refused where it cannot be recorded and would have to be.
    pub(super) async fn begin(audit: &Audit, who: Who, statements: bool) -> Result<Option<Box<Self>>, Report> {
        if !audit.is_on() {
            return Ok(None);
        }
        let who = Arc::new(who);
        let event = Event::Login { who: Arc::clone(&who) };
        // Until somebody says why it ends, it is cut off: by a timeout even while this waits.
        let end = RefCell::new(Refusal { reason: "dropped", sqlstate: None });
        let (audit, began, told) = (audit.clone(), Instant::now(), true);
        let mut stay = Box::new(Self { audit, who, began, end, told, statements, served: Served::default() });
        if stay.audit.admit(|| event).await.is_err() {
            stay.told = false;
            return Err(refuse::unrecordable());
        }
        use_grant(&stay.audit, &stay.who).await?;
        Ok(Some(stay))
    }

    /// Says why the session ends.
    pub fn ends(&self, reason: &'static str, report: Option<&Report>) {
        let reason = report.and_then(|report| report.reason).unwrap_or(reason);
        *self.end.borrow_mut() = Refusal { reason, sqlstate: report.map(|report| report.sqlstate) };
    }

    /// Who it is, for what is done at the console.
    pub fn who(&self) -> &Arc<Who> {
        &self.who
    }

    /// A server has served the session.
    pub(super) fn note_served(
        &mut self,
        cluster: &ClusterName,
        by: &Arc<Endpoint>,
        regions: &Arc<[Region]>,
        since: Instant,
    ) {
        self.served.note(&self.audit, &self.who, Serving { cluster, by, regions, since });
    }

    /// It keeps the backend that it has of this server.
    pub(super) fn note_still(&mut self, at: &Arc<Endpoint>, now: Instant) {
        self.served.still(&self.audit, &self.who, at, now);
    }

    /// It gives the backend back that it had of this server.
    pub(super) fn note_part(&mut self, from: &Arc<Endpoint>, now: Instant) {
        self.served.part(from, now);
    }

    fn keep(&self, statement: Statement) -> Result<(), Report> {
        let event = || Event::Statement { who: Arc::clone(&self.who), statement };
        self.audit.keep(event).map_err(|_| refuse::unrecordable())
    }
}

/// Records that a grant is made use of, if there is one.
async fn use_grant(audit: &Audit, who: &Arc<Who>) -> Result<(), Report> {
    if who.grant.is_none() {
        return Ok(());
    }
    let event = Event::GrantUsed { who: Arc::clone(who) };
    audit.admit(|| event).await.map_err(|_| refuse::unrecordable())
}

impl std::fmt::Debug for Stay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stay").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if !self.told {
            return;
        }
        self.served.end(&self.audit, &self.who);
        let (who, end, lasted) = (Arc::clone(&self.who), *self.end.borrow(), self.began.elapsed());
        self.audit.record(|| Event::SessionEnd { who, end, lasted });
    }
}

pub(super) fn token(identity: &Identity) -> Token {
    Token {
        issuer: Text::new(&identity.issuer),
        subject: identity.subject.as_deref().map(Text::new),
        access: identity.access.clone(),
        break_glass: identity.break_glass.as_deref().map(Text::new),
    }
}

impl Started {
    /// Who wants to come in, by its own account.
    pub(super) fn who(&self) -> Who {
        let given = |name| self.startup.get(name).map(Text::new);
        Who {
            user: given("user"),
            database: given("database"),
            peer: self.visitor.peer,
            came_by: self.came_by(),
            ..Who::default()
        }
    }

    fn came_by(&self) -> Option<NodeName> {
        self.visitor.by_node().map(|came| came.node.name.clone())
    }

    /// Who has come in.
    pub(super) fn who_is_in(&self, session: u32, admitted: &Admitted) -> Who {
        let via = Some(if admitted.token.is_some() { Via::Token } else { Via::Password });
        let party = Some(admitted.terms.id.clone());
        let (token, grant) = (admitted.token.clone(), admitted.grant.clone());
        Who { session: Some(session), party, via, token, grant, ..self.who() }
    }

    /// The same, with what its token has proved.
    pub(super) fn who_proved(&self, identity: Option<&Identity>) -> Who {
        identity.map_or_else(|| self.who(), |identity| proved(identity, self.who()))
    }

    pub(super) fn audit_refusal(&self, core: &Core, refused: &Refused, identity: Option<&Identity>) {
        let Refused::Told(report) = refused else { return };
        if core.shared.audit.is_on() {
            let who = self.who_proved(identity);
            let event = |who, refusal| Event::LoginRefused { who, refusal };
            record_refusal(&core.shared.audit, report, Arc::new(who), event);
        }
    }
}

/// A login that was refused before it was known who it is.
pub(super) fn refused_early(shared: &Shared, peer: Option<SocketAddr>, refusal: Refusal) {
    shared.audit.record(|| Event::LoginRefused { who: Arc::new(Who { peer, ..Who::default() }), refusal });
}

/// Reasons of residency, whose refusals have been recorded where they were made, with what they are about.
const SERVER_REGION: &str = "server_region";
const TOKEN_REGION: &str = "token_region";
const NODE_REGION: &str = "node_region";

fn record_refusal(audit: &Audit, report: &Report, who: Arc<Who>, event: impl FnOnce(Arc<Who>, Refusal) -> Event) {
    let reason = report.reason.unwrap_or("other");
    if ![SERVER_REGION, TOKEN_REGION, NODE_REGION].contains(&reason) {
        audit.record(|| event(who, Refusal { reason, sqlstate: Some(report.sqlstate) }));
    }
}

fn proved(identity: &Identity, who: Who) -> Who {
    let (party, token) = (Party::Tenant(identity.tenant.clone()), token(identity));
    Who { party: Some(party), via: Some(Via::Token), token: Some(token), ..who }
}

/// Records a refusal that is due to where things are: the server, or the token's bearer.
pub(super) fn audit_route(
    audit: &Audit,
    who: &Who,
    identity: &Identity,
    refusal: &route::Refusal,
    report: Report,
) -> Report {
    let (server, region, reason) = match refusal {
        route::Refusal::TokenRegion(region) => (None, region, TOKEN_REGION),
        route::Refusal::Residency { server, region } => (Some(server), region, SERVER_REGION),
        route::Refusal::Node { here, .. } => (None, here, NODE_REGION),
        route::Refusal::Access(_) => return report,
    };
    let report = Report { reason: Some(reason), ..report };
    audit.record(|| {
        let who = Arc::new(proved(identity, who.clone()));
        let refusal = Refusal { reason, sqlstate: Some(report.sqlstate) };
        Event::ResidencyRefused { who, refusal, server: server.cloned(), region: region.clone() }
    });
    report
}

impl Session {
    /// The same for a session whose server has changed.
    pub(super) fn note_region(&self, refusal: &route::Refusal, report: Report) -> Report {
        if let (Some(stay), route::Refusal::Residency { server, region }) = (&self.stay, refusal) {
            stay.audit.record(|| Event::ResidencyRefused {
                who: Arc::clone(&stay.who),
                refusal: Refusal { reason: SERVER_REGION, sqlstate: Some(report.sqlstate) },
                server: Some(server.clone()),
                region: region.clone(),
            });
        }
        report
    }

    /// Takes note of a statement that is about to be executed, where its tenant has that audited. What cannot be
    /// noted and would have to be is not executed.
    pub(super) fn note_statement(&self, text: Option<&[u8]>, length: usize) -> Result<(), End> {
        // What is sent once more is recorded once more: what came behind it was not, and looks no different.
        let Some(stay) = self.stay.as_ref().filter(|stay| stay.statements) else { return Ok(()) };
        let text = text.filter(|text| text.len() <= LONGEST);
        let statement = text.map_or(Statement::Long(length), |text| Statement::Text(text.into()));
        Ok(stay.keep(statement)?)
    }

    /// The same for a prepared statement, by its name.
    pub(super) fn note_bound(&self, name: &[u8]) -> Result<(), End> {
        if !self.stay.as_ref().is_some_and(|stay| stay.statements) {
            return Ok(());
        }
        if let Some(text) = self.names.text(name) {
            return self.note_statement(Some(text), text.len());
        }
        // It may have been prepared by SQL, whose text has been recorded then.
        let text = format!("execute {}", identifier(&name.escape_ascii().to_string()));
        self.note_statement(Some(text.as_bytes()), text.len())
    }

    pub(super) fn note_function(&self, number: u32) -> Result<(), End> {
        let Some(stay) = self.stay.as_ref().filter(|stay| stay.statements) else { return Ok(()) };
        Ok(stay.keep(Statement::Function(number))?)
    }

    /// PostgreSQL has found the tenant context of the session forged, changed or copied.
    pub(super) fn note_forgery(&self) {
        let Some(stay) = &self.stay else { return };
        stay.audit.record(|| Event::ContextForged { who: Arc::clone(&stay.who) });
    }

    /// A request was refused, and the session goes on. Only what breaks a rule is recorded, not what meets a limit
    /// or a server that is down.
    pub(super) fn note_denial(&self, report: &Report) {
        let Some(stay) = &self.stay else { return };
        if let Some(reason) = report.reason.filter(|reason| DENIALS.contains(reason)) {
            let refusal = Refusal { reason, sqlstate: Some(report.sqlstate) };
            stay.audit.record(|| Event::Denied { who: Arc::clone(&stay.who), refusal });
        }
    }

    /// The session gave up its token, or its new one was refused: `report` says why.
    pub(super) fn note_tenant_left(&mut self, report: Option<&Report>) {
        let Some(stay) = &mut self.stay else { return };
        stay.served.end(&stay.audit, &stay.who);
        let who = Arc::clone(&stay.who);
        match report {
            Some(report) => {
                record_refusal(&stay.audit, report, who, |who, refusal| Event::SwitchRefused { who, refusal })
            }
            None => stay.audit.record(|| Event::TenantLeft { who }),
        }
        stay.who = Arc::new(Who { party: None, token: None, grant: None, ..Who::clone(&stay.who) });
    }

    /// From here on the session is another tenant's, unless that cannot be recorded and would have to be.
    pub(super) async fn note_switch(&mut self, admitted: &Admitted) -> Result<(), Report> {
        let Some(stay) = &mut self.stay else { return Ok(()) };
        stay.served.end(&stay.audit, &stay.who);
        let (party, token) = (Some(admitted.terms.id.clone()), admitted.token.clone());
        let grant = admitted.grant.clone();
        let who = Arc::new(Who { party, token, grant, via: Some(Via::Token), ..Who::clone(&stay.who) });
        let event = Event::Switch { who: Arc::clone(&who) };
        stay.audit.admit(|| event).await.map_err(|_| refuse::unrecordable())?;
        use_grant(&stay.audit, &who).await?;
        stay.who = who;
        stay.statements = admitted.terms.audit_statements;
        Ok(())
    }

    pub(super) fn note_end(&self, end: &End) {
        let Some(stay) = &self.stay else { return };
        match end {
            End::Client => stay.ends("client", None),
            End::ServerSaid => stay.ends("server", None),
            End::Told(report) => stay.ends("other", Some(report)),
        }
    }
}
