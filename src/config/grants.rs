//! `[grants.NAME]`: what of a tenant's data may leave its regions, on purpose, for whom, why and until when.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Value;

use super::Problem;
use super::break_glass::moment;
use super::reader::{Reader, Section, map, name_of, table};
use super::regions::Groups;
use crate::base::{Access, GrantName, Region, TenantId};
use crate::residency;

/// A crossing of borders that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub name: GrantName,
    pub tenants: Vec<TenantId>,
    /// Of the token.
    pub role: Access,
    /// Where the pgward may be that serves it. Its servers stay where they are.
    pub regions: Vec<Region>,
    pub purpose: String,
    pub legal_basis: String,
    /// The tables and views that the role may read, as PostgreSQL writes them; it may do nothing else.
    pub scope: Arc<[String]>,
    /// They are views that somebody vouches for, see docs/classification.md.
    pub anonymised: bool,
    /// From when on it is over, in seconds since 1970.
    pub until: u64,
}

impl Grant {
    /// Whether it lets a tenant's role be served in a region at a time.
    pub fn covers(&self, tenant: &TenantId, role: &Access, region: &Region, now: u64) -> bool {
        now < self.until
            && self.role == *role
            && self.tenants.contains(tenant)
            && residency::allows(&self.regions, region)
    }
}

/// Longer texts are no reason but a story, and stand in the audit log at each use.
const LONGEST: usize = 200;

pub(super) fn grants(reader: &mut Reader, root: &mut Section, groups: &Groups) -> BTreeMap<GrantName, Arc<Grant>> {
    let entries = root.entries(reader, "grants");
    map(reader, entries, |reader, at, name: &GrantName, value| {
        let section = table(reader, at, value)?;
        grant(reader, name, section, groups).map(Arc::new)
    })
}

fn grant(reader: &mut Reader, name: &GrantName, mut section: Section, groups: &Groups) -> Option<Grant> {
    let tenants = section.required::<Vec<String>>(reader, "tenants", "[\"acme\"]");
    let role = section.required(reader, "role", "\"reports\"");
    let regions = groups.optional(reader, &mut section, "regions");
    let purpose = reason(reader, &mut section, "purpose", "\"monthly figures for the group's accounts\"");
    let legal_basis = reason(reader, &mut section, "legal_basis", "\"contract 2026/117, section 4\"");
    let scope = section.required::<Vec<String>>(reader, "scope", "[\"reports.orders_by_month\"]");
    let anonymised = section.optional(reader, "anonymised").unwrap_or(true);
    let until: Option<Value> = section.require(reader, "until", "2027-01-31T18:00:00Z");
    let until = until.and_then(|value| moment(reader, &section.at("until"), &value));
    let (at_tenants, at_scope, at_regions) = (section.at("tenants"), section.at("scope"), section.at("regions"));
    section.finish(reader);
    let mut given = |at: &str, missing: bool, example: &str| {
        if missing {
            reader.problem(Problem::new(at, "is empty, so that it gives nothing").example(example));
        }
    };
    given(&at_tenants, tenants.as_ref().is_some_and(Vec::is_empty), "tenants = [\"acme\"]");
    given(&at_scope, scope.as_ref().is_some_and(Vec::is_empty), "scope = [\"reports.orders_by_month\"]");
    given(&at_regions, regions.as_ref().is_none_or(Vec::is_empty), "regions = [\"de\"]");
    let scope: Vec<String> = scope?;
    for relation in scope.iter().filter(|relation| !is_qualified(relation)) {
        let what = "must be a table or view with its schema, as PostgreSQL writes them";
        reader.problem(Problem::new(&at_scope, what).value(relation).example("\"reports.orders_by_month\""));
    }
    let tenants = tenants?.into_iter().filter_map(|tenant| name_of(reader, &at_tenants, tenant)).collect();
    Some(Grant {
        name: name.clone(),
        tenants,
        role: role?,
        regions: regions?,
        purpose: purpose?,
        legal_basis: legal_basis?,
        scope: scope.into(),
        anonymised,
        until: until?,
    })
}

fn reason(reader: &mut Reader, section: &mut Section, key: &'static str, example: &str) -> Option<String> {
    let text: String = section.required(reader, key, example)?;
    checked_reason(reader, &section.at(key), text, example)
}

/// Text that says why, and can stand in a log.
pub(super) fn checked_reason(reader: &mut Reader, at: &str, text: String, example: &str) -> Option<String> {
    let sound = !text.trim().is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control);
    if !sound {
        let what = format!("must say why, in at most {LONGEST} bytes without control characters");
        reader.problem(Problem::new(at, what).example(example));
    }
    sound.then_some(text)
}

/// Two identifiers, quoted or not, with a dot between them. PostgreSQL reads them; this is to find what is forgotten.
fn is_qualified(text: &str) -> bool {
    let mut quoted = false;
    let dots = text.chars().filter(|c| {
        quoted ^= *c == '"';
        *c == '.' && !quoted
    });
    dots.count() == 1 && !quoted && !text.starts_with('.') && !text.ends_with('.') && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_without_its_schema_is_none() {
        for good in ["a.b", "\"a.b\".c", "\"a\"\"b\".\"c\""] {
            assert!(is_qualified(good), "{good}");
        }
        for bad in ["", "b", "a.b.c", ".b", "a.", "\"a.b\"", "\"a.b"] {
            assert!(!is_qualified(bad), "{bad}");
        }
    }
}
