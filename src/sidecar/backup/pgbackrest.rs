//! pgBackRest as a program that is run: what it says, how far it is, and how it ended.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::error::BackupError;
use crate::local::Host;

/// Whoever wants to see how it goes on.
pub trait Progress: Send {
    /// Something else begins.
    fn step(&mut self, what: &str);
    /// How much of it is done, of a hundred.
    fn part(&mut self, percent: f64);
    /// Something that a person should know.
    fn warning(&mut self, text: &str);
}

/// Nobody does.
pub struct Unseen;

impl Progress for Unseen {
    fn step(&mut self, _: &str) {}
    fn part(&mut self, _: f64) {}
    fn warning(&mut self, text: &str) {
        tracing::warn!(pgbackrest = text, "pgbackrest warns");
    }
}

pub(super) struct Pgbackrest<'a> {
    pub host: &'a Host,
    pub program: &'a Path,
    pub conf: PathBuf,
    pub stanza: &'a str,
    /// Where the cluster's server is, for commands that go there.
    pub server: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

/// pgBackRest's own lock is held: by one whose pgward was killed, which ends as soon as it has something to say.
const LOCKED: i32 = 50;
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How it begins to tell of a file that is not as it should be (verify.c).
pub(super) const DAMAGE: [&str; 4] = ["invalid checksum ", "invalid size ", "invalid result ", "file missing "];

struct Ended {
    code: Option<i32>,
    status: String,
    output: String,
    said: String,
}

impl Pgbackrest<'_> {
    /// Runs one of its commands to the end. Dropping the future kills it.
    pub async fn run(
        &self,
        name: &'static str,
        options: &[String],
        progress: &mut dyn Progress,
    ) -> Result<(), BackupError> {
        self.done(name, options, progress).await.map(drop)
    }

    /// The same, for what it has to say.
    pub async fn output(&self, name: &'static str, options: &[String]) -> Result<String, BackupError> {
        self.done(name, options, &mut Unseen).await
    }

    async fn done(
        &self,
        name: &'static str,
        options: &[String],
        progress: &mut dyn Progress,
    ) -> Result<String, BackupError> {
        let begin = Instant::now();
        loop {
            let ended = self.once(name, options, progress).await?;
            match ended.code {
                Some(0) => return Ok(ended.output),
                Some(126 | 127) => {
                    return Err(BackupError::Program { program: self.program.display().to_string(), said: ended.said });
                }
                Some(LOCKED) if begin.elapsed() < LOCK_PATIENCE => tokio::time::sleep(Duration::from_millis(250)).await,
                _ => {
                    let said = if ended.said.is_empty() { "it did not say why".to_owned() } else { ended.said };
                    return Err(BackupError::Pgbackrest { command: name, status: ended.status, said });
                }
            }
        }
    }

    async fn once(&self, name: &str, options: &[String], progress: &mut dyn Progress) -> Result<Ended, BackupError> {
        let failed = |error: std::io::Error| BackupError::Program {
            program: self.program.display().to_string(),
            said: error.to_string(),
        };
        // What serves clients goes first.
        let mut command = tokio::process::Command::from(self.host.command("nice"));
        command.args(["-n", "10", "--"]).arg(self.program);
        command.arg(format!("--config={}", self.conf.display())).arg(format!("--stanza={}", self.stanza));
        // To standard error, of all that it has to say; standard output is for what was asked.
        command.args(["--log-level-console=off", "--log-level-stderr=detail", "--no-log-timestamp"]);
        command.arg(name).args(&self.server).args(options);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let (output, messages) = (child.stdout.take(), child.stderr.take());
        let (output, said) = tokio::join!(read_all(output), follow(messages, progress));
        let status = child.wait().await.map_err(failed)?;
        Ok(Ended { code: status.code(), status: status.to_string(), output, said })
    }
}

