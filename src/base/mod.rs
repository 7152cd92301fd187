//! The ground floor: small vocabulary types that every other room speaks.

pub mod clock;
pub mod ids;
pub mod report;
pub mod secret;
pub mod sqlstate;

pub use ids::{Access, ClusterName, Region, ServerName, TenantId};
pub use report::{Report, Severity};
pub use secret::Secret;
pub use sqlstate::SqlState;
