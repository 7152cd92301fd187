//! Startup parameters: which are allowed, and what they mean for a session.

use super::refuse;
use crate::base::Report;
use crate::wire::startup::Startup;

/// Settings that a client may bring. Spelled as PostgreSQL spells them; matched without case.
const ALLOWED: [&str; 39] = [
    "application_name",
    "bytea_output",
    "check_function_bodies",
    "client_encoding",
    "client_min_messages",
    "constraint_exclusion",
    "cursor_tuple_fraction",
    "DateStyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "enable_hashjoin",
    "enable_indexscan",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "extra_float_digits",
    "force_parallel_mode",
    "geqo",
    "idle_in_transaction_session_timeout",
    "IntervalStyle",
    "jit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "max_parallel_workers_per_gather",
    "pgward.route",
    "plan_cache_mode",
    "random_page_cost",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "TimeZone",
    "work_mem",
];

/// Says why a session is to enter another tenant than its token's.
const BREAK_GLASS: &str = "pgward.break_glass";

/// What a startup packet asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Later ones win; in PostgreSQL's spelling.
    pub settings: Vec<(String, String)>,
    /// To enter another tenant than the token's, and why.
    pub break_glass: Option<String>,
}

pub(super) fn wanted(startup: &Startup) -> Result<Wanted, Report> {
    let mut out = Wanted::default();
    for (name, value) in &startup.parameters {
        match name.as_str() {
            "user" | "database" => {}
            "replication" if is_off(value) => {}
            "replication" => return Err(refuse::replication()),
            "options" => {
                for (name, value) in options(value).ok_or_else(refuse::startup_options)? {
                    set(&mut out, &name, value)?;
                }
            }
            _ => set(&mut out, name, value.clone())?,
        }
    }
    Ok(out)
}

fn is_off(value: &str) -> bool {
    ["false", "off", "no", "0"].iter().any(|off| off.eq_ignore_ascii_case(value))
}

fn set(out: &mut Wanted, name: &str, value: String) -> Result<(), Report> {
    if name == BREAK_GLASS {
        out.break_glass = Some(value);
        return Ok(());
    }
    let known = ALLOWED.iter().find(|known| known.eq_ignore_ascii_case(name));
    let known = known.ok_or_else(|| refuse::startup_parameter(name))?;
    out.settings.retain(|(set, _)| set != known);
    out.settings.push(((*known).to_owned(), value));
    Ok(())
}

/// `-c name=value`, `-cname=value` and `--name=value`, split at blanks that no backslash protects
/// (pg_split_opts in postinit.c).
fn options(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = split(text).into_iter();
    let mut out = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()?
        } else if let Some(rest) = word.strip_prefix("--") {
            rest.to_owned()
        } else {
            word.strip_prefix("-c")?.to_owned()
        };
        let (name, value) = setting.split_once('=')?;
        out.push((name.replace('-', "_"), value.to_owned()));
    }
    Some(out)
}

fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Encodings have several spellings (encnames.c): only letters and digits count.
pub(super) fn same_encoding(one: &str, other: &str) -> bool {
    let plain = |text: &str| {
        let name: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        if name.eq_ignore_ascii_case("unicode") { "utf8".to_owned() } else { name.to_ascii_lowercase() }
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Startup { minor: 0, parameters, unknown_options: Vec::new() }
    }

    fn of(parameters: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        wanted(&startup(parameters)).map(|wanted| wanted.settings).map_err(|report| report.message.into_owned())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let text = r"-c search_path=a,b --statement-timeout=5s -cTimeZone=Asia/Colombo -c application_name=my\ app";
        let expected = [
            pair("search_path", "a,b"),
            pair("statement_timeout", "5s"),
            pair("TimeZone", "Asia/Colombo"),
            pair("application_name", "my app"),
        ];
        assert_eq!(of(&[("user", "x"), ("options", text)]).unwrap(), expected);
        assert!(of(&[("options", "-d 5")]).is_err());
        assert!(of(&[("options", "-c")]).is_err());
    }

    #[test]
    fn a_context_or_another_role_cannot_be_brought_at_startup() {
        for bad in [
            [("pgward.context", "1")],
            [("options", "-c pgward.context=1")],
            [("options", "--role=postgres")],
            [("role", "postgres")],
            [("session_authorization", "postgres")],
            [("replication", "database")],
            [("row_security", "off")],
        ] {
            assert!(of(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(of(&[("replication", "off")]).unwrap(), []);
    }

    #[test]
    fn the_last_word_on_a_setting_counts() {
        assert_eq!(of(&[("timezone", "UTC"), ("TimeZone", "PST")]).unwrap(), [pair("TimeZone", "PST")]);
    }

    #[test]
    fn encodings_are_compared_as_postgresql_reads_them() {
        for spelling in ["UTF8", "utf-8", "'utf-8'", "Unicode", "UTF_8"] {
            assert!(same_encoding("UTF8", spelling), "{spelling}");
        }
        assert!(!same_encoding("UTF8", "LATIN1"));
    }
}
