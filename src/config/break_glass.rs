//! Who may get at other tenants' data in an emergency.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Value;

use super::Problem;
use super::reader::{Reader, Section, table};
use super::settings::BreakGlass;

/// Stands for all tenants.
const ALL: &str = "*";

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn break_glass(reader: &mut Reader, root: &mut Section) -> Vec<BreakGlass> {
    let items = match root.take("break_glass") {
        None => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => {
            reader.problem(Problem::new("break_glass", "must be a list of tables").value(other.type_str()));
            return Vec::new();
        }
    };
    let mut grants = Vec::new();
    for (i, value) in items.into_iter().enumerate() {
        if let Some(section) = table(reader, &format!("break_glass[{i}]"), value) {
            grants.extend(one(reader, section));
        }
    }
    grants
}

fn one(reader: &mut Reader, mut section: Section) -> Option<BreakGlass> {
    let issuer = section.required(reader, "issuer", "\"https://login.example.com/\"");
    let subject = section.required(reader, "subject", "\"ann@example.com\"");
    let tenants: Option<Vec<String>> = section.required(reader, "tenants", "[\"*\"]");
    let role = section.required(reader, "role", "\"readonly\"");
    let max_duration = section.duration(reader, "max_duration", 60 * MINUTE, MINUTE..=24 * 60 * MINUTE);
    let until = section.take("until").map(|value| moment(reader, &section.at("until"), &value));
    let at = section.at("tenants");
    section.finish(reader);
    let tenants = tenants?;
    if tenants.is_empty() {
        reader.problem(Problem::new(&at, "is empty, so that it gives nothing").example("tenants = [\"*\"]"));
    }
    let named: Vec<_> = tenants.iter().filter(|name| *name != ALL).cloned().collect();
    let named = named.into_iter().filter_map(|name| super::reader::name_of(reader, &at, name)).collect();
    let tenants = if tenants.iter().any(|name| name == ALL) { None } else { Some(named) };
    // Not by `flatten`: a time that cannot be read must not become none.
    let until = match until {
        Some(read) => Some(read?),
        None => None,
    };
    Some(BreakGlass { issuer: issuer?, subject: subject?, tenants, role: role?, max_duration, until })
}

/// A moment with its offset, as TOML has it or as a string, in seconds since 1970.
pub(super) fn moment(reader: &mut Reader, at: &str, value: &Value) -> Option<u64> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let moment = OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|at| u64::try_from(at.unix_timestamp()).ok());
    if moment.is_none() {
        reader.problem(
            Problem::new(at, "must be a date and time with its offset (RFC 3339)")
                .value(text)
                .example("until = 2027-01-31T18:00:00Z"),
        );
    }
    moment
}
