//! The audit log: who came in, who was served by which server, who was refused, what was forged, what administrators
//! did, and, where a tenant wants it, which statements were run. JSON, a line an event, each chained to the one before.
//!
//! ```text
//!   event    what is recorded, typed; nothing else can be
//!   redact   text from outside: bounded, no tokens
//!   log      the handle: a bounded queue, and whether something must not happen unrecorded
//!   flood    what one culprit repeats is counted
//!   writer   the thread: batches, lines, failures
//!   sink     the files
//!   chain    the lines and their hashes; verify reads them
//! ```
//!
//! docs/audit.md says what the chain proves and what it does not.

mod chain;
mod event;
mod flood;
mod log;
mod redact;
mod sink;
mod verify;
mod writer;

pub use chain::{Hash, Head, Line, Seal};
pub use event::{Event, Refusal, ServedBy, Source, Statement, Token, Via, Who};
pub use log::{Audit, AuditError, Here, Unrecordable};
pub use redact::Text;
pub use sink::put_aside;
pub use verify::{Anchor, Examiner, Finding, Members, Place, Verdict};
