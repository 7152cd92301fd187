//! The one place where what went wrong becomes what a client may see.
//!
//! docs/errors.md lists these; a test compares.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Kick;
use crate::auth::scram::ScramError;
use crate::backend::BackendError;
use crate::base::{Region, Report, Routine, SqlState};
use crate::config::Node;
use crate::pool::AcquireError;
use crate::sql::literal;
use crate::wire::HeaderError;
use crate::wire::startup::StartupError;

/// Whatever a valid token does not give is refused in the same words, so that nobody learns which
/// tenants, roles or databases exist.
pub(super) fn no_access() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "the token does not give access to this database")
        .hint("Check that the user is the token's tenant, the database is that tenant's, and the role is one it has.")
}

/// A tenant whose data may not pass through here. It knows its regions, so it may be told where they are.
pub(super) fn elsewhere<'a>(here: &Region, nodes: impl Iterator<Item = &'a Arc<Node>>) -> Report {
    let report = Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!("this pgward is in region {here}, where the tenant's data may not be"),
    );
    let addresses = addresses(nodes);
    report.because("node_region").hint(match addresses.is_empty() {
        true => "Connect to a pgward in one of the tenant's regions.".to_owned(),
        false => format!("Connect to {addresses}."),
    })
}

/// Its tenant's rule is that it be forwarded to a node at home, and none is there.
pub(super) fn home_unreachable<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> Report {
    Report::fatal(
        SqlState::CANNOT_CONNECT_NOW,
        "no pgward in the tenant's regions could be reached to forward this connection to",
    )
    .hint(format!("Try again, or connect to {}.", addresses(nodes)))
    .because("home_unreachable")
}

fn addresses<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> String {
    let address = |node: &Arc<Node>| format!("{} (region {})", node.address, node.region);
    nodes.map(address).collect::<Vec<_>>().join(" or ")
}

/// Another node has forwarded what this one does not take from it: both are to have the same rules.
pub(super) fn not_forwarded() -> Report {
    Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        "connections to this database may not be forwarded by another pgward",
    )
    .hint("Connect to this one.")
    .because("not_forwarded")
}

pub(super) fn no_break_glass() -> Report {
    Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, "pgward.break_glass is for databases of tenants")
        .hint("Leave it out.")
}

pub(super) fn break_glass_reason(length: &std::ops::RangeInclusive<usize>) -> Report {
    let (least, most) = (length.start(), length.end());
    Report::fatal(SqlState::INVALID_PARAMETER_VALUE, "pgward.break_glass says why, and this is no reason")
        .hint(format!("Give {least} to {most} bytes without control characters, such as the incident's number and what has to be done."))
        .because("break_glass_reason")
}

/// Who has a valid token may know.
pub(super) fn suspended() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "the tenant is suspended")
        .hint("Whoever runs pgward can resume it; connect again then.")
}

pub(super) fn bad_token(hint: &'static str) -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "the token was not accepted").hint(hint)
}

pub(super) fn bad_password() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "password authentication failed")
        .hint("The console takes the users of [console.users].")
}

/// What a login by SCRAM ends in. A wrong password and an unknown user are the same.
pub(super) fn scram(error: &ScramError, user: &str) -> Report {
    let state = match error {
        ScramError::Proof => {
            return Report::fatal(
                SqlState::INVALID_PASSWORD,
                format!("password authentication failed for user \"{}\"", shown(user)),
            )
            .because("password")
            .hint("Check user and password. pgward knows those of its users file and of its lookup.");
        }
        ScramError::Binding => {
            return Report::fatal(SqlState::INVALID_AUTHORIZATION, "the login is not bound to this TLS connection")
                .because("channel_binding")
                .hint("Somebody may be between client and pgward, or ends TLS in between: then use channel_binding=disable.");
        }
        ScramError::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
        ScramError::Mechanism | ScramError::Malformed(_) => SqlState::PROTOCOL_VIOLATION,
    };
    Report::fatal(state, format!("SCRAM-SHA-256 was not spoken as it should be: {error}"))
        .because("protocol")
        .hint("Use a client that speaks RFC 7677, such as any with libpq 10 or later.")
}

