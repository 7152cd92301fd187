//! Backups are tried on real clusters with pgBackRest: what is sound is found sound, and what is damaged anywhere
//! between the primary's disk and the repository is found.

#[path = "../support/mod.rs"]
mod support;

mod command;
mod damage;
mod drill;
mod loss;
mod place;
mod receive;
mod recorded;
mod sound;
