//! What others have to say by HTTP.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the request failed")]
    Http(#[source] reqwest::Error),
    #[error("the answer is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
}

/// A file that TLS needs, and that is no good.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{} cannot be read", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{} holds no certificate of an authority in PEM", .0.display())]
    Authority(PathBuf),
    #[error("{} and its key are no certificate and key in PEM", .0.display())]
    Identity(PathBuf),
}

impl FetchError {
    /// Without the URL, whose query may hold an API key.
    fn http(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

/// The body of a good answer of at most so many bytes.
pub async fn fetch(client: &reqwest::Client, url: &str, most: usize) -> Result<Vec<u8>, FetchError> {
    let response = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut response = response.map_err(FetchError::http)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(FetchError::http)? {
        if body.len() + chunk.len() > most {
            return Err(FetchError::TooLarge(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The authorities of a PEM file, at least one.
pub fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, FileError> {
    let bad = || FileError::Authority(path.to_owned());
    let found = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|_| bad())?;
    if found.is_empty() { Err(bad()) } else { Ok(found) }
}

/// What a client proves itself by.
pub fn identity(certificate: &Path, key: &Path) -> Result<reqwest::Identity, FileError> {
    let mut pem = read(certificate)?;
    pem.push(b'\n');
    pem.extend(read(key)?);
    reqwest::Identity::from_pem(&pem).map_err(|_| FileError::Identity(certificate.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Read(path.to_owned(), source))
}
