//! Connections between pgwards: TLS 1.3, both sides with certificates made out to their nodes' names.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use socket2::TcpKeepalive;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;

use super::tls::{TlsError, certificates, private_key, provider, roots};
use super::{Socket, Stream};
use crate::config::Forwarding;

/// A node that is gone without a word is noticed after so long.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// A ClientHello that has not ended by then is none.
const LONGEST_HELLO: usize = 16 * 1024;

/// When a hello that is not whole yet is looked at again: soon, and later each time.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_SELDOM: Duration = Duration::from_millis(250);

/// How this node shows itself to others, and whom it believes.
#[derive(Clone)]
pub struct Peers {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Peers {
    pub fn new(forwarding: &Forwarding, alpn: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(&forwarding.certificate)?;
        let roots = Arc::new(roots(Some(&forwarding.ca))?);
        let key = private_key(&forwarding.key)?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![alpn.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// To the node of this name, if that is who answers.
    pub async fn connect(&self, node: &str, address: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(node.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&KEEPALIVE)?;
        let tls = TlsConnector::from(Arc::clone(&self.client)).connect(name, Socket::new(tcp)).await?;
        Ok(Stream::Tls(Box::new(tls.into())))
    }

    /// A node that comes in, and the names that its certificate is made out to.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(Stream, Vec<String>)> {
        let tls = TlsAcceptor::from(Arc::clone(&self.server)).accept(Socket::new(tcp)).await?;
        let (_, session) = tls.get_ref();
        let names = session.peer_certificates().and_then(<[_]>::first).map(|first| names(first)).unwrap_or_default();
        Ok((Stream::Tls(Box::new(tls.into())), names))
    }
}

/// The host names that a certificate is made out to.
fn names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// The host name that a client asks for which has begun TLS. Nothing is taken off its connection.
pub async fn host_asked_for(tcp: &TcpStream) -> Option<String> {
    let mut seen = vec![0; LONGEST_HELLO];
    let (mut before, mut pause) = (0, LOOK_AGAIN);
    loop {
        let length = tcp.peek(&mut seen).await.ok()?;
        if length == 0 || length == seen.len() {
            return None;
        }
        // What has been seen already makes the socket readable, so waiting for more is looking again.
        if length > before {
            let mut acceptor = Acceptor::default();
            let mut hello = seen.get(..length)?;
            while !hello.is_empty() {
                acceptor.read_tls(&mut hello).ok()?;
            }
            if let Some(accepted) = acceptor.accept().ok()? {
                return accepted.client_hello().server_name().map(str::to_owned);
            }
            before = length;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_SELDOM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_certificate_are_its_host_names_alone() {
        let key = rcgen::KeyPair::generate().unwrap();
        let names_of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            super::names(certificate.der())
        };
        assert_eq!(names_of(&["colombo", "127.0.0.1", "pg.lk.example.com"]), ["colombo", "pg.lk.example.com"]);
        assert!(names_of(&[]).is_empty() && names(b"no certificate").is_empty());
    }
}
