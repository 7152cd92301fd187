//! pgward: a tenant-aware PostgreSQL proxy. A JSON Web Token is the password, and a connection sees one
//! tenant.
//!
//! > PostgreSQL enforces isolation; the proxy only chooses, injects and optimises. A bug or a gap in the
//! > analysis of SQL may cost speed. It must never show one tenant another tenant's row.
//!
//! # The house
//!
//! Rooms stand on floors; code imports from the floors below its own and from no neighbour.
//! `tests/architecture.rs` is the map and checks it.
//!
//! | floor | rooms |
//! |---|---|
//! | commands | [`cli`] |
//! | wiring | [`proxy`]: threads, listeners, reload, shutdown |
//! | operation | [`admin`]: console and HTTP; [`sidecar`]: backups, proven by restoring them |
//! | sessions | [`session`]: a client's stay, stage by stage; [`proof`]: where data is and who served it, to be shown |
//! | routing | [`route`]: which server, a pure function; [`catalogue`]: tenants that several pgwards share |
//! | pools | [`pool`]: backends lent to sessions; [`topology`]: what the servers are right now; [`doctor`]: what is wrong in a live database |
//! | parts | [`auth`]: tokens and passwords; [`tenant`]: the sealed context; [`limits`]; [`audit`]: who came in and who did not; [`backend`]: one connection to a server |
//! | cores | [`wire`]: the protocol; [`sql`]: what a text does to a session; [`net`]; [`telemetry`]; [`local`]: servers of our own on this machine |
//! | ground | [`config`], [`residency`], [`base`] |
//!
//! # The life of a query
//!
//! 1. [`proxy`] accepts a client and deals it to the core (a thread) that has the fewest.
//! 2. [`session`] shakes hands, asks for the password and has [`auth`] check the token (or, in a database
//!    without tenants, the user's proof that it knows its password). [`config`]'s tenant, [`route`] and
//!    [`limits`] say what it may reach. From here on it holds no backend and no buffer.
//! 3. Bytes arrive: `session::upstream` looks at message headers. The first that needs a backend gets one
//!    from the core's [`pool::Shard`], if possible one that served the same context last.
//! 4. If it did not, the hand-over ([`wire::handover`]) goes ahead of the client's bytes in the same write:
//!    `DISCARD ALL`, the [`tenant::Context`], and a gate by which PostgreSQL itself skips the client's bytes
//!    when any of it fails.
//! 5. `session::downstream` passes the answers on. [`wire::flow`] knows which are owed, so it knows when the
//!    transaction is over and the backend can go back.
//! 6. What a statement leaves behind in its session, [`sql`] told beforehand: such a session keeps its
//!    backend, and at its end the backend is cleaned before anybody else has it.
#![forbid(unsafe_code)]
pub mod admin;
pub mod audit;
pub mod auth;
pub mod backend;
pub mod base;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod limits;
pub mod local;
pub mod net;
pub mod pool;
pub mod proof;
pub mod proxy;
pub mod residency;
pub mod route;
pub mod session;
pub mod sidecar;
pub mod sql;
pub mod telemetry;
pub mod tenant;
pub mod topology;
pub mod wire;
