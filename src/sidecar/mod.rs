//! What pgward has others do beside the traffic: pgBackRest for backups, pg_partman for partitions.

pub mod backup;
pub mod erasures;
pub mod maintenance;