pub(super) fn superuser() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "this login is a superuser's, and pgward does not let those in")
        .because("superuser")
        .hint("Use another role, or have plain.superusers name it.")
}

pub(super) fn tenants_role() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "this role is kept for the backends of tenants")
        .because("tenants_role")
        .hint("Log in as another role, or as a tenant with its token.")
}

/// The client's password is right here and not at the server.
pub(super) fn not_passed_on(user: &str) -> Report {
    Report::fatal(
        SqlState::INVALID_PASSWORD,
        format!("the database server did not accept the login of user \"{}\"", shown(user)),
    )
    .because("not_passed_on").hint("The password or verifier that pgward has must be the server's: copy rolpassword of pg_authid, or use plain.lookup.")
}

pub(super) fn no_database(name: &str) -> Report {
    Report::fatal(SqlState::INVALID_CATALOG_NAME, format!("database \"{}\" does not exist", shown(name)))
        .because("no_database")
        .hint("Check the database in the connection string.")
}

pub(super) fn no_connect(name: &str) -> Report {
    Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, format!("permission denied for database \"{}\"", shown(name)))
        .because("no_connect")
        .hint("On the server: GRANT CONNECT ON DATABASE ... TO the role.")
}

pub(super) fn database_clients(limit: usize) -> Report {
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("the database has as many clients as it may, {limit}"))
        .because("database_clients")
        .hint("Close idle connections, or raise the database's max_clients.")
}

pub(super) fn lookup() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "the user could not be looked up")
        .because("lookup")
        .hint("The reason is in pgward's log: check plain.lookup and its query.")
}

/// A name that a client gave, as far as it is shown.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(63).collect()
}

pub(super) fn plaintext() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "this connection is not encrypted, and pgward demands TLS")
        .because("plaintext")
        .hint("Add sslmode=require to the connection string.")
}

pub(super) fn alpn() -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, "TLS began without a request and without ALPN protocol \"postgresql\"")
        .because("protocol")
        .hint("Use a client that supports sslnegotiation=direct, or sslnegotiation=postgres.")
}

pub(super) fn startup(error: &StartupError) -> Report {
    let state = match error {
        StartupError::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
        _ => SqlState::PROTOCOL_VIOLATION,
    };
    Report::fatal(state, error.to_string()).because("protocol").hint("pgward speaks PostgreSQL protocol 3.0 and 3.2.")
}

pub(super) fn bytes_before_tls() -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, "there are bytes behind the request for TLS, sent before TLS was up")
        .because("protocol")
        .hint("Somebody may be tampering with the connection.")
}

pub(super) fn no_user() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "the startup packet names no user")
        .because("no_user")
        .hint("Give the tenant's name as the user.")
}

pub(super) fn replication() -> Report {
    Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, "replication connections do not go through pgward")
        .hint("Connect to the PostgreSQL server itself.")
}

pub(super) fn startup_parameter(name: &str) -> Report {
    let name = shown(name);
    Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, format!("the startup parameter \"{name}\" is not allowed"))
        .hint("docs/compatibility.md lists those that are; others can be SET after login where PostgreSQL permits it.")
}

pub(super) fn startup_options() -> Report {
    Report::fatal(SqlState::INVALID_PARAMETER_VALUE, "the startup parameter \"options\" cannot be read")
        .hint("It takes settings: -c name=value or --name=value, blanks in values escaped by a backslash.")
}

pub(super) fn header(error: &HeaderError) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
        .because("protocol")
        .hint("The client's messages are not PostgreSQL protocol version 3; the connection is closed.")
}

pub(super) fn malformed(tag: u8) -> Report {
    let tag = char::from(tag);
    Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("a message of type '{tag}' is malformed or out of place"))
        .because("protocol")
        .hint("The client's messages are not PostgreSQL protocol version 3; the connection is closed.")
}

pub(super) fn statement_too_long() -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "a prepared statement is longer than 16 MiB")
        .because("limit")
        .hint("Send large data as parameters or by COPY.")
}

pub(super) fn too_many_prepared(limit: usize) -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("the session has more than {limit} prepared statements"))
        .because("limit")
        .hint("Close statements that are no longer used, or raise session.max_prepared.")
}

