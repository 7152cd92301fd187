//! The linter over a live database: what in it lets one tenant reach past its own, and the SQL that mends it.
//!
//! A [`Question`] is what the configuration says of a database: whose logins, at which level. [`examine`] asks
//! PostgreSQL's catalogue in one read-only transaction; each check of `rules` is a query and a pure function
//! from its rows to [`Finding`]s. [`Report`] sorts them, leaves out what is allowed, and prints them as text,
//! JSON or a script. Only [`mend`] writes.
//!
//! [`classified`] tells what people said of columns and whether it holds, [`anonymity`] how many people share what a
//! view shows of them.
//!
//! The queries begin with `prelude.sql`, which says in one place who is a tenant, whose privileges it has and
//! which tables are tenants' tables. They run with `search_path = pg_catalog, pg_temp`, and under a role that
//! needs no more than to read the catalogue.

mod anonymity;
mod classified;
mod examine;
mod finding;
mod mend;
mod policy;
mod question;
mod quote;
mod report;
mod rules;

pub use anonymity::{Anonymity, AnonymityError, Beheld, Demand, anonymity};
pub use classified::{Classification, ClassificationError, Column, ExportView, classified};
pub use examine::{Examination, ExamineError, Found, NotExamined, examine};
pub use finding::{Finding, Mend, Rule, Severity};
pub use mend::{MendError, mend};
pub use question::{Breadth, Question};
pub use report::{Allowed, Place, Report};

/// Everything that is looked for, in the order of the documentation.
pub fn rules() -> Vec<&'static Rule> {
    rules::CHECKS.iter().flat_map(|checks| checks.iter()).flat_map(|check| check.rules.iter().copied()).collect()
}