async fn read_all(output: Option<impl AsyncRead + Unpin>) -> String {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    if let Some(mut output) = output {
        // What could be read before an error is judged by whoever wants it.
        let _ = output.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes on how far it is, and returns the errors it told of.
async fn follow(messages: Option<impl AsyncRead + Unpin>, progress: &mut dyn Progress) -> String {
    let mut errors: Vec<String> = Vec::new();
    let mut of_error = false;
    let Some(messages) = messages else { return String::new() };
    let mut lines = BufReader::new(messages).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match Message::read(&line) {
            Message::Part(percent) => progress.part(percent),
            Message::Warning(text) => progress.warning(text),
            Message::Error(text) => errors.push(text.to_owned()),
            Message::More(text) if of_error => errors.push(text.to_owned()),
            Message::More(_) => {}
            // Of what was to run it.
            Message::Other if line.starts_with("nice:") || line.starts_with("setpriv:") => errors.push(line.clone()),
            Message::Other => {}
        }
        of_error = match Message::read(&line) {
            Message::Error(_) => true,
            Message::More(_) => of_error,
            _ => false,
        };
    }
    errors.join("; ")
}

#[derive(Debug, PartialEq)]
enum Message<'a> {
    /// A file is done, and so much of all.
    Part(f64),
    Warning(&'a str),
    Error(&'a str),
    /// Goes on with the line before.
    More(&'a str),
    Other,
}

impl<'a> Message<'a> {
    /// A line such as `P01 DETAIL: backup file /data/base/5/1255 (784KB, 3.49%) checksum ...`.
    fn read(line: &'a str) -> Self {
        let text = match line.strip_prefix('P') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start()
            }
            _ => line,
        };
        let said = |level: &str| text.strip_prefix(level)?.strip_prefix(':').map(str::trim);
        if let Some(error) = said("ERROR") {
            return Self::Error(error);
        }
        if let Some(warning) = said("WARN") {
            return Self::Warning(warning);
        }
        // Its verify tells of damaged files as it tells of anything.
        if let Some(damage) = said("INFO").filter(|text| DAMAGE.iter().any(|begin| text.starts_with(begin))) {
            return Self::Warning(damage);
        }
        if let Some(detail) = said("DETAIL").or_else(|| said("INFO")) {
            let percent =
                detail.split_once("%)").and_then(|(before, _)| before.rsplit([' ', '(']).next()?.parse().ok());
            return percent.map_or(Self::Other, Self::Part);
        }
        if text.starts_with(' ') { Self::More(text.trim()) } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_told_apart() {
        for (line, message) in [
            ("P01 DETAIL: backup file /data/base/5/1255 (784KB, 3.49%) checksum 0a1b", Message::Part(3.49)),
            ("P01 DETAIL: restore file /data/base/5/1255 (784KB, 100.00%) checksum 0a1b", Message::Part(100.0)),
            ("P00   INFO: new backup label = 20261122-081642F", Message::Other),
            ("P00   WARN: a timeline switch", Message::Warning("a timeline switch")),
            ("P00  ERROR: [055]: unable to load info file", Message::Error("[055]: unable to load info file")),
            ("WARN: option is not set", Message::Warning("option is not set")),
            (
                "P00   INFO: invalid checksum '20261122-084104F/a.zst'",
                Message::Warning("invalid checksum '20261122-084104F/a.zst'"),
            ),
            ("             HINT: to retain", Message::More("HINT: to retain")),
            ("", Message::Other),
            ("P", Message::Other),
            ("%)", Message::Other),
        ] {
            assert_eq!(Message::read(line), message, "{line}");
        }
    }

    #[tokio::test]
    async fn an_error_of_several_lines_is_told_as_a_whole() {
        struct Seen(Vec<f64>, Vec<String>);
        impl Progress for Seen {
            fn step(&mut self, _: &str) {}
            fn part(&mut self, percent: f64) {
                self.0.push(percent);
            }
            fn warning(&mut self, text: &str) {
                self.1.push(text.to_owned());
            }
        }
        let text = "P01 DETAIL: backup file /a (8KB, 50%) checksum 0\nP00   WARN: careful\n              with this\n\
                    P00  ERROR: [055]: unable\n            HINT: try\nP00   INFO: end\n              of it\n";
        let mut seen = Seen(Vec::new(), Vec::new());
        assert_eq!(follow(Some(text.as_bytes()), &mut seen).await, "[055]: unable; HINT: try");
        assert_eq!((seen.0, seen.1), (vec![50.0], vec!["careful".to_owned()]));
    }
}
