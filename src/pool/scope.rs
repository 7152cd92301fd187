//! What a login may do that a grant across borders is for: read what the grant names, and nothing else.

use std::sync::Arc;

use crate::backend::{self, AskError, Backend};

/// What its role has to keep to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Tables and views, as PostgreSQL writes them.
    pub relations: Arc<[String]>,
    /// Each is a view of which somebody says that it shows nobody.
    pub anonymised: bool,
}

/// What a role may do beyond reading the relations of `$1`, three examples of each kind.
const BEYOND: &str = "
    with scope as (select pg_catalog.to_regclass(name)::oid as relation from pg_catalog.unnest($1::text[]) name),
    reachable as (
        select c.oid, c.relkind, c.relnamespace, c.relname, n.nspname,
            exists (select from scope where relation = c.oid) as named
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
            and n.nspname not in ('pg_catalog', 'information_schema', 'pgward')
            and pg_catalog.has_schema_privilege(session_user, n.oid, 'usage')
    )
    (select pg_catalog.format('it is, or can become, %I', r.rolname) from pg_catalog.pg_roles r
    where r.rolname <> session_user and pg_catalog.pg_has_role(session_user, r.oid, 'member') order by 1 limit 3)
    union all
    (select pg_catalog.format('it may use %I.%I, which is not in the scope', nspname, relname) from reachable
    where not named and case relkind
        when 'S' then pg_catalog.has_sequence_privilege(session_user, oid, 'usage, select, update')
        else pg_catalog.has_any_column_privilege(session_user, oid, 'select, insert, update, references')
            or pg_catalog.has_table_privilege(session_user, oid, 'delete, truncate, trigger') end
    order by 1 limit 3)
    union all
    (select pg_catalog.format('it may change %I.%I', nspname, relname) from reachable
    where named and (pg_catalog.has_any_column_privilege(session_user, oid, 'insert, update')
        or pg_catalog.has_table_privilege(session_user, oid, 'delete, truncate, trigger'))
    order by 1 limit 3)
    union all
    (select pg_catalog.format('it may create objects in schema %I', nspname) from pg_catalog.pg_namespace n
    where not pg_catalog.pg_is_other_temp_schema(n.oid) and n.oid <> pg_catalog.pg_my_temp_schema()
        and pg_catalog.has_schema_privilege(session_user, n.oid, 'create')
    order by 1 limit 3)
    union all
    select 'it may create schemas' where pg_catalog.has_database_privilege(session_user, pg_catalog.current_database(), 'create')
    union all
    (select pg_catalog.format('it may use large object %s', m.oid) from pg_catalog.pg_largeobject_metadata m
    where pg_catalog.pg_has_role(session_user, m.lomowner, 'member') or exists (
        select from pg_catalog.aclexplode(m.lomacl) a
        where a.grantee = 0 or pg_catalog.pg_has_role(session_user, a.grantee, 'member'))
    order by 1 limit 3)
    union all
    (select pg_catalog.format('it may call %s, which is not for everybody', p.oid::pg_catalog.regprocedure)
    from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and p.proacl is not null
        and not exists (select from pg_catalog.aclexplode(p.proacl) a where a.grantee = 0)
        and pg_catalog.has_function_privilege(session_user, p.oid, 'execute')
    order by 1 limit 3)
    union all
    (select pg_catalog.format('it may call %s, which does does what its owner may', p.oid::pg_catalog.regprocedure)
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where p.prosecdef and n.nspname not in ('pg_catalog', 'information_schema', 'pgward')
        and pg_catalog.has_schema_privilege(session_user, n.oid, 'usage')
        and pg_catalog.has_function_privilege(session_user, p.oid, 'execute')
    order by 1 limit 3)";

/// Which relations of `$1` are not marked as showing nobody.
const SHOWING: &str = "
    select pg_catalog.format('%s is not marked as anonymised or aggregated', name) from pg_catalog.unnest($1::text[]) name
    where not coalesce(pgward.shows_nobody(pg_catalog.to_regclass(name)), false) limit 3";

impl Scope {
    /// Why the login of a backend that has just been opened must not be used.
    pub async fn broken(&self, backend: &mut Backend) -> Result<Vec<String>, AskError> {
        let relations = array(&self.relations);
        let mut reasons = backend::ask(backend, BEYOND, &[&relations]).await?;
        if self.anonymised {
            reasons.extend(backend::ask(backend, SHOWING, &[&relations]).await?);
        }
        Ok(reasons.into_iter().flatten().flatten().collect())
    }

    /// What keeps to both.
    pub fn and(self, other: Self) -> Self {
        let both = |relation: &&String| other.relations.contains(relation);
        let relations = self.relations.iter().filter(both).cloned().collect();
        Self { relations, anonymised: self.anonymised || other.anonymised }
    }
}

/// As PostgreSQL reads an array of texts.
fn array(items: &[String]) -> String {
    let quoted = |item: &String| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", items.iter().map(quoted).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_and_commas_are_one_item_each() {
        let items = ["a.b".to_owned(), "\"a,\"\"b\".\"c\\d\"".to_owned()];
        assert_eq!(array(&items), r#"{"a.b","\"a,\"\"b\".\"c\\d\""}"#);
    }

    #[test]
    fn of_two_scopes_what_is_in_both_is_left() {
        let scope = |relations: &[&str], anonymised| Scope {
            relations: relations.iter().map(|name| (*name).to_owned()).collect(),
            anonymised,
        };
        assert_eq!(scope(&["a.b", "a.c"], false).and(scope(&["a.c", "a.d"], true)), scope(&["a.c"], true));
    }
}
