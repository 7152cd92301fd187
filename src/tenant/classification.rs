//! Comments on columns as a source of `pgward.classification`.
//!
//! A comment may hold one tag, from `pgward:` to the end of its line:
//!
//! ```text
//! tag   = "pgward:" class [ "," "hidden from" role { "," role } ]
//! class = a lower-case letter, then up to 62 lower-case letters, digits, "_" or "-"
//! role  = an identifier as in SQL: folded to lower case, or in double quotes
//! ```

use tokio_postgres::Client;

use super::install::{BEGIN, InstallError, atomically, texts};
use crate::sql::{leading_identifier, one_line};

/// Of a class, in the table too, and of a role's name, which PostgreSQL would cut.
const LONGEST: usize = 63;

/// What a comment says of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub class: String,
    pub hidden_from: Vec<String>,
}

/// A tag that a column's comment holds, and what the table has to say to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    pub schema: String,
    pub relation: String,
    pub column: String,
    pub tag: Tag,
    pub change: Change,
}

/// What taking it up comes to. The table never loses anything by it: a comment is written by whoever owns the column's
/// table, and what is hidden is to stay hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    New,
    /// These roles come to those in the table.
    Roles(Vec<String>),
    Nothing,
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Sql(#[from] InstallError),
    #[error("there is no table pgward.classification that this role owns; run pgward install, or come as who did")]
    NotOurs,
    #[error("nothing is imported: {}", .0.join("; "))]
    Wrong(Vec<String>),
}

/// The tags of a database's comments. Nothing is changed.
pub async fn tagged(client: &Client) -> Result<Vec<Tagged>, ImportError> {
    atomically(client, "begin transaction isolation level repeatable read, read only", async || look(client).await)
        .await
}

/// Takes the tags up, in one transaction: all that were found, or none. Returns them as they were before.
pub async fn import(client: &Client) -> Result<Vec<Tagged>, ImportError> {
    atomically(client, BEGIN, async || {
        ours(client).await?;
        let found = look(client).await?;
        for tagged in &found {
            write(client, tagged).await?;
        }
        Ok(found)
    })
    .await
}

/// A table of somebody else's would run that one's triggers.
async fn ours(client: &Client) -> Result<(), ImportError> {
    let sql = "select c.relname::text from pg_catalog.pg_class c join pg_catalog.pg_roles o on o.oid = c.relowner
        where c.oid = pg_catalog.to_regclass('pgward.classification') and c.relkind = 'r'
        and (o.rolname = current_user or o.rolsuper and (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user))";
    match texts(client, sql, &[]).await?.is_empty() {
        true => Err(ImportError::NotOurs),
        false => Ok(()),
    }
}

