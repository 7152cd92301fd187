//! From a host name to a backend that is logged in.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::login::{self, Credentials, Greeting};
use super::{Backend, BackendError};
use crate::base::{Region, ServerName};
use crate::config::Server;
use crate::net::{Socket, Stream};
use crate::wire::flow::Flow;

/// Where a server is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub server: ServerName,
    pub region: Region,
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<ClientConfig>>,
    pub timeout: Duration,
}

impl Endpoint {
    pub fn new(server: &Server, tls: Option<Arc<ClientConfig>>, timeout: Duration) -> Self {
        let Server { name, region, host, port, .. } = server.clone();
        Self { server: name, region, host, port, tls, timeout }
    }

    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether it is the same server, however it is reached.
    pub fn same_place(&self, other: &Self) -> bool {
        (&self.server, &self.region, &self.host, self.port) == (&other.server, &other.region, &other.host, other.port)
    }
}

/// Opens a backend within the endpoint's time limit.
pub async fn open(endpoint: &Endpoint, credentials: &Credentials) -> Result<(Backend, Greeting), BackendError> {
    let connected = async {
        let mut stream = stream(endpoint).await?;
        let greeting = login::login(&mut stream, endpoint, credentials).await?;
        let backend = Backend {
            stream,
            pid: greeting.pid,
            key: greeting.key.clone(),
            born: Instant::now(),
            flow: Flow::default(),
            rest: 0,
            cut: Vec::new(),
        };
        Ok((backend, greeting))
    };
    within(endpoint, connected).await
}

pub(super) async fn within<T>(
    endpoint: &Endpoint,
    work: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    match tokio::time::timeout(endpoint.timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(BackendError::Timeout { server: endpoint.name(), seconds: endpoint.timeout.as_secs() }),
    }
}

/// TCP, and TLS on top where the endpoint says so.
pub(super) async fn stream(endpoint: &Endpoint) -> Result<Stream, BackendError> {
    let connect = |source| BackendError::Connect { server: endpoint.name(), source };
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(connect)?;
    tcp.set_nodelay(true).map_err(connect)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(connect)?;
    match &endpoint.tls {
        None => Ok(Stream::Plain(tcp)),
        Some(config) => encrypt(endpoint, tcp, Arc::clone(config)).await,
    }
}

async fn encrypt(endpoint: &Endpoint, mut tcp: TcpStream, config: Arc<ClientConfig>) -> Result<Stream, BackendError> {
    let failed = |source| BackendError::Tls { server: endpoint.name(), source };
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(failed)?;
    // One byte and not more: what else came in the clear would be read as if it had been encrypted
    // (CVE-2021-23222).
    if tcp.read_u8().await.map_err(failed)? != b'S' {
        return Err(BackendError::NoTls { server: endpoint.name() });
    }
    let name = pki_types::ServerName::try_from(endpoint.host.clone())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let tls = TlsConnector::from(config).connect(name, Socket::new(tcp)).await.map_err(failed)?;
    Ok(Stream::Tls(Box::new(tls.into())))
}
