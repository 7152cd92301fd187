//! What pgward makes sure of before it lends a backend: that its login cannot get around the isolation of tenants,
//! and that no tenant has given the login settings, or another password, for all who come after.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::registry::{Place, Pool};
use super::scope::Scope;
use crate::audit::{Event, Text};
use crate::backend::{self, AskError, Backend, BackendError, Credentials, Endpoint, Greeting};

/// What would let a session around it. `$1`: tenants are kept apart by row security.
const UNSAFE: &str = "
    with mine as (
        select r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication
        from pg_catalog.pg_roles r where pg_catalog.pg_has_role(session_user, r.oid, 'member')
    )
    select pg_catalog.format('it is, or can become, %I, which is a superuser', rolname) from mine where rolsuper
    union all
    select pg_catalog.format('it is, or can become, %I, which can create roles', rolname) from mine
    where rolcreaterole and not rolsuper
    union all
    select pg_catalog.format('it is, or can become, %I, which can replicate', rolname) from mine
    where rolreplication and not rolsuper
    union all
    select pg_catalog.format('it is a member of %I', rolname) from mine
    where rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
        and not exists (select from mine where rolsuper)
    union all
    select pg_catalog.format('it is, or can become, %I, which has BYPASSRLS', rolname) from mine
    where rolbypassrls and not rolsuper and $1::bool
    union all
    (select pg_catalog.format('it is, or can become, %I, which owns table %s, where row security is not forced',
        mine.rolname, c.oid::pg_catalog.regclass)
    from mine join pg_catalog.pg_class c on c.relowner = mine.oid
    where c.relkind in ('r', 'p') and c.relrowsecurity and not c.relforcerowsecurity and $1::bool
        and not exists (select from mine where rolsuper)
    order by 1 limit 3)";

/// What to make sure of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vetting {
    /// Tenants are kept apart by row security.
    pub rows: bool,
    /// The login may be one that can get around it.
    pub allow_unsafe: bool,
    /// Tenants share the database, and `pgward install` noted there how the login is to be.
    pub shared: bool,
    /// What it may do where its tenants' data may not be.
    pub scope: Option<Scope>,
    /// Who can mend the login.
    pub service: Option<Credentials>,
}

/// One pool's mending: by one at a time, and not again at once.
#[derive(Debug, Default)]
pub(super) struct Mended(Mutex<Option<Instant>>);

/// A login is mended at most this often.
const PAUSE: Duration = Duration::from_millis(50);

/// Another session may spoil it again meanwhile.
const TRIES: usize = 10;

/// From this try on no session can, while the backend is being opened.
const HELD_FROM: usize = 3;

/// A login that is refused though it was mended has another reason, such as a password that the configuration has wrong.
const TRIES_IF_REFUSED: usize = 5;