async fn look(client: &Client) -> Result<Vec<Tagged>, ImportError> {
    ours(client).await?;
    let sql = "select n.nspname::text, c.relname::text, a.attname::text, d.description, p.class, p.hidden_from::text[]
        from pg_catalog.pg_description d
        join pg_catalog.pg_class c on c.oid = d.objoid and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid and not a.attisdropped
        left join pgward.classification p on p.schema = n.nspname and p.relation = c.relname and p.column_name = a.attname
        where d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objsubid > 0 and d.description ~* 'pgward:'
        order by 1, 2, 3";
    let rows = client.query(sql, &[]).await;
    let rows =
        rows.map_err(|source| InstallError::Sql { doing: "reading the comments on columns".to_owned(), source })?;
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for row in &rows {
        let (schema, relation, column): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let place = one_line(&format!("the comment on {schema}.{relation}.{column}"));
        let known = row.get::<_, Option<String>>(4).map(|class| (class, row.get::<_, Vec<String>>(5)));
        match Tag::find(row.get(3)).map(|tag| tag.map(|tag| (change(&tag, known.as_ref()), tag))) {
            Ok(None) => {}
            Ok(Some((Ok(change), tag))) => found.push(Tagged { schema, relation, column, tag, change }),
            Ok(Some((Err(why), _))) | Err(why) => wrong.push(format!("{place} {why}")),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(ImportError::Wrong(wrong)) }
}

fn change(tag: &Tag, known: Option<&(String, Vec<String>)>) -> Result<Change, String> {
    let Some((class, hidden_from)) = known else { return Ok(Change::New) };
    if *class != tag.class {
        return Err(format!("says {}, and pgward.classification says {class}; correct one of them", tag.class));
    }
    let more: Vec<String> = tag.hidden_from.iter().filter(|role| !hidden_from.contains(role)).cloned().collect();
    Ok(if more.is_empty() { Change::Nothing } else { Change::Roles(more) })
}

async fn write(client: &Client, tagged: &Tagged) -> Result<(), InstallError> {
    let Tagged { schema, relation, column, tag, change } = tagged;
    let (sql, roles) = match change {
        Change::Nothing => return Ok(()),
        Change::New => (
            "insert into pgward.classification (schema, relation, column_name, class, hidden_from)
                values ($1::text, $2::text, $3::text, $4, $5::text[]::name[]) returning class",
            &tag.hidden_from,
        ),
        Change::Roles(more) => (
            "update pgward.classification set hidden_from = hidden_from operator(pg_catalog.||) $5::text[]::name[]
                where schema = $1::text and relation = $2::text and column_name = $3::text and class = $4 returning class",
            more,
        ),
    };
    texts(client, sql, &[schema, relation, column, &tag.class, roles]).await.map(|_| ())
}

impl Tag {
    /// The tag in a comment, if there is one, and what is wrong with it.
    pub fn find(comment: &str) -> Result<Option<Self>, String> {
        const MARK: &str = "pgward:";
        let lower = comment.to_ascii_lowercase();
        let mut starts = lower.match_indices(MARK).map(|(at, _)| at);
        let Some(at) = starts.next() else { return Ok(None) };
        if starts.next().is_some() {
            return Err("has several tags; write one".to_owned());
        }
        let rest = comment.get(at + MARK.len()..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default().trim();
        Self::parse(line).map(Some)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (class, roles) = text.split_once(',').map_or((text, None), |(class, rest)| (class, Some(rest)));
        let class = class.trim_end();
        let mut letters = class.bytes();
        let sound = letters.next().is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
            && class.len() <= LONGEST;
        if !sound {
            return Err(format!(
                "has the tag {text:?}, which names no class; write: pgward: personal, hidden from reports"
            ));
        }
        let mut hidden_from: Vec<String> = Vec::new();
        if let Some(rest) = roles {
            let mut words = rest.trim_start();
            for word in ["hidden", "from"] {
                words = words
                    .strip_prefix(word)
                    .filter(|rest| rest.starts_with(char::is_whitespace))
                    .ok_or_else(|| format!("has after {class:?} something else than: hidden from ROLE, ROLE"))?
                    .trim_start();
            }
            loop {
                let (role, rest) = leading_identifier(words)
                    .filter(|(role, _)| role.len() <= LONGEST)
                    .ok_or_else(|| format!("names a role in no way that SQL has: {words:?}"))?;
                if !hidden_from.contains(&role) {
                    hidden_from.push(role);
                }
                match rest.trim_start().strip_prefix(',') {
                    Some(rest) => words = rest.trim_start(),
                    None if rest.trim().is_empty() => break,
                    None => return Err(format!("goes on after its roles with {:?}; a tag ends its line", rest.trim())),
                }
            }
        }
        Ok(Self { class: class.to_owned(), hidden_from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(comment: &str) -> Option<(String, String)> {
        let tag = Tag::find(comment).unwrap_or_else(|wrong| panic!("{comment}: {wrong}"));
        tag.map(|tag| (tag.class, tag.hidden_from.join("|")))
    }

    #[test]
    fn a_tag_is_found_wherever_it_stands() {
        let is = |class: &str, roles: &str| Some((class.to_owned(), roles.to_owned()));
        assert_eq!(found("the customer's address"), None);
        assert_eq!(found("pgward: personal"), is("personal", ""));
        assert_eq!(found("Mail.\nPGWARD:sensitive-2 , hidden  from Reports\nKept."), is("sensitive-2", "reports"));
        assert_eq!(
            found("pgward: personal, hidden from reports, \"Odd \"\"role\"\"\", public,reports"),
            is("personal", "reports|Odd \"role\"|public")
        );
    }

    #[test]
    fn what_is_no_tag_is_refused_and_never_half_read() {
        for wrong in [
            "pgward:",
            "pgward: Personal",
            "pgward: personal hidden from reports",
            "pgward: personal, hidden",
            "pgward: personal, hiddenfrom reports",
            "pgward: personal, hidden from",
            "pgward: personal, hidden from 1st",
            "pgward: personal, hidden from \"open",
            "pgward: personal, hidden from \"\"",
            "pgward: personal, hidden from reports,",
            "pgward: personal, hidden from reports and hr",
            "pgward: personal; pgward: sensitive",
        ] {
            assert!(Tag::find(wrong).is_err(), "{wrong}");
        }
        for long in [format!("pgward: {}", "a".repeat(64)), format!("pgward: a, hidden from {}", "b".repeat(64))] {
            assert!(Tag::find(&long).is_err(), "{long}");
        }
    }

    #[test]
    fn a_comment_adds_roles_and_takes_none() {
        let tag = |roles: &[&str]| Tag {
            class: "personal".to_owned(),
            hidden_from: roles.iter().map(|role| (*role).to_owned()).collect(),
        };
        let known = ("personal".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(change(&tag(&["a"]), None), Ok(Change::New));
        assert_eq!(change(&tag(&["a"]), Some(&known)), Ok(Change::Nothing));
        assert_eq!(change(&tag(&["c", "a"]), Some(&known)), Ok(Change::Roles(vec!["c".to_owned()])));
        assert!(change(&Tag { class: "public".to_owned(), hidden_from: Vec::new() }, Some(&known)).is_err());
    }
}
