//! Whether roles that may not see a classified column can read it all the same.

use serde::Deserialize;

use super::super::finding::{Finding, Mend, Rule, advice};
use super::{Check, Judged, Scope, row};

const READABLE: Rule = Rule::danger(
    "classified-column-readable",
    "a role that a classified column is hidden from can read it, by a privilege, a membership or as its owner",
);
const VIEW: Rule = Rule::danger(
    "classified-column-in-view",
    "a view that reads a classified column, and that nobody vouches for, can be read by a role that the column is hidden from",
);
const FUNCTION: Rule = Rule::danger(
    "classified-column-in-function",
    "a SECURITY DEFINER function that reads a classified column can be run by a role that the column is hidden from",
);
const MENTIONED: Rule = Rule::warning(
    "classified-table-in-function",
    "a SECURITY DEFINER function whose text names a table with a classified column can be run by a role that the column is hidden from",
);
const NO_COLUMN: Rule =
    Rule::danger("classification-without-column", "a row of pgward.classification names a column that does not exist");
const NO_ROLE: Rule =
    Rule::danger("classification-without-role", "a row of pgward.classification names a role that does not exist");
const EXPOSES: Rule = Rule::danger(
    "export-view-exposes-column",
    "a view that pgward.export_view vouches for shows a classified column unchanged, or a whole row with it",
);
const CHANGEABLE: Rule = Rule::danger(
    "export-view-changeable",
    "a view that pgward.export_view vouches for, or what it is made of, belongs to a login role of tenants",
);
const NO_VIEW: Rule = Rule::warning("export-view-missing", "a row of pgward.export_view names no view that exists");
const UNCHECKED: Rule = Rule::warning(
    "export-view-unchecked",
    "an anonymised or aggregated view lacks k or quasi-identifiers, or they are not its columns",
);

