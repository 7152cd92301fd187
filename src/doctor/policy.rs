//! Whether a policy's expression binds each row to the tenant whose session it is.
//!
//! PostgreSQL's own parser reads what `pg_get_expr` prints. The tree is walked as JSON, so that no kind of node
//! is passed over when something is searched for in it.

use serde_json::Value;

/// The worst first: of what OR joins the worst counts, of what AND joins the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tie {
    /// There are rows of other tenants for which it holds.
    Open,
    /// It asks for the tenant, in a way that only a person can judge.
    Unclear,
    /// The row must fit a setting, and any session can set that.
    Forgeable,
    /// The row must be the tenant's of the sealed context, or nothing fits.
    Sealed,
}

/// Functions of the database that answer for others, as `schema.name`.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// They ask `pgward.tenant()`.
    pub sealed: Vec<String>,
    /// They read a setting.
    pub settings: Vec<String>,
}

pub(super) fn tie(expression: &str, known: &Known) -> Tie {
    let Some(tree) = parse(expression) else { return Tie::Unclear };
    judge(&tree, known)
}

/// The expression as the parser's tree.
fn parse(expression: &str) -> Option<Value> {
    let parsed = pg_query::parse(&format!("select ({expression})"), 0).ok()?;
    let tree = serde_json::to_value(&parsed.protobuf).ok()?;
    let (kind, select) = node(tree.pointer("/stmts/0/stmt")?)?;
    if kind != "SelectStmt" {
        return None;
    }
    select.pointer("/target_list/0/node/ResTarget/val").cloned()
}

/// What kind of node this is, and what is in it.
fn node(value: &Value) -> Option<(&str, &Value)> {
    let (kind, inner) = value.get("node")?.as_object()?.iter().next()?;
    Some((kind, inner))
}

fn judge(expression: &Value, known: &Known) -> Tie {
    let Some((kind, inner)) = node(expression) else { return Tie::Unclear };
    let of = |field: &str| inner.get(field).unwrap_or(&Value::Null);
    match kind {
        "BoolExpr" => {
            let parts = of("args").as_array().into_iter().flatten().map(|part| judge(part, known));
            match of("boolop").as_i64() {
                Some(1) => parts.max().unwrap_or(Tie::Unclear),
                Some(2) => parts.min().unwrap_or(Tie::Unclear),
                _ => mentioned(expression, known),
            }
        }
        "AExpr" if of("kind").as_i64() == Some(1) && operator(inner) == Some("=") => {
            match (side(of("lexpr"), known), side(of("rexpr"), known)) {
                (Side::Column, Side::Sealed) | (Side::Sealed, Side::Column) => Tie::Sealed,
                (Side::Column, Side::Setting) | (Side::Setting, Side::Column) => Tie::Forgeable,
                _ => mentioned(expression, known),
            }
        }
        "AConst" if of("val").pointer("/Boolval/boolval") == Some(&Value::Bool(false)) => Tie::Sealed,
        // The parser leaves a false value out of what it prints, and tells it from NULL by this.
        "AConst" if of("val").get("Boolval").is_some_and(|value| value.get("boolval").is_none()) => Tie::Sealed,
        "TypeCast" => judge(of("arg"), known),
        _ => mentioned(expression, known),
    }
}

fn operator(expression: &Value) -> Option<&str> {
    expression.get("name")?.as_array()?.last()?.pointer("/node/String/sval")?.as_str()
}

