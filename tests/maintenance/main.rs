//! Tables that are partitioned by time, kept by pg_partman on a real PostgreSQL: partitions ahead and as closed as their
//! table, rows kept as long as their tenants' classes say, and clients that notice nothing.

#[path = "../support/mod.rs"]
mod support;

mod classes;
mod closed;
mod failures;
mod held;
mod keeper;
mod locks;
mod own;
mod place;
mod settings;
