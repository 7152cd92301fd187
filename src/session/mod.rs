//! A client's stay, stage by stage. Each stage consumes the one before:
//!
//! ```text
//!   handshake  Accepted -> Started        TLS, the startup packet; or a cancel request, answered here
//!   login      Started  -> Session        the token, the tenant, the route; or the console
//!     introduce   what a server says of itself, and of the session's own settings
//!     plain      the same where there are no tenants: a user and its password
//!   serve      Session  -> end            transactions, until somebody ends it
//!     upstream    client bytes -> server bytes: statements, and the hand-over ahead of them
//!     downstream  server bytes -> client bytes
//! ```
//!
//! `forward` passes a client on to a node where its tenant may be, and `incoming` takes in those that come by other nodes.
//!
//! `ahead` finds out what a request is for, `reading` chooses between the primary and its replicas, `trial` takes back
//! what a replica could not do.
//!
//! `core` is what a session finds on its thread, `world` the configuration in force, `entry` how others
//! see a session and end it, `cancel` the cancel keys, `names` its prepared statements, `state` what else it
//! keeps between transactions, `travel` how it moves to another core, `terms` what it is served under,
//! `directory` and `lookup` the users that have passwords, `stay` what the audit log is told, `refuse` the one place
//! where errors become what a client may see.

mod acquire;
mod ahead;
mod allowance;
mod aside;
mod break_glass;
mod cancel;
mod command;
mod core;
mod directory;
mod downstream;
mod entry;
mod forward;
mod handover;
mod handshake;
mod hub;
mod incoming;
mod introduce;
mod link;
mod listen;
mod login;
mod lookup;
mod mailbox;
mod names;
mod notify;
mod plain;
mod reading;
mod refuse;
mod relay;
mod replay;
mod room;
mod run;
mod serve;
mod served;
mod startup_settings;
mod state;
mod statements;
mod stay;
mod switch;
mod terms;
mod travel;
mod trial;
mod turnstile;
mod upstream;
mod world;

pub use self::cancel::CancelKeys;
pub use self::core::{Core, Sends, Shared};
pub use command::{Command, CoreHandle, Place};
pub use entry::{ClientRow, Kick, Phase, Profile, Said};
pub use forward::drain;
pub use handshake::{Accepted, Door, tell};
pub use incoming::Hop;
pub use login::Admin;
pub use run::{Outcome, arrive, run};
pub use stay::Stay;
pub use travel::Parcel;
pub use world::{World, WorldError};