/// No comparison that is understood: what it mentions says how bad that may be.
fn mentioned(expression: &Value, known: &Known) -> Tie {
    let found = Mentions::of(expression, known);
    match (found.sealed, found.setting) {
        (true, _) => Tie::Unclear,
        (false, true) => Tie::Forgeable,
        (false, false) => Tie::Open,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Side {
    Column,
    Sealed,
    Setting,
    Other,
}

fn side(expression: &Value, known: &Known) -> Side {
    let Some((kind, inner)) = node(expression) else { return Side::Other };
    match kind {
        "ColumnRef" => return Side::Column,
        "TypeCast" | "CollateClause" => return side(inner.get("arg").unwrap_or(&Value::Null), known),
        _ => {}
    }
    let found = Mentions::of(expression, known);
    match found {
        // A value that depends on the row as well may be the row's own.
        Mentions { column: true, .. } | Mentions { sealed: false, setting: false, .. } => Side::Other,
        Mentions { sealed: true, setting: false, .. } => Side::Sealed,
        Mentions { setting: true, .. } => Side::Setting,
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Mentions {
    column: bool,
    sealed: bool,
    setting: bool,
}

impl Mentions {
    fn of(tree: &Value, known: &Known) -> Self {
        let mut found = Self::default();
        found.search(tree, known);
        found
    }

    fn search(&mut self, tree: &Value, known: &Known) {
        match tree {
            Value::Array(all) => all.iter().for_each(|one| self.search(one, known)),
            Value::Object(fields) => {
                self.column |= fields.contains_key("ColumnRef");
                if let Some(call) = fields.get("FuncCall") {
                    self.call(call, known);
                }
                fields.values().for_each(|one| self.search(one, known));
            }
            _ => {}
        }
    }

    fn call(&mut self, call: &Value, known: &Known) {
        let words = call.get("funcname").and_then(Value::as_array).into_iter().flatten();
        let words: Vec<&str> = words.filter_map(|word| word.pointer("/node/String/sval")?.as_str()).collect();
        let name = words.join(".");
        self.sealed |= matches!(name.as_str(), "pgward.tenant" | "pgward.claims") || known.sealed.contains(&name);
        self.setting |= words.last() == Some(&"current_setting") || known.settings.contains(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expression: &str) -> Tie {
        let known = Known {
            sealed: vec!["app.current_tenant".to_owned()],
            settings: vec!["auth.uid".to_owned(), "app.odd name".to_owned()],
        };
        tie(expression, &known)
    }

    #[test]
    fn a_comparison_with_the_sealed_tenant_ties_the_row_to_it() {
        for sealed in [
            "(tenant_id = ( SELECT pgward.tenant() AS tenant))",
            "(pgward.tenant() = tenant_id)",
            "((tenant_id)::text = pgward.tenant())",
            "(tenant_id = (pgward.tenant())::uuid)",
            "(tenant_id = ( SELECT (pgward.tenant())::integer AS tenant))",
            "((tenant_id = pgward.tenant()) AND (deleted IS NULL OR true))",
            "(owner = (pgward.claims() ->> 'sub'::text))",
            "(tenant_id = app.current_tenant())",
            "((tenant_id = pgward.tenant()) OR ((org = pgward.tenant()) AND open))",
            "(tenant_id = pgward.tenant()) OR false",
            "false",
        ] {
            assert_eq!(of(sealed), Tie::Sealed, "{sealed}");
        }
    }

    #[test]
    fn what_holds_for_other_tenants_rows_is_open() {
        for open in [
            "true",
            "(tenant_id IS NOT NULL)",
            "((tenant_id = pgward.tenant()) OR public)",
            "((tenant_id = pgward.tenant()) OR (NOT hidden))",
            "((active AND (tenant_id = pgward.tenant())) OR (kind = 'a'::text))",
            "((tenant_id)::text = CURRENT_USER)",
            "(tenant_id = 'acme'::text)",
        ] {
            assert_eq!(of(open), Tie::Open, "{open}");
        }
    }

    #[test]
    fn what_depends_on_a_setting_is_forgeable() {
        for forgeable in [
            "(tenant_id = current_setting('app.tenant_id'::text))",
            "(tenant_id = ( SELECT current_setting('app.tenant_id'::text, true) AS current_setting))",
            "(tenant_id = ((current_setting('request.jwt.claims'::text))::jsonb ->> 'tenant'::text))",
            "(tenant_id = auth.uid())",
            "(tenant_id = app.\"odd name\"())",
            "(tenant_id = COALESCE(current_setting('a.b'::text), pgward.tenant()))",
        ] {
            assert_eq!(of(forgeable), Tie::Forgeable, "{forgeable}");
        }
    }

    #[test]
    fn what_only_a_person_can_judge_is_unclear() {
        for unclear in [
            "(tenant_id <> pgward.tenant())",
            "(tenant_id = COALESCE(pgward.tenant(), tenant_id))",
            "(pgward.tenant() = pgward.tenant())",
            "(EXISTS ( SELECT 1 FROM projects p WHERE ((p.id = project) AND (p.tenant_id = pgward.tenant()))))",
            "(NOT (tenant_id = pgward.tenant()))",
            "app.\"not an expression",
        ] {
            assert_eq!(of(unclear), Tie::Unclear, "{unclear}");
        }
    }
}
