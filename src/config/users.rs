//! The users file, as PgBouncer has it: a user a line, name and password between double quotes, a double
//! quote within them written twice. `;` and `#` begin comments.

use std::collections::BTreeMap;

use super::Problem;
use super::reader::Reader;
use crate::base::StoredPassword;

pub(super) type Users = BTreeMap<String, StoredPassword>;

pub(super) fn users(reader: &mut Reader, at: &str, name: &str) -> Users {
    let Some(bytes) = reader.file(at, name) else { return Users::new() };
    let path = reader.resolve(name).display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => {
            let (users, problems) = parse(&path, &text);
            problems.into_iter().for_each(|problem| reader.problem(problem));
            users
        }
        Err(_) => {
            reader.problem(Problem::new(path, "is not UTF-8"));
            Users::new()
        }
    }
}

/// A problem names the line and never what stands there, which may be a password.
fn parse(path: &str, text: &str) -> (Users, Vec<Problem>) {
    let (mut users, mut problems) = (Users::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        let line = line.trim_start();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let Some((name, password)) = entry(line) else {
            problems.push(Problem::new(at, "is no user").example("\"name\" \"password\""));
            continue;
        };
        if name.is_empty() || name.len() > 63 || name.contains('\0') || password.contains('\0') {
            problems.push(Problem::new(at, "a user's name has 1 to 63 bytes, and neither it nor the password a NUL"));
            continue;
        }
        if password.is_empty() {
            problems.push(Problem::new(at, "the password is empty; no password lets anybody in"));
            continue;
        }
        match StoredPassword::parse(&password) {
            Ok(stored) => {
                if users.insert(name, stored).is_some() {
                    problems.push(Problem::new(at, "the user stands in the file twice"));
                }
            }
            Err(error) => problems.push(Problem::new(at, format!("the password {error}")).example(
                "set password_encryption = 'scram-sha-256', set the password anew and copy rolpassword of pg_authid",
            )),
        }
    }
    (users, problems)
}

fn entry(line: &str) -> Option<(String, String)> {
    let (name, rest) = quoted(line)?;
    // What follows the password is not read, as in PgBouncer.
    let (password, _) = quoted(rest.trim_start())?;
    Some((name, password))
}

/// A text between double quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        out.push_str(before);
        let Some(doubled) = after.strip_prefix('"') else { return Some((out, after)) };
        out.push('"');
        rest = doubled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;

    #[test]
    fn a_users_file_of_pgbouncer_is_read() {
        let verifier = postgres_protocol::password::scram_sha_256(b"pencil");
        let text = format!(
            "; a comment\n\n\"ann\" \"pen\"\"cil\"\n  \"b \"\"ob\"\"\"\t\"{verifier}\" \"ignored\"\n# one more\n"
        );
        let (users, problems) = parse("users.txt", &text);
        assert_eq!(problems, []);
        assert_eq!(users.len(), 2);
        assert_eq!(users["ann"], StoredPassword::Plain(Secret::new("pen\"cil")));
        assert!(matches!(users["b \"ob\""], StoredPassword::Verifier(_)));
    }

    #[test]
    fn what_is_no_user_is_named_by_line_and_not_quoted() {
        let text = "\"ann\" \"md5c53b5e1b6e8c4e1c2a3d7f6b1a2c3d4e\"\nbob secret-one\n\"carl\" \"secret-two\n\"dan\" \"\"\n\"eve\" \"SCRAM-SHA-256$x\"\n\"fay\" \"secret-three\"\n\"fay\" \"secret-four\"\n\"\" \"x\"\n";
        let (users, problems) = parse("users.txt", text);
        let said: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        assert_eq!(users.len(), 1);
        assert_eq!(problems.len(), 7, "{said}");
        for part in
            ["users.txt:1: the password is an MD5 hash", "users.txt:2: is no user", "users.txt:7: the user stands"]
        {
            assert!(said.contains(part), "{part} in\n{said}");
        }
        assert!(!said.contains("secret") && !said.contains("c53b"), "{said}");
    }
}
