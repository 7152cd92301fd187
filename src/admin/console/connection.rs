//! One console connection: messages in, answers out.

use std::convert::Infallible;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::command::Operator;
use super::extended::{Extended, Fault};
use super::parse::parse;
use super::version::VERSION;
use crate::admin::Control;
use crate::base::{Report, Secret, SqlState, clock};
use crate::net::Stream;
use crate::session::{Admin, tell};
use crate::wire::frontend::query_text;
use crate::wire::table::{self, Formats};
use crate::wire::{Header, Origin, encode, frame};

/// No command needs more.
const MAX_MESSAGE: usize = 64 * 1024;

/// Answers are sent in pieces of about this size, so that many of them at once need no memory.
const PIECE: usize = 64 * 1024;

/// How long the client may leave an answer unread; it would hold up a drain.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves an administrator until they leave, their token ends or pgward drains.
pub async fn serve(admin: Admin, control: Control) {
    let Admin { stream, input, user, expires_at, stay } = admin;
    let deadline = expires_at.and_then(|at| {
        let grace = control.shared.world.load().settings.session.expiry_grace;
        let left = Duration::from_secs(at.saturating_sub(clock::unix_now())).saturating_add(grace);
        // Past what a clock can hold is for ever.
        Instant::now().checked_add(left)
    });
    tracing::info!(user, "a console session began");
    let mut connection = Connection {
        stream,
        input,
        out: BytesMut::new(),
        control,
        operator: Operator { user, stay },
        deadline,
        extended: Extended::default(),
        skipping: false,
    };
    let Err(end) = connection.converse().await;
    let Operator { user, stay } = connection.operator;
    tracing::info!(user, "a console session ended");
    if let Some(stay) = stay {
        match &end {
            End::Client => stay.ends("client", None),
            End::Told(report) => stay.ends("other", Some(report)),
        }
    }
    if let End::Told(report) = end {
        tell(connection.stream, &report).await;
    }
}

struct Connection {
    stream: Stream,
    input: BytesMut,
    out: BytesMut,
    control: Control,
    operator: Operator,
    /// When the token ends that let the user in.
    deadline: Option<Instant>,
    extended: Extended,
    /// After an error, up to the Sync.
    skipping: bool,
}

/// Why it ends.
enum End {
    /// The client left.
    Client,
    /// The client is told.
    Told(Box<Report>),
}

impl From<Report> for End {
    fn from(report: Report) -> Self {
        Self::Told(Box::new(report))
    }
}