/// All of them hang upon what the two tables say.
pub(in super::super) const RULES: &[&Rule] =
    &[&READABLE, &VIEW, &FUNCTION, &MENTIONED, &NO_COLUMN, &NO_ROLE, &EXPOSES, &CHANGEABLE, &NO_VIEW, &UNCHECKED];

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "who reads classified columns",
        scope: Scope::Database,
        rules: &[&READABLE, &VIEW, &FUNCTION],
        sql: concat!(
            "with recursive ",
            include_str!("../classified.sql"),
            ", hidden_here (relation, number, role) as (
                select p.relation, p.number, r.role
                from place p join barred b on b.oid = p.oid and b.attnum = p.attnum
                cross join lateral (values (b.role), (0::oid)) r (role)
            )
            select l.how, l.name as role, l.class, l.grantee in (0, l.role) as alone,
                format('%I.%I.%I', n.nspname, t.relname, c.attname) as column, quote_ident(c.attname) as name,
                coalesce((select quote_ident(r.rolname) from pg_catalog.pg_roles r where r.oid = l.grantee), 'public')
                    as grantee,
                case when l.how = 'function' then (
                    select format('%I.%I(%s)', n.nspname, f.proname, oidvectortypes(f.proargtypes))
                    from pg_catalog.pg_proc f join pg_catalog.pg_namespace n on n.oid = f.pronamespace
                    where f.oid = l.object)
                else (
                    select format('%I.%I', n.nspname, o.relname)
                    from pg_catalog.pg_class o join pg_catalog.pg_namespace n on n.oid = o.relnamespace
                    where o.oid = l.object) end as object,
                -- What the grantee may go on seeing.
                case when l.how = 'table' then (
                    select array_agg(quote_ident(a.attname) order by a.attnum) from pg_catalog.pg_attribute a
                    where a.attrelid = l.object and a.attnum > 0 and not a.attisdropped
                    and (l.object, a.attnum, l.grantee) not in (select relation, number, role from hidden_here))
                end as others
            from leak l
            join pg_catalog.pg_class t on t.oid = l.oid
            join pg_catalog.pg_namespace n on n.oid = t.relnamespace
            join pg_catalog.pg_attribute c on c.attrelid = l.oid and c.attnum = l.attnum
            where l.how <> 'marked'"
        ),
        judge: |_, text| row(text, leak),
    },
    Check {
        about: "functions whose text names tables with classified columns",
        scope: Scope::Database,
        rules: &[&MENTIONED],
        sql: concat!(
            "with recursive ",
            include_str!("../classified.sql"),
            r#"select format('%I.%I(%s)', n.nspname, f.proname, oidvectortypes(f.proargtypes)) as function,
                array_agg(distinct t.relation::regclass::text) as tables, array_agg(distinct r.name) as roles
            from (
                select distinct p.relation, b.role, lower(replace(c.relname, '"', '""')) as mark, format('(^|\W)%s($|\W)',
                    regexp_replace(replace(c.relname, '"', '""'), '(\W)', '\\\1', 'g')) as pattern
                from barred b join place p on p.oid = b.oid and p.attnum = b.attnum
                join pg_catalog.pg_class c on c.oid = p.relation
            ) t
            join barred_function bf on bf.role = t.role
            join pg_catalog.pg_proc f on f.oid = bf.function and f.prosqlbody is null
                and strpos(lower(f.prosrc), t.mark) > 0 and f.prosrc ~* t.pattern
            join pg_catalog.pg_language l on l.oid = f.prolang and l.lanname not in ('internal', 'c')
            join pg_catalog.pg_namespace n on n.oid = f.pronamespace and n.nspname not in ('pg_catalog', 'pgward')
            join role_name r on r.oid = t.role
            group by f.oid, n.nspname, f.proname, f.proargtypes"#
        ),
        judge: |_, text| row(text, mentioned),
    },
    Check {
        about: "what the rows of pgward.classification name",
        scope: Scope::Database,
        rules: &[&NO_COLUMN, &NO_ROLE],
        sql: "select format('%I.%I.%I', c.schema, c.relation, c.column_name) as column, c.attnum is not null as there,
                array(
                    select h from jsonb_array_elements_text(c.hidden_from) h
                    where quote_ident(h) not in (select name from role_name) order by h) as strangers
            from classified c",
        judge: |_, text| row(text, named),
    },
    Check {
        about: "the views of pgward.export_view",
        scope: Scope::Database,
        rules: &[&CHANGEABLE, &NO_VIEW, &UNCHECKED],
        sql: concat!(
            "with recursive ",
            include_str!("../classified.sql"),
            ", ",
            include_str!("../hands.sql"),
            "select m.name, m.kind, m.oid is not null as there,
                m.k is not null and jsonb_array_length(m.quasi_identifiers) > 0 as checkable,
                array(
                    select quote_ident(q.name)
                    from (
                        select e as name from jsonb_array_elements_text(m.quasi_identifiers) e
                        union select m.counted where m.counted is not null
                    ) q
                    where not exists (
                        select from pg_catalog.pg_attribute a where a.attrelid = m.oid and a.attname = q.name
                        and a.attnum > 0 and not a.attisdropped)
                    order by 1) as strangers,
                array(select distinct h.what from hand h where h.view = m.oid order by 1) as hands
            from marked m"
        ),
        judge: |_, text| row(text, vouched),
    },
    Check {
        about: "what the views of pgward.export_view show",
        scope: Scope::Database,
        rules: &[&EXPOSES],
        sql: concat!(
            "with recursive ",
            include_str!("../classified.sql"),
            ", marked_leak (view, oid, attnum, readers) as (
                select l.object, l.oid, l.attnum, array_agg(distinct l.name order by l.name)
                from leak l where l.how = 'marked' group by l.object, l.oid, l.attnum
            )
            select distinct m.name, format('%I.%I.%I', c.schema, c.relation, c.column_name) as column, c.class,
                quote_ident(a.attname) as shown_as, coalesce(l.readers, '{}') as readers
            from exposed e
            join marked m on m.oid = e.view
            join classified c on c.oid = e.oid and c.attnum = e.attnum
            left join pg_catalog.pg_attribute a on a.attrelid = m.oid and a.attnum = e.number
            left join marked_leak l on l.view = e.view and l.oid = e.oid and l.attnum = e.attnum
            where m.kind <> 'masked' and not coalesce(m.quasi_identifiers ? a.attname::text, false)
            or l.view is not null"
        ),
        judge: |_, text| row(text, exposed),
    },
];

#[derive(Deserialize)]
struct Leak {
    how: String,
    /// The column that is classified, and its name alone.
    column: String,
    name: String,
    class: String,
    /// Whom it is hidden from.
    role: String,
    /// Through whom the role reads it.
    grantee: String,
    /// Nobody else loses by it what the grantee loses.
    alone: bool,
    object: String,
    /// What the grantee may go on seeing.
    others: Option<Vec<String>>,
}

fn leak(leak: Leak) -> Finding {
    let Leak { column, name, class, role, grantee, object, .. } = &leak;
    let at = format!("column {object}.{name} for {role}");
    match leak.how.as_str() {
        "view" => Finding::new(
            &VIEW,
            format!("view {object} for {role}"),
            format!("{role} reads through it, as {grantee} may, what is made of {column}, which is {class}"),
            advice(format!(
                "if it masks the column: insert into pgward.export_view (schema, view, kind) values (..., 'masked'); \
                 otherwise make it a security_invoker view, or revoke select on {object} from {grantee}"
            )),
        ),
        "function" => Finding::new(
            &FUNCTION,
            format!("function {object} for {role}"),
            format!(
                "{role} may run it, as {grantee} may, and it reads {column}, which is {class}, with its owner's rights"
            ),
            if leak.alone {
                Mend::Sql(format!("revoke execute on routine {object} from {grantee};"))
            } else {
                advice(format!("revoke execute on it from {grantee}, and grant it to whoever may see the column"))
            },
        ),
        "owner" => Finding::new(
            &READABLE,
            at,
            format!("{grantee} owns {object} and so reads {column}, which is {class}"),
            advice("give the table to a role that may see it, and grant the others what they need"),
        ),
        "power" => Finding::new(
            &READABLE,
            at,
            format!("{grantee} reads everything or can see to it that it does, and so {column}, which is {class}"),
            advice(format!("take that from {role}, or do not list it in hidden_from: nothing can be hidden from it")),
        ),
        _ => Finding::new(&READABLE, at, by_privilege(&leak), revoke(&leak)),
    }
}