pub(super) fn too_many_clients() -> Report {
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "pgward has as many clients as listen.max_clients allows")
        .because("too_many_clients")
        .hint("Try again later, or close idle connections.")
}

pub(super) fn tenant_clients(limit: usize) -> Report {
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("the tenant has as many clients as it may, {limit}"))
        .because("tenant_clients")
        .hint("Close idle connections, or ask for a higher limit.")
}

pub(super) fn unrecordable() -> Report {
    Report::fatal(SqlState::IO_ERROR, "the audit log cannot be written, so nothing is done that it would have to tell")
        .because("audit")
        .hint("Nothing was executed. Try again later; the operator finds the reason in pgward's log.")
}

pub(super) fn canceled() -> Report {
    Report::error(SqlState::QUERY_CANCELED, "canceling statement due to user request while it waited for a backend")
}

pub(super) fn draining() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "pgward is shutting down").because("draining").hint("Connect again.")
}

pub(super) fn kicked(kick: Kick, limit: Duration) -> Report {
    match kick {
        // Told by its own words where the limit is known.
        Kick::Pinned => too_many_pinned(0, None),
        Kick::Replica => Report::fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            "what this session has done would keep it at a replica, where it could not write",
        )
        .because("pinned_replica")
        .hint("Do it outside of a READ ONLY transaction, or SET pgward.route = 'primary' before."),
        Kick::Drain | Kick::Stop => draining(),
        Kick::Drained => drained(SqlState::ADMIN_SHUTDOWN),
        Kick::Expired => Report::fatal(SqlState::INVALID_AUTHORIZATION, "the session's token has expired")
            .because("expired")
            .hint("Connect again with a fresh token."),
        Kick::Token => Report::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "pgward.token was set at the server, where it changes no tenant",
        )
        .because("token_hidden")
        .hint("Use SET pgward.token = '...' as a statement of its own, outside of a transaction."),
        Kick::Suspended => suspended(),
        Kick::Moved | Kick::Narrowed => {
            Report::fatal(SqlState::ADMIN_SHUTDOWN, "the configuration of this tenant or database has changed")
                .because("moved")
                .hint("Connect again.")
        }
        Kick::IdleInTransaction => Report::fatal(
            SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
            format!("a transaction was idle for more than {} s and has been rolled back", limit.as_secs()),
        )
        .because("idle_in_transaction")
        .hint("End transactions promptly, or raise session.idle_in_transaction_timeout."),
    }
}

/// Somebody at the console drains the session's tenant or cluster.
pub(super) fn drained(sqlstate: SqlState) -> Report {
    Report::fatal(sqlstate, "this tenant or its cluster is being drained")
        .because("drained")
        .hint("Connect again later, or elsewhere; it lasts until somebody says RESUME at pgward's console.")
}

/// PostgreSQL's own words, which drivers know.
pub(super) fn no_tenant() -> Report {
    Report::error(SqlState::INVALID_AUTHORIZATION, "the session has no tenant")
        .because("no_tenant")
        .hint("Set a token first: SET pgward.token = '...'.")
}

pub(super) fn token_misplaced() -> Report {
    Report::error(
        SqlState::ACTIVE_SQL_TRANSACTION,
        "pgward.token can only be changed outside of a transaction, by a statement of its own",
    )
    .because("token_misplaced")
    .hint("SET pgward.token = '...', or SELECT set_config('pgward.token', $1, false), and nothing else with it.")
}

pub(super) fn route_too_late() -> Report {
    Report::error(
        SqlState::ACTIVE_SQL_TRANSACTION,
        "the transaction has begun at a server that is not what pgward.route is set to",
    )
    .hint("BEGIN READ ONLY begins one at a replica, BEGIN at the primary.")
}

/// A text by which the server says the same, so that it ends a transaction as any error does.
pub(super) fn by_server(report: &Report) -> Vec<u8> {
    let (message, hint) = (literal(&report.message), literal(report.hint.as_deref().unwrap_or_default()));
    let state = report.sqlstate.as_str();
    format!(
        "do $pgward$ begin raise exception using errcode = '{state}', message = {message}, hint = {hint}; end $pgward$"
    )
    .into_bytes()
}