/// Opens a backend that can be lent.
pub(super) async fn open(
    endpoint: &Endpoint,
    credentials: &Credentials,
    vetting: Option<&Vetting>,
    pool: &Pool,
) -> Result<(Backend, Greeting), BackendError> {
    let Some(vetting) = vetting else { return backend::open(endpoint, credentials).await };
    let mut tries = 0;
    let mut held: Option<Backend> = None;
    let mut hindered = None;
    loop {
        let begun = Instant::now();
        tries += 1;
        let error = match backend::open(endpoint, credentials).await {
            Ok((mut backend, greeting)) => match vetting.vet(&mut backend, endpoint, credentials).await {
                Ok(()) => return Ok((backend, greeting)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        drop(held.take());
        let note = |outcome| {
            let (role, place) =
                (Text::new(&credentials.role), format!("{}@{}", credentials.database, pool.key.cluster));
            pool.audit.record(|| Event::LoginRole { role, place: Text::new(&place), outcome });
        };
        if matches!(error, BackendError::Unsafe { .. }) {
            note("unsafe");
        }
        if matches!(error, BackendError::OutOfScope { .. }) {
            note("out_of_scope");
        }
        let most = match &error {
            BackendError::Unsound { .. } => TRIES,
            // A session that is ended as soon as it has begun (idle_session_timeout) has words behind its login.
            BackendError::Protocol { .. } if vetting.shared => TRIES,
            BackendError::Refused { sqlstate, .. } if vetting.shared && may_be_spoilt(sqlstate) => TRIES_IF_REFUSED,
            _ => 1,
        };
        // A replica has it from its primary when it is mended there.
        let mends = tries < most && pool.key.place == Place::Primary;
        let Some(service) = vetting.service.as_ref().filter(|_| mends) else {
            return Err(hindered.unwrap_or(error));
        };
        tracing::warn!(role = credentials.role, server = endpoint.name(), %error, "a login of tenants is being mended");
        let mended = pool.mended.mend(endpoint, service, &credentials.role, begun).await;
        note(if mended.is_ok() { "mended" } else { "not_mended" });
        hindered = may_be_hindered(mended)?;
        if tries + 1 >= HELD_FROM {
            match hold(endpoint, service, &credentials.role).await {
                Ok(backend) => held = Some(backend),
                Err(error) => hindered = may_be_hindered(Err(error))?,
            }
        }
    }
}

/// What the server would not do may be due to others, such as those who mend other logins: the next try tells.
fn may_be_hindered(outcome: Result<(), BackendError>) -> Result<Option<BackendError>, BackendError> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error @ BackendError::Ask { source: AskError::Server { .. }, .. }) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Whether a login was refused for what somebody may have done to the role: its password, or a setting that the server
/// cannot begin a session with. Not that the server is starting, full, or has no such database.
fn may_be_spoilt(sqlstate: &str) -> bool {
    !["57", "53", "3D", "08"].iter().any(|class| sqlstate.starts_with(class))
}

impl Vetting {
    async fn vet(
        &self,
        backend: &mut Backend,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<(), BackendError> {
        let (server, role) = (endpoint.name(), credentials.role.clone());
        // First: what it answers holds for what is asked behind it.
        if self.shared {
            let sound = match within(endpoint, backend::ask(backend, "select pgward.sound()", &[])).await? {
                Ok(rows) => rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"),
                // No such schema, no such function: there is none, or an old one.
                Err(AskError::Server { sqlstate, .. }) if sqlstate == "3F000" || sqlstate == "42883" => {
                    return Err(BackendError::NotInstalled { server, database: credentials.database.clone() });
                }
                // Its settings may even keep it from answering, or end it before or behind its answer.
                Err(AskError::Server { .. } | AskError::Lost | AskError::Garbled) => false,
            };
            if !sound {
                return Err(BackendError::Unsound { server, role });
            }
        }
        let failed = |source| BackendError::Ask { server: server.clone(), source };
        let (beyond, reasons) = within(endpoint, self.judged(backend)).await?.map_err(failed)?;
        if !beyond.is_empty() {
            return Err(BackendError::OutOfScope { server, role, reasons: beyond.join("; ") });
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(BackendError::Unsafe { server, role, reasons: reasons.join("; ") })
    }

    /// What the login could do beyond its scope, and to get around isolation.
    async fn judged(&self, backend: &mut Backend) -> Result<(Vec<String>, Vec<String>), AskError> {
        // In a database of its own a tenant may have given its login settings: operators are to be PostgreSQL's all the same.
        for settled in ["begin", "set local search_path = pg_catalog, pg_temp"] {
            backend::ask(backend, settled, &[]).await?;
        }
        let beyond = match &self.scope {
            Some(scope) => scope.broken(backend).await?,
            None => Vec::new(),
        };
        let reasons = match self.allow_unsafe {
            true => Vec::new(),
            false => backend::ask(backend, UNSAFE, &[if self.rows { "true" } else { "false" }]).await?,
        };
        backend::ask(backend, "rollback", &[]).await?;
        Ok((beyond, reasons.into_iter().flatten().flatten().collect()))
    }
}

impl Mended {
    async fn mend(
        &self,
        endpoint: &Endpoint,
        service: &Credentials,
        role: &str,
        begun: Instant,
    ) -> Result<(), BackendError> {
        let mut last = self.0.lock().await;
        // Another core has mended it while this one found it spoilt.
        if last.is_some_and(|at| at > begun) {
            return Ok(());
        }
        if let Some(at) = *last {
            tokio::time::sleep_until((at + PAUSE).into()).await;
        }
        let (mut backend, _) = backend::open(endpoint, service).await?;
        let asked = within(endpoint, backend::ask(&mut backend, "select pgward.mend($1)", &[role])).await?;
        *last = Some(Instant::now());
        match asked {
            Ok(_) => Ok(()),
            Err(source) => Err(BackendError::Ask { server: endpoint.name(), source }),
        }
    }
}

/// A session of the service's, for as long as which no role changes.
async fn hold(endpoint: &Endpoint, service: &Credentials, role: &str) -> Result<Backend, BackendError> {
    let (mut backend, _) = backend::open(endpoint, service).await?;
    for (query, values) in [("begin", &[][..]), ("select pgward.hold($1)", &[role])] {
        let asked = within(endpoint, backend::ask(&mut backend, query, values)).await?;
        asked.map_err(|source| BackendError::Ask { server: endpoint.name(), source })?;
    }
    Ok(backend)
}

async fn within<T>(endpoint: &Endpoint, asked: impl Future<Output = T>) -> Result<T, BackendError> {
    let late = |_| BackendError::Timeout { server: endpoint.name(), seconds: endpoint.timeout.as_secs() };
    tokio::time::timeout(endpoint.timeout, asked).await.map_err(late)
}
