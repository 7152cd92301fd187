//! The ground floor: small vocabulary types that every other room speaks.

pub mod causes;
pub mod clock;
pub mod ids;
pub mod interned;
pub mod lsn;
pub mod report;
pub mod scram;
pub mod secret;
pub mod sqlstate;

pub use causes::causes;
pub use ids::{
    Access, ClassName, ClusterName, GrantName, NodeName, PartitionsName, Party, Region, RepositoryName, ServerName,
    TenantId, TierName,
};
pub use interned::Interned;
pub use lsn::Lsn;
pub use report::{Report, Routine, Severity};
pub use scram::{ScramKeys, StoredPassword, Verifier, VerifierError};
pub use secret::Secret;
pub use sqlstate::SqlState;
