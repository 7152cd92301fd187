//! What a session is served under, as it stood when it logged in.

use std::sync::Arc;

use crate::base::{Party, Region};
use crate::config::{Login, PlainDatabase, PoolMode, ReadRoute, ReadRules, Tenant, TenantLimits};
use crate::sql::{Pin, Pins};

/// Made from a tenant, or from a database without tenants. Serving looks at nothing else of either. Sessions under the
/// same ones share them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub id: Party,
    pub limits: TenantLimits,
    pub mode: PoolMode,
    pub audit_statements: bool,
    pub reads: Arc<ReadRules>,
    /// Where its reads go, if it says nothing else.
    pub route: ReadRoute,
    /// Where servers may be that serve it. `None`: anywhere, since it is no tenant.
    pub regions: Option<Arc<[Region]>>,
}

impl Terms {
    pub fn of_tenant(tenant: &Tenant, login: &Login, regions: &Arc<[Region]>) -> Self {
        let mode = login.mode.unwrap_or(tenant.mode);
        let audit_statements = tenant.audit_statements;
        let (reads, route) = (Arc::clone(&tenant.reads), tenant.route(login));
        let (id, regions) = (Party::Tenant(tenant.id.clone()), Some(Arc::clone(regions)));
        Self { id, limits: tenant.limits, mode, audit_statements, reads, route, regions }
    }

    /// What keeps a session on its backend from the beginning.
    pub fn pins(&self) -> Pins {
        match self.mode {
            PoolMode::Transaction => Pins::NONE,
            PoolMode::Session => Pins::of(Pin::Mode),
        }
    }

    pub fn of_database(name: &str, database: &PlainDatabase) -> Self {
        let PlainDatabase { limits, mode, audit_statements, .. } = *database;
        let login = database.login.as_ref().and_then(|login| login.route);
        let (reads, route) = (Arc::clone(&database.reads), login.unwrap_or(database.reads.route));
        Self { id: Party::Database(name.into()), limits, mode, audit_statements, reads, route, regions: None }
    }
}
