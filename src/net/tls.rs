//! TLS by rustls: what is shown to clients and what is demanded of servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};

use crate::config::{ListenTls, ServerTls, ServerTlsMode};

/// The ALPN name of the PostgreSQL protocol, which direct TLS demands.
const ALPN: &[u8] = b"postgresql";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: cannot be read as PEM: {reason}")]
    Pem { path: PathBuf, reason: String },
    #[error("{path}: holds no certificate")]
    Empty { path: PathBuf },
    #[error("the certificate and its key cannot be used")]
    Rustls(#[from] Error),
    #[error("the authorities of clients cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error: rustls::pki_types::pem::Error| TlsError::Pem { path: path.to_owned(), reason: error.to_string() };
    let all: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if all.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(all) }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| TlsError::Pem { path: path.to_owned(), reason: error.to_string() })
}

/// What clients are shown.
#[derive(Debug)]
pub struct Listener {
    pub config: Arc<ServerConfig>,
    /// What their logins can be bound to: see [`end_point_hash`].
    pub end_point: Option<Vec<u8>>,
}

/// For the listener: TLS 1.2 and 1.3, the certificate as it is on disk now.
pub fn listener(tls: &ListenTls) -> Result<Listener, TlsError> {
    let certificates = certificates(&tls.certificate)?;
    let end_point = certificates.first().and_then(|first| end_point_hash(first));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, private_key(&tls.key)?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Listener { config: Arc::new(config), end_point })
}

/// For connections to a cluster's servers; `None` where TLS is off.
pub fn connector(tls: &ServerTls) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match tls.mode {
        ServerTlsMode::Off => return Ok(None),
        ServerTlsMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        }
        ServerTlsMode::VerifyFull => builder.with_root_certificates(roots(tls.ca.as_deref())?),
    };
    let config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(Arc::new(config)))
}

/// The authorities in a file, or the system's.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate)?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(store)
}

/// `tls-server-end-point` (RFC 5929, 4.1): a hash of the certificate, which SCRAM binds a login to.
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    use sha2::{Digest, Sha256, Sha384, Sha512};
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    // By the hash of the signature's algorithm, with MD5 and SHA-1 replaced by SHA-256.
    let hash = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        // For other algorithms (Ed25519, RSA-PSS) the RFC names no hash.
        _ => return None,
    };
    Some(hash)
}

/// Mode `require`: encrypted, but to whom is not asked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
