//! Backups by pgBackRest: made by command and by schedule, restored to any moment, resumed after kill -9, let go; and what
//! happens when something is missing, full, or somebody else's turn.

#[path = "../support/mod.rs"]
mod support;

mod cycle;
mod keeping;
mod place;
mod s3;
mod schedule;
mod trouble;
