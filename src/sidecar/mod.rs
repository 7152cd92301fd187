//! What pgward has others do beside the traffic: pgBackRest for backups.

pub mod backup;
pub mod erasures;