/// A Parse of what is no statement.
pub(super) const NO_STATEMENT: &[u8] = b"no statement\0\0\0";

pub(super) fn not_listening() -> Report {
    Report::error(SqlState::CONNECTION_FAILURE, "the server did not take the subscription")
        .hint("The reason is in pgward's log.")
}

pub(super) fn too_many_channels(limit: usize) -> Report {
    Report::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, format!("the session listens to {limit} channels already"))
        .hint("UNLISTEN those that are no longer of use, or tell things apart by the payload.")
}

pub(super) fn too_many_notifications() -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "more than 16 MiB of notifications wait for the client")
        .because("limit")
        .hint("Read from the connection, and end transactions, while it listens.")
}

pub(super) fn listening_lost() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "the server connection that listens for this session is lost")
        .because("server_lost")
        .hint("Notifications may have been missed. Connect again, LISTEN, and look at what has changed.")
}

pub(super) fn several_commands() -> Report {
    Report::error(SqlState::SYNTAX_ERROR, "cannot insert multiple commands into a prepared statement")
        .hint("Prepare them one by one.")
}

pub(super) fn statement_parameters() -> Report {
    Report::error(SqlState::PROTOCOL_VIOLATION, "the parameters are not those of the statement")
        .hint("Bind one parameter for each of its placeholders.")
}

pub(super) fn statement_exists() -> Report {
    Report::error(SqlState::DUPLICATE_PREPARED_STATEMENT, "a prepared statement of this name exists already")
        .hint("Close it first, or choose another name.")
}

pub(super) fn no_portal() -> Report {
    Report::error(SqlState::INVALID_CURSOR_NAME, "there is no portal of this name")
        .hint("Portals end with the next Sync; bind it again.")
}

pub(super) fn stale_plan() -> Report {
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .detail("A table has been altered since the statement was described to the client.")
        .hint("Prepare the statement again.")
        .routine(Routine::RevalidateCachedQuery)
}

/// `reason`: the word that metrics have for it.
pub(super) fn too_many_pinned(limit: usize, reason: Option<&'static str>) -> Report {
    let report = Report::fatal(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("more than {limit} sessions of this tenant would keep their server connection"),
    );
    report.detail(format!("This one would for the reason {:?}.", reason.unwrap_or("unknown"))).because("pinned").hint(
        "Drop temporary tables, unlock, close and unlisten before the transaction ends, or have max_pinned raised.",
    )
}

pub(super) fn acquire(error: &AcquireError) -> Report {
    let report = match error {
        AcquireError::Timeout(limit) => Report::fatal(
            SqlState::TOO_MANY_CONNECTIONS,
            format!("no backend became free within {} ms", limit.as_millis()),
        )
        .hint("Nothing was executed. Try again; if it persists, raise the pool's or the tenant's limits."),
        AcquireError::NoPrimary(limit) => {
            Report::fatal(SqlState::CANNOT_CONNECT_NOW, format!("no server has taken writes for {} s", limit.as_secs()))
                .hint("Nothing was executed. Try again; SHOW CLUSTERS at pgward's console tells what the servers are.")
        }
        AcquireError::Open(error) => backend(error),
    };
    report.because("no_backend")
}