fn by_privilege(leak: &Leak) -> String {
    let Leak { column, class, grantee, .. } = leak;
    let how = match leak.how.as_str() {
        "trigger" => "may put triggers on the table, which are handed whole rows",
        "column" => "has SELECT on the column",
        _ => "has SELECT on the whole table",
    };
    format!("{grantee} {how}, and so reads {column}, which is {class}")
}

fn revoke(leak: &Leak) -> Mend {
    let Leak { name, grantee, object, .. } = leak;
    let sql = match (leak.how.as_str(), leak.others.as_deref().unwrap_or_default()) {
        ("trigger", _) => format!("revoke trigger on {object} from {grantee};"),
        ("column", _) => format!("revoke select ({name}) on {object} from {grantee};"),
        (_, []) => format!("revoke select on {object} from {grantee};"),
        (_, others) => format!(
            "revoke select on {object} from {grantee};\ngrant select ({}) on {object} to {grantee};",
            others.join(", ")
        ),
    };
    if leak.alone {
        return Mend::Sql(sql);
    }
    advice(format!("it is for others as well, who would lose the column too: {}", sql.replace('\n', " ")))
}

#[derive(Deserialize)]
struct Mentioned {
    function: String,
    tables: Vec<String>,
    roles: Vec<String>,
}

fn mentioned(function: Mentioned) -> Finding {
    let (tables, roles) = (function.tables.join(", "), function.roles.join(", "));
    Finding::new(
        &MENTIONED,
        format!("function {}", function.function),
        format!("{roles} may run it, and it names {tables}; whether it gives a hidden column away stands in its text"),
        advice(
            "read it; then allow this finding, revoke execute, or write it as begin atomic ... end, which can be checked",
        ),
    )
}

#[derive(Deserialize)]
struct Named {
    column: String,
    there: bool,
    strangers: Vec<String>,
}

fn named(row: Named) -> Judged {
    let object = format!("classification of {}", row.column);
    let column = (!row.there).then(|| {
        let danger = "if the column was renamed or moved, nobody looks any more at who reads it";
        Finding::new(&NO_COLUMN, &object, danger, advice("correct the row of pgward.classification, or delete it"))
    });
    let roles = (!row.strangers.is_empty()).then(|| {
        let danger =
            format!("{} stands for nobody; the role that was meant may read the column", row.strangers.join(", "));
        Finding::new(&NO_ROLE, &object, danger, advice("correct hidden_from in pgward.classification"))
    });
    column.into_iter().chain(roles).collect::<Vec<_>>().into()
}

#[derive(Deserialize)]
struct Vouched {
    name: String,
    kind: String,
    there: bool,
    checkable: bool,
    strangers: Vec<String>,
    hands: Vec<String>,
}

fn vouched(view: Vouched) -> Judged {
    let object = format!("view {}", view.name);
    if !view.there {
        let danger = "whoever makes a view of that name has it vouched for";
        return Finding::new(&NO_VIEW, object, danger, advice("correct the row of pgward.export_view, or delete it"))
            .into();
    }
    let mut found = Vec::new();
    if !view.hands.is_empty() {
        let danger =
            format!("tenants change what it shows: {} belongs to a login role of theirs", view.hands.join(", "));
        let mend = "give it to a role that nobody else takes, or delete the row of pgward.export_view";
        found.push(Finding::new(&CHANGEABLE, &object, danger, advice(mend)));
    }
    if !view.strangers.is_empty() {
        let danger = format!("it has no columns {}: nobody can tell how many share them", view.strangers.join(", "));
        found.push(Finding::new(&UNCHECKED, &object, danger, advice("correct quasi_identifiers and counted")));
    } else if view.kind != "masked" && !view.checkable {
        let danger = "nothing says how many must share which columns, so that nobody can check it";
        found.push(Finding::new(&UNCHECKED, object, danger, advice("fill in k and quasi_identifiers")));
    }
    found.into()
}

#[derive(Deserialize)]
struct Exposed {
    name: String,
    column: String,
    class: String,
    shown_as: Option<String>,
    readers: Vec<String>,
}

fn exposed(view: Exposed) -> Finding {
    let Exposed { column, class, .. } = &view;
    let shown = match &view.shown_as {
        Some(name) => format!("its column {name} is"),
        None => "it uses whole rows, or is stored in an unknown way, and so may show".to_owned(),
    };
    let readers = match view.readers.as_slice() {
        [] => String::new(),
        readers => format!("; {} read it", readers.join(", ")),
    };
    Finding::new(
        &EXPOSES,
        format!("view {}", view.name),
        format!("{shown} {column}, which is {class}{readers}"),
        advice("leave the column out or make something coarser of it, and name the columns that the view shows"),
    )
}