impl Connection {
    async fn converse(&mut self) -> Result<Infallible, End> {
        self.greet();
        loop {
            while let Some((tag, body)) = self.message()? {
                self.take(tag, &body).await?;
                self.flush_pieces().await?;
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    /// What clients want to know before the first statement; psql and drivers read the version's start.
    fn greet(&mut self) {
        let version = format!("15.0 (pgward {VERSION})");
        let parameters = [
            ("server_version", version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "Etc/UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "off"),
            ("session_authorization", self.operator.user.as_str()),
            // For target_session_attrs.
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
        ];
        for (name, value) in parameters {
            encode::parameter(&mut self.out, name, value);
        }
        // Some drivers wait for a key. Nothing here runs long enough to be cancelled, so it is nobody's.
        let key = Secret::new(rand::random::<[u8; 4]>());
        encode::cancel_key(&mut self.out, rand::random::<u32>() >> 1, &key);
        self.out.extend_from_slice(encode::READY);
    }

    /// The next message, once it is whole.
    fn message(&mut self) -> Result<Option<(u8, BytesMut)>, End> {
        let header = Header::read(&self.input, Origin::Client).map_err(|error| malformed(error.to_string()))?;
        let Some(header) = header else { return Ok(None) };
        if header.total > MAX_MESSAGE {
            return Err(too_long().into());
        }
        if self.input.len() < header.total {
            return Ok(None);
        }
        let mut message = self.input.split_to(header.total);
        let body = message.split_off(frame::HEADER);
        Ok(Some((header.tag, body)))
    }

    async fn take(&mut self, tag: u8, body: &[u8]) -> Result<(), End> {
        match tag {
            b'X' => Err(End::Client),
            b'S' => {
                self.skipping = false;
                self.extended.sync();
                self.out.extend_from_slice(encode::READY);
                Ok(())
            }
            b'H' => self.flush().await,
            _ if self.skipping => Ok(()),
            b'Q' => self.simple_query(body).await,
            b'P' | b'B' | b'D' | b'C' | b'E' => {
                let Self { extended, out, control, operator, .. } = self;
                match extended.take(tag, body, out, control, operator).await {
                    Ok(()) => Ok(()),
                    Err(Fault::Malformed) => Err(out_of_place(tag).into()),
                    Err(Fault::Error(report)) => {
                        self.skipping = true;
                        encode::report(&mut self.out, &report);
                        Ok(())
                    }
                }
            }
            b'F' => {
                encode::report(&mut self.out, &function_call());
                self.out.extend_from_slice(encode::READY);
                Ok(())
            }
            // Copy data outside of a COPY is ignored, as PostgreSQL does.
            b'd' | b'c' | b'f' => Ok(()),
            other => Err(out_of_place(other).into()),
        }
    }

    async fn simple_query(&mut self, body: &[u8]) -> Result<(), End> {
        let text = query_text(body).ok_or_else(|| out_of_place(b'Q'))?;
        self.extended.simple_query();
        match parse(text) {
            Ok(commands) if commands.is_empty() => self.out.extend_from_slice(encode::EMPTY),
            Ok(commands) => {
                for command in commands {
                    match command.run(&self.control, &self.operator).await {
                        Ok(rows) => {
                            let formats = Formats::default();
                            if let Some(columns) = command.columns() {
                                table::columns(&mut self.out, columns, &formats);
                            }
                            for row in rows {
                                table::row(&mut self.out, &row, &formats);
                                self.flush_pieces().await?;
                            }
                            encode::complete(&mut self.out, command.tag());
                        }
                        Err(report) => {
                            encode::report(&mut self.out, &report);
                            break;
                        }
                    }
                }
            }
            Err(report) => encode::report(&mut self.out, &report),
        }
        self.out.extend_from_slice(encode::READY);
        Ok(())
    }

    /// Waits for more of the client. Only here does a drain or the token's end stop it, so that no answer
    /// is cut short, least of all that to SHUTDOWN.
    async fn fill(&mut self) -> Result<(), End> {
        let deadline = self.deadline;
        let expiry = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.control.draining.cancelled() => Err(draining().into()),
            () = expiry => Err(expired().into()),
            read = self.stream.read_buf(&mut self.input) => match read {
                Ok(n) if n > 0 => Ok(()),
                _ => Err(End::Client),
            },
        }
    }

    async fn flush_pieces(&mut self) -> Result<(), End> {
        if self.out.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = self.out.split();
        let sending = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Client),
        }
    }
}

fn malformed(what: String) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, what)
        .because("protocol")
        .hint("The client's messages are not PostgreSQL protocol version 3; the connection is closed.")
}

fn out_of_place(tag: u8) -> Report {
    malformed(format!("a message of type '{}' is malformed or out of place", tag.escape_ascii()))
}

fn too_long() -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "a message to the console is longer than 64 KiB")
        .because("protocol")
        .hint("The console takes its own commands only; connect to a tenant's database for SQL.")
}

fn function_call() -> Report {
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, "the console has no functions to call")
        .hint("SHOW HELP lists its commands.")
}

fn draining() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "pgward is shutting down").because("draining").hint("Connect again.")
}

fn expired() -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, "the session's token has expired")
        .because("expired")
        .hint("Connect again with a fresh token.")
}
