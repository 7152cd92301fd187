//! Logging in to a server: startup, SCRAM-SHA-256 (RFC 5802, 7677; channel binding by RFC 5929), and what
//! the server says of itself.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::BackendError;
use super::connect::Endpoint;
use super::scram::{Binding, KeyedScram};
use crate::base::{ScramKeys, Secret};
use crate::net::{Stream, end_point_hash};
use crate::wire::backend as answer;

/// What a backend logs in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub role: String,
    pub database: String,
    pub secret: LoginSecret,
}

/// What a login role proves itself by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginSecret {
    Password(Secret),
    /// A client's own, passed through: good where the server's verifier has the same salt and iterations.
    Keys(ScramKeys),
}

/// What the server told about itself.
#[derive(Debug, Clone)]
pub struct Greeting {
    pub pid: u32,
    pub key: Secret,
    pub parameters: BTreeMap<String, String>,
}

/// Login messages are short; a server that sends more is not PostgreSQL.
const MAX_MESSAGE: usize = 64 * 1024;

struct Login<'a> {
    stream: &'a mut Stream,
    endpoint: &'a Endpoint,
    credentials: &'a Credentials,
    input: BytesMut,
}

pub(super) async fn login(
    stream: &mut Stream,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Greeting, BackendError> {
    let mut login = Login { stream, endpoint, credentials, input: BytesMut::new() };
    login.startup().await?;
    login.authenticate().await?;
    login.greeting().await
}

impl Login<'_> {
    fn protocol(&self, what: impl Into<String>) -> BackendError {
        BackendError::Protocol { server: self.endpoint.name(), what: what.into() }
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), BackendError> {
        let sent = match self.stream.write_all(message).await {
            Ok(()) => self.stream.flush().await,
            Err(error) => Err(error),
        };
        sent.map_err(|source| BackendError::Connect { server: self.endpoint.name(), source })
    }

    /// The next message; a refusal becomes an error, notices are passed over.
    async fn receive(&mut self) -> Result<Message, BackendError> {
        loop {
            // Kept because the parser takes the message off the buffer.
            let before = self.input.clone();
            match Message::parse(&mut self.input).map_err(|error| self.protocol(error.to_string()))? {
                Some(Message::ErrorResponse(_)) => return Err(self.refusal(before.get(5..).unwrap_or_default())),
                Some(Message::NoticeResponse(_)) => {}
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), BackendError> {
        if self.input.len() > MAX_MESSAGE {
            return Err(self.protocol("a message is too long"));
        }
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(self.protocol("the connection was closed")),
            Ok(_) => Ok(()),
            Err(source) => Err(BackendError::Connect { server: self.endpoint.name(), source }),
        }
    }

    fn refusal(&self, body: &[u8]) -> BackendError {
        let text = |code| String::from_utf8_lossy(answer::field(body, code).unwrap_or_default()).into_owned();
        BackendError::Refused { server: self.endpoint.name(), sqlstate: text(b'C'), message: text(b'M') }
    }

    async fn startup(&mut self) -> Result<(), BackendError> {
        let parameters = [
            ("user", self.credentials.role.as_str()),
            ("database", self.credentials.database.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", "pgward"),
        ];
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).map_err(|error| self.protocol(error.to_string()))?;
        self.send(&out).await
    }

    async fn authenticate(&mut self) -> Result<(), BackendError> {
        match self.receive().await? {
            Message::AuthenticationOk => Ok(()),
            Message::AuthenticationSasl(body) => {
                let offered: Vec<String> = body
                    .mechanisms()
                    .map(|name| Ok(name.to_owned()))
                    .collect()
                    .map_err(|error| self.protocol(error.to_string()))?;
                self.scram(&offered).await
            }
            // Sending a password readably, or under MD5, would hand it to whoever answers at that address.
            Message::AuthenticationCleartextPassword => Err(self.method("password")),
            Message::AuthenticationMd5Password(_) => Err(self.method("md5")),
            _ => Err(self.method("an unknown one")),
        }
    }

    fn method(&self, method: &'static str) -> BackendError {
        BackendError::Method { server: self.endpoint.name(), method }
    }

    /// Bound to the server's certificate where there is TLS and the server offers it.
    fn binding(&self, offered: &[String]) -> (&'static str, Binding) {
        let Stream::Tls(tls) = &*self.stream else { return (SCRAM_SHA_256, Binding::Unsupported) };
        let (_, session) = tls.get_ref();
        let hash = session.peer_certificates().and_then(|all| all.first()).and_then(|first| end_point_hash(first));
        match hash {
            Some(hash) if offered.iter().any(|name| name == SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, Binding::EndPoint(hash))
            }
            Some(_) => (SCRAM_SHA_256, Binding::Unrequested),
            None => (SCRAM_SHA_256, Binding::Unsupported),
        }
    }

    async fn scram(&mut self, offered: &[String]) -> Result<(), BackendError> {
        let (mechanism, binding) = self.binding(offered);
        if !offered.iter().any(|name| name == mechanism) {
            return Err(self.method("a SASL mechanism other than SCRAM-SHA-256"));
        }
        match self.credentials.secret.clone() {
            LoginSecret::Password(password) => self.scram_by_password(mechanism, binding, &password).await?,
            LoginSecret::Keys(keys) => self.scram_by_keys(mechanism, &binding, keys).await?,
        }
        match self.receive().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.protocol("authentication did not end")),
        }
    }

    async fn scram_by_password(
        &mut self,
        mechanism: &str,
        binding: Binding,
        password: &Secret,
    ) -> Result<(), BackendError> {
        let binding = match binding {
            Binding::Unsupported => ChannelBinding::unsupported(),
            Binding::Unrequested => ChannelBinding::unrequested(),
            Binding::EndPoint(hash) => ChannelBinding::tls_server_end_point(hash),
        };
        let mut scram = ScramSha256::new(password.expose(), binding);
        let challenge = self.begin(mechanism, scram.message()).await?;
        scram.update(&challenge).map_err(|error| self.protocol(error.to_string()))?;
        let last = self.prove(scram.message()).await?;
        scram.finish(&last).map_err(|error| self.protocol(error.to_string()))
    }

    async fn scram_by_keys(&mut self, mechanism: &str, binding: &Binding, keys: ScramKeys) -> Result<(), BackendError> {
        let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
        let (mut scram, first) = KeyedScram::new(keys, binding, nonce);
        let challenge = self.begin(mechanism, first.as_bytes()).await?;
        let answer = scram.answer(&challenge).ok_or_else(|| self.protocol("SCRAM was not begun as it should be"))?;
        let last = self.prove(answer.as_bytes()).await?;
        if scram.proves(&last) { Ok(()) } else { Err(self.protocol("the server did not prove who it is")) }
    }

    /// Chooses a mechanism; gives the server's challenge.
    async fn begin(&mut self, mechanism: &str, message: &[u8]) -> Result<Vec<u8>, BackendError> {
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(mechanism, message, &mut out)
            .map_err(|error| self.protocol(error.to_string()))?;
        self.send(&out).await?;
        match self.receive().await? {
            Message::AuthenticationSaslContinue(body) => Ok(body.data().to_vec()),
            _ => Err(self.protocol("SASL did not continue")),
        }
    }

    /// Answers the challenge; gives the server's last word.
    async fn prove(&mut self, message: &[u8]) -> Result<Vec<u8>, BackendError> {
        let mut out = BytesMut::new();
        frontend::sasl_response(message, &mut out).map_err(|error| self.protocol(error.to_string()))?;
        self.send(&out).await?;
        match self.receive().await? {
            Message::AuthenticationSaslFinal(body) => Ok(body.data().to_vec()),
            _ => Err(self.protocol("SASL did not finish")),
        }
    }

    async fn greeting(&mut self) -> Result<Greeting, BackendError> {
        let mut parameters = BTreeMap::new();
        let mut key = None;
        loop {
            match self.receive().await? {
                Message::ParameterStatus(body) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Message::BackendKeyData(body) => key = Some((body.process_id(), body.secret_key())),
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.protocol("a message that has no place in a login")),
            }
        }
        let (pid, secret) = key.ok_or_else(|| self.protocol("no cancel key was sent"))?;
        if !self.input.is_empty() {
            return Err(self.protocol("there are bytes behind the end of the login"));
        }
        Ok(Greeting { pid: pid.cast_unsigned(), key: Secret::new(secret.to_be_bytes()), parameters })
    }
}
