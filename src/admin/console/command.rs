//! What can be asked of the console, and what is answered.

use std::sync::Arc;

use super::{clients, clusters, help, pools, servers, stats, tenants, version};
use crate::admin::{Control, ReloadError};
use crate::audit::Event;
use crate::base::{Report, SqlState};
use crate::session::Stay;
use crate::wire::table::{Column, Value};

pub(super) type Row = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    Reload,
    Shutdown,
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
    async fn acts(&self, control: &Control, command: &'static str) -> Result<(), Report> {
        let Some(stay) = &self.stay else { return Ok(()) };
        let event = || Event::Command { who: Arc::clone(stay.who()), command };
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
    pub fn columns(self) -> Option<&'static [Column]> {
        match self {
            Self::Show(show) => Some(show.columns()),
            Self::Reload | Self::Shutdown => None,
        }
    }

    /// What CommandComplete says.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Reload => "RELOAD",
            Self::Shutdown => "SHUTDOWN",
        }
    }

    /// Does it. `operator` is who is named in the logs for what changes something.
    pub async fn run(self, control: &Control, operator: &Operator) -> Result<Vec<Row>, Report> {
        let user = operator.user.as_str();
        match self {
            Self::Show(show) => Ok(show.rows(control).await),
            Self::Reload => {
                operator.acts(control, "RELOAD").await?;
                tracing::info!(user, "the console asks for a reload");
                control.reload().await.map(|()| Vec::new()).map_err(|error| not_reloaded(&error))
            }
            Self::Shutdown => {
                operator.acts(control, "SHUTDOWN").await?;
                tracing::info!(user, "the console asks for a shutdown");
                control.shutdown();
                Ok(Vec::new())
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

fn unrecordable() -> Report {
    Report::error(SqlState::IO_ERROR, "the audit log cannot be written, so nothing is done that it would have to tell")
        .hint("Mend that first: pgward's log has the reason. SIGHUP and SIGTERM work all the same.")
}

fn not_reloaded(ReloadError(problems): &ReloadError) -> Report {
    Report::error(SqlState::CONFIG_FILE_ERROR, "the configuration was not reloaded; the old one stays in force")
        .detail(problems.join("\n"))
        .hint("Correct what the detail names and RELOAD again; pgward check FILE shows problems beforehand.")
}