/// Host names, roles and what servers say of them are for the log.
fn backend(error: &BackendError) -> Report {
    match error {
        // Class 57 is the server starting up, shutting down or recovering.
        BackendError::Refused { sqlstate, .. } if sqlstate.starts_with("57") => {
            Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database server does not accept connections now")
                .hint("Nothing was executed. Try again in a moment.")
        }
        BackendError::Refused { sqlstate, .. } if sqlstate == "53300" => {
            Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "the database server has no connection to spare")
                .hint("Nothing was executed. Lower max_backends or raise the server's max_connections.")
        }
        BackendError::Connect { .. } | BackendError::Timeout { .. } => {
            Report::fatal(SqlState::CONNECTION_FAILURE, "the database server cannot be reached")
                .hint("Nothing was executed. Try again in a moment.")
        }
        BackendError::Unsafe { .. } => Report::fatal(
            SqlState::CONFIG_FILE_ERROR,
            "pgward does not use this tenant's database login, which could get around isolation",
        )
        .hint("The reason is in pgward's log. Nothing was executed."),
        BackendError::OutOfScope { .. } => Report::fatal(
            SqlState::CONFIG_FILE_ERROR,
            "pgward does not use this tenant's database login, which could do more than the grant for this region allows",
        )
        .hint("The reason is in pgward's log. Nothing was executed."),
        BackendError::NotInstalled { .. } => {
            Report::fatal(SqlState::CONFIG_FILE_ERROR, "the database is not prepared for tenants")
                .hint("Run pgward install. Nothing was executed.")
        }
        BackendError::Refused { .. }
        | BackendError::Ask { .. }
        | BackendError::Unsound { .. }
        | BackendError::Tls { .. }
        | BackendError::NoTls { .. }
        | BackendError::Method { .. }
        | BackendError::Protocol { .. } => {
            Report::fatal(SqlState::CONNECTION_FAILURE, "pgward could not log in to the database server")
                .hint("Nothing was executed. The reason is in pgward's log.")
        }
    }
}

/// What becomes of the work that a session had under way on a backend that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Nothing,
    /// A transaction that nobody had asked to commit.
    RolledBack,
    /// What was sent may have committed, and the answer is lost.
    InDoubt,
}

impl Loss {
    fn state(self) -> SqlState {
        match self {
            Self::Nothing | Self::RolledBack => SqlState::CONNECTION_FAILURE,
            Self::InDoubt => SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Nothing => "Nothing was under way. Connect again.",
            Self::RolledBack => "The transaction is rolled back, nothing of it remains: it is safe to run it again.",
            Self::InDoubt => {
                "It is not known whether what was sent last has been committed: look before you run it again."
            }
        }
    }
}

pub(super) fn server_lost(work: Loss) -> Report {
    Report::fatal(work.state(), "the database server closed the connection").because("server_lost").hint(work.hint())
}

pub(super) fn server_garbled(work: Loss) -> Report {
    Report::fatal(work.state(), "the database server's answer was not what was expected")
        .because("server_garbled")
        .hint(work.hint())
}

pub(super) fn primary_lost(work: Loss) -> Report {
    Report::fatal(work.state(), "the server that this session was at does not take writes any more")
        .because("primary_lost")
        .hint(work.hint())
}

pub(super) fn no_replica() -> Report {
    Report::error(SqlState::CANNOT_CONNECT_NOW, "there is no replica that can serve this session")
        .because("no_replica")
        .hint(
            "Nothing was executed. Its reads go to replicas only (pgward.route): SHOW CLUSTERS at pgward's console tells \
             which there are, and how far they are behind.",
        )
}

pub(super) fn no_server_here() -> Report {
    Report::error(
        SqlState::INSUFFICIENT_PRIVILEGE,
        "the server that takes writes now is in a region where this tenant's data may not be",
    )
    .because("server_region")
    .hint("Nothing was executed. It works again when a server in one of the tenant's regions takes the writes.")
}

pub(super) fn no_clean_backend() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "no backend could be made ready for this session")
        .because("no_backend")
        .hint("Nothing was executed. The reason is in pgward's log; on a new database, run pgward install.")
}

pub(super) fn misconfigured() -> Report {
    Report::fatal(SqlState::INTERNAL_ERROR, "the tenant or database is not configured completely")
        .because("misconfigured")
        .hint("Run pgward check on the configuration.")
}

/// Refusing a function call takes the server's help, since the answer must come in its turn and fail
/// the transaction as PostgreSQL would. This is the statement that is sent in its place.
pub(super) const FUNCTION_CALL: &[u8] = b"do $pgward$ begin raise exception using errcode = '0A000', \
    message = 'function calls by the fast path do not go through pgward', \
    hint = 'Call the function in a SELECT.'; end $pgward$";

pub(super) fn function_call() -> Report {
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, "function calls by the fast path do not go through pgward")
        .because("function_call")
        .hint("Call the function in a SELECT.")
}
