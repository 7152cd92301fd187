//! What a statement text says about the session: pure functions from bytes to [`Facts`].
//!
//! The question answered today is which *session state outlives the transaction*, so that the pool
//! knows whether a backend may serve another session of the same tenant afterwards. This is a
//! convenience and never a security barrier: functions, triggers and views of the tenant's own can
//! change session state without a word of it in the text. What cannot be read pins.
//!
//! Three steps, each dearer than the one before:
//!
//! 1. [`scan`]: one branch-free pass that says "nothing here, certainly" for nearly every text.
//! 2. `shape` and `cache`: the text without comments, white space and the values of its literals,
//!    hashed with a key of this process and looked up.
//! 3. `facts`: the tokens are walked and PostgreSQL's own parser is asked whether it agrees.
//!
//! # Why tokens and not the parse tree
//!
//! Every rule is either about how a statement begins or about a name before a parenthesis, which
//! tokens settle as well as a tree does. `pg_query::summary` must accept the text and see no kind of
//! statement that the tokens missed; else the answer is "unknown". The full tree is not used: it
//! takes a hundred times longer on a long text, refuses about fifty levels of nesting, and its
//! walkers leave out node types.
//!
//! # What two texts of one shape may differ in
//!
//! Nothing that facts read. Keywords (`true`, `null` and `default` among them), names, operators and
//! parameter numbers are in the shape; literals are there by kind. Where a literal's content
//! matters, the shape holds what the facts read of it: after `do`, `set`, `set_config` and the
//! functions that run SQL text, whether it could touch session state and whether it says `pg_temp`;
//! for the literal that names `set_config`'s setting, all of it. A text that the parser refused is
//! never cached, since a literal's value can be why (`float(99)`).
//!
//! # `standard_conforming_strings = off`
//!
//! The session may have it off, and then a backslash before a quote does not end the literal. The
//! two readings part only at a backslash directly before a quote in a literal without `E`; such a
//! text is unknown, whatever else it holds.
//!
//! # Not tracked
//!
//! `currval`, `lastval` and `setseed` read or write session state, but pinning every session that
//! calls `nextval` would end pooling for most applications: after a commit, `lastval()` speaks of
//! whatever the backend did last. `RETURNING` is the way to do it. `pg_backup_start` needs rights
//! that no tenant has.

mod cache;
mod channels;
mod constants;
mod databases;
mod facts;
mod listen;
mod quote;
mod scan;
mod script;
mod shape;
mod token;

pub use cache::Analyser;
pub use channels::rename as rename_channels;
pub use constants::without_constants;
pub use databases::database_wanted_alone;
pub use facts::{Deallocate, Facts, Pin, Pins, is_prepare};
pub use listen::{ListenOrder, ListenOrders, begins_with_listen, listen_orders};
pub use quote::{identifier, literal};
pub use scan::{lets_go, may_commit, scan};
pub use script::ends_transaction;
pub use shape::{shape, tokens};
pub use token::{TokenStatement, TokenValue, mentions_token, token_statement};
