//! What can be shown of residency: where each tenant's data is, who served it from where, and what would serve it now.
//!
//! ```text
//!   history    what the audit logs say, line by line (pure)
//!   standing   what a server is, and what a node is to a tenant
//!   explain    what would serve a tenant now, and why nothing else would (pure)
//!   report     all of it for each tenant, and what is wrong with it (pure)
//!   classified which columns hold what is personal
//!   finding    what a report finds
//!   page       headings, lines and tables, as text or as HTML
//!   shown      reports and explanations as pages
//! ```
//!
//! The rules are those of the data path ([`crate::route`], [`crate::topology`]): there is no second one here.

mod classified;
mod explain;
mod finding;
mod history;
mod page;
mod report;
mod shown;
mod standing;

pub use classified::ClassifiedDatabase;
pub use explain::{Explanation, Question, explain};
pub use finding::{Finding, Severity};
pub use history::{History, Kind, LogReader};
pub use page::Page;
pub use report::{Found, Report};
