//! What a statement text says: pure functions from bytes to [`Facts`] and to a [`Purpose`].
//!
//! The facts are which *session state outlives the transaction*, so that the pool knows whether a
//! backend may serve another session of the same tenant afterwards. The purpose is whether it *only
//! reads*, so that a replica may answer it. Both are conveniences and never a security barrier:
//! functions, triggers and views of the tenant's own can do things without a word of it in the text.
//! What cannot be read pins, and goes to the primary. One thing hangs on the scan all the same: a text in which it
//! finds nothing is not looked at for a token, which no server is to see, nor for `LISTEN`.
//!
//! Three steps, each dearer than the one before:
//!
//! 1. [`scan`]: one branch-free pass that says "nothing here, certainly" for nearly every text. What it said of a prepared
//!    statement's text is remembered (`memo`), since that comes again to the letter.
//! 2. `shape` and `cache`: the text without comments, white space and the values of its literals,
//!    hashed with a key of this process and looked up.
//! 3. `facts` and `purpose`: the tokens are walked and PostgreSQL's own parser is asked whether it
//!    agrees, once for both.
//!
//! The scan looks for what touches session state, so it is no way around the cache for a purpose.
//!
//! # Why tokens and not the parse tree
//!
//! Every rule is either about how a statement begins or about a name before a parenthesis, which
//! tokens settle as well as a tree does. `pg_query::summary` must accept the text and see no kind of
//! statement that the tokens missed; else the answer is "unknown". The full tree is not used: it
//! takes a hundred times longer on a long text, refuses about fifty levels of nesting, and its
//! walkers leave out node types.
//!
//! For the purpose, each has what the other lacks. Tokens have the keywords: the summary says nothing
//! of `FOR UPDATE`, does not list what `COPY` and CTEs are made of, and takes a table for a CTE that
//! has its name in another place. The summary has the functions: those that the grammar calls (`AT
//! TIME ZONE` is `timezone`), and not what merely looks like a call (`in (`, `x (a, b)`). Its walker
//! visits every expression of a `SELECT`, which the tests compare with the full tree. A text reads if
//! its statements begin like those that do, no word of writing is among its tokens, and the parser
//! sees statements of the same kinds and no others.
//!
//! # What two texts of one shape may differ in
//!
//! Nothing that facts or purposes read. Keywords (`true`, `null` and `default` among them), names,
//! operators and parameter numbers are in the shape; literals are there by kind. Where a literal's
//! content matters, the shape holds what the facts read of it: after `do`, `set`, `set_config` and
//! the functions that run SQL text, whether it could touch session state and whether it says
//! `pg_temp`; for the literal that names `set_config`'s setting, all of it. The purpose reads no
//! literal. A text that the parser refused is never cached, since a literal's value can be why
//! (`float(99)`).
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
//!
//! A purpose tells the functions that are called by name. Those behind views, operators, casts,
//! domains and row security are not in the text, nor is whether `t.f` is a column or a call, nor
//! whether a table is temporary, unlogged or a sequence.

mod cache;
mod channels;
mod constants;
mod databases;
mod facts;
mod listen;
mod memo;
mod parsed;
mod purpose;
mod quote;
mod route;
mod scan;
mod script;
mod shape;
mod token;

pub use cache::{Analyser, Judged};
pub use channels::rename as rename_channels;
pub use constants::without_constants;
pub use databases::database_wanted_alone;
pub use facts::{Deallocate, Facts, Pin, Pins, is_prepare};
pub use listen::{ListenOrder, ListenOrders, begins_with_listen, listen_orders};
pub use purpose::Purpose;
pub use quote::{identifier, leading_identifier, literal, one_line};
pub use route::local_route;
pub use scan::{lets_go, may_commit, scan};
pub use script::ends_transaction;
pub use shape::{shape, tokens};
pub use token::{TokenStatement, TokenValue, mentions_token, token_statement};
