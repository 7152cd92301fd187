//! What can be asked of the console, and what is answered.

use std::sync::Arc;

use super::{clients, clusters, help, pools, servers, stats, tenants, version};
use crate::admin::{Control, GateError, ReloadError, Target};
use crate::audit::{Event, Text};
use crate::base::{Report, SqlState};
use crate::session::Stay;
use crate::wire::table::{Column, Value};

pub(super) type Row = Vec<Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    Reload,
    Shutdown,
    Gate(Gate, Target),
}

/// What is done with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Pause,
    Drain,
    Resume,
}

impl Gate {
    pub const ALL: [Self; 3] = [Self::Pause, Self::Drain, Self::Resume];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Pause => "PAUSE",
            Self::Drain => "DRAIN",
            Self::Resume => "RESUME",
        }
    }

    /// As it is written, and what it does.
    pub const fn help(self) -> (&'static str, &'static str) {
        match self {
            Self::Pause => (
                "PAUSE [CLUSTER name | SERVER cluster.replica | TENANT name]",
                "have requests wait, and tell when none is under way",
            ),
            Self::Drain => (
                "DRAIN [CLUSTER name | SERVER cluster.replica | TENANT name]",
                "end sessions between transactions, let nobody in, and tell when all are gone",
            ),
            Self::Resume => {
                ("RESUME [CLUSTER name | SERVER cluster.replica | TENANT name]", "let requests and sessions go on")
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Version,
    Pools,
    Clients,
    Servers,
    Clusters,
    Tenants,
    Stats,
    Help,
}

/// Who is at the console.
pub(super) struct Operator {
    pub user: String,
    /// In the audit log, if there is one.
    pub stay: Option<Box<Stay>>,
}

impl Operator {
    /// Records what is about to be done. It is not done where that cannot be recorded and would have to be.
    async fn acts(&self, control: &Control, command: &'static str, place: Option<&str>) -> Result<(), Report> {
        let Some(stay) = &self.stay else { return Ok(()) };
        let event = || Event::Command { who: Arc::clone(stay.who()), command, place: place.map(Text::new) };
        control.shared.audit.admit(event).await.map_err(|_| unrecordable())
    }
}

impl Command {
    /// Every command as it is written, and what it does.
    pub const ALL: [(&'static str, Self, &'static str); 10] = [
        ("SHOW VERSION", Self::Show(Show::Version), "pgward's version"),
        ("SHOW POOLS", Self::Show(Show::Pools), "backends and clients of each pool"),
        ("SHOW CLIENTS", Self::Show(Show::Clients), "sessions"),
        ("SHOW SERVERS", Self::Show(Show::Servers), "backends: connections to the database servers"),
        (
            "SHOW CLUSTERS",
            Self::Show(Show::Clusters),
            "the database servers: who takes writes, who follows, who is gone",
        ),
        ("SHOW TENANTS", Self::Show(Show::Tenants), "the catalogue, and what each tenant uses"),
        ("SHOW STATS", Self::Show(Show::Stats), "transactions and backend time since the start"),
        ("SHOW HELP", Self::Show(Show::Help), "this list"),
        ("RELOAD", Self::Reload, "read the configuration again; a bad one is refused whole"),
        ("SHUTDOWN", Self::Shutdown, "finish transactions in flight, then stop"),
    ];

    /// The columns of its rows; `None` where it has no rows.
    pub fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::Show(show) => Some(show.columns()),
            Self::Reload | Self::Shutdown | Self::Gate(..) => None,
        }
    }

    /// What CommandComplete says.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Reload => "RELOAD",
            Self::Shutdown => "SHUTDOWN",
            Self::Gate(gate, _) => gate.word(),
        }
    }

    /// Does it. `operator` is who is named in the logs for what changes something.
    pub async fn run(&self, control: &Control, operator: &Operator) -> Result<Vec<Row>, Report> {
        let user = operator.user.as_str();
        match self {
            Self::Show(show) => Ok(show.rows(control).await),
            Self::Reload => {
                operator.acts(control, "RELOAD", None).await?;
                tracing::info!(user, "the console asks for a reload");
                control.reload().await.map(|()| Vec::new()).map_err(|error| not_reloaded(&error))
            }
            Self::Shutdown => {
                operator.acts(control, "SHUTDOWN", None).await?;
                tracing::info!(user, "the console asks for a shutdown");
                control.shutdown();
                Ok(Vec::new())
            }
            Self::Gate(gate, target) => {
                operator.acts(control, gate.word(), Some(&target.to_string())).await?;
                tracing::info!(user, %target, "the console says {}", gate.word());
                let done = match gate {
                    Gate::Pause => control.pause(target).await,
                    Gate::Drain => control.drain(target).await,
                    Gate::Resume => control.resume(target),
                };
                done.map(|()| Vec::new()).map_err(|error| not_held(&error))
            }
        }
    }
}

impl Show {
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Version => version::COLUMNS,
            Self::Pools => pools::COLUMNS,
            Self::Clients => clients::COLUMNS,
            Self::Servers => servers::COLUMNS,
            Self::Clusters => clusters::COLUMNS,
            Self::Tenants => tenants::COLUMNS,
            Self::Stats => stats::COLUMNS,
            Self::Help => help::COLUMNS,
        }
    }

    async fn rows(self, control: &Control) -> Vec<Row> {
        match self {
            Self::Version => version::rows(),
            Self::Pools => pools::rows(control).await,
            Self::Clients => clients::rows(control).await,
            Self::Servers => servers::rows(control).await,
            Self::Clusters => clusters::rows(control),
            Self::Tenants => tenants::rows(control),
            Self::Stats => stats::rows(control),
            Self::Help => help::rows(),
        }
    }
}

fn not_held(error: &GateError) -> Report {
    let report = |state, hint: &'static str| Report::error(state, error.to_string()).hint(hint);
    match error {
        GateError::Unknown(_) => report(
            SqlState::UNDEFINED_OBJECT,
            "SHOW CLUSTERS and SHOW TENANTS have the names. A replica is written cluster.server.",
        ),
        GateError::Primary(_) => report(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "PAUSE CLUSTER holds back all of its cluster's requests; or have another server take the writes first.",
        ),
        GateError::Busy { .. } => report(
            SqlState::OBJECT_IN_USE,
            "SHOW CLIENTS tells whose they are. PAUSE has let requests go on; DRAIN goes on until RESUME.",
        ),
    }
}

fn unrecordable() -> Report {
    Report::error(SqlState::IO_ERROR, "the audit log cannot be written, so nothing is done that it would have to tell")
        .hint("Mend that first: pgward's log has the reason. SIGHUP and SIGTERM work all the same.")
}

fn not_reloaded(ReloadError(problems): &ReloadError) -> Report {
    Report::error(SqlState::CONFIG_FILE_ERROR, "the configuration was not reloaded; the old one stays in force")
        .detail(problems.join("\n"))
        .hint("Correct what the detail names and RELOAD again; pgward check FILE shows problems beforehand.")
}
