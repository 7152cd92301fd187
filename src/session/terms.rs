//! What a session is served under, as it stood when it logged in.

use crate::base::Party;
use crate::config::{Login, PlainDatabase, PoolMode, Tenant, TenantLimits};
use crate::sql::{Pin, Pins};

/// Made from a tenant, or from a database without tenants. Serving looks at nothing else of either.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub id: Party,
    pub limits: TenantLimits,
    pub mode: PoolMode,
    pub audit_statements: bool,
}

impl Terms {
    pub fn of_tenant(tenant: &Tenant, login: &Login) -> Self {
        let mode = login.mode.unwrap_or(tenant.mode);
        let audit_statements = tenant.audit_statements;
        Self { id: Party::Tenant(tenant.id.clone()), limits: tenant.limits, mode, audit_statements }
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
        Self { id: Party::Database(name.into()), limits, mode, audit_statements }
    }
}
