//! Cancelling: a connection of its own that names a backend and closes (protocol documentation, 55.2.8).

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::BackendError;
use super::connect::{Endpoint, stream, within};
use crate::base::Secret;
use crate::wire::startup::cancel_request;

/// Which backend to cancel, and where.
#[derive(Debug)]
pub struct CancelTarget {
    pub endpoint: std::sync::Arc<Endpoint>,
    pub pid: u32,
    pub key: Secret,
    /// A request was sent of which nobody knows when the server carries it out.
    pub unsettled: AtomicBool,
}

/// Marks the backend unless the request comes to its end.
struct Sent<'a>(&'a CancelTarget);

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.unsettled.store(true, Ordering::Relaxed);
    }
}

/// Sends the request and waits for the server to close: by then the signal has been sent, so a statement
/// that starts on the backend afterwards is not hit.
pub async fn cancel(target: &CancelTarget) -> Result<(), BackendError> {
    let endpoint = &target.endpoint;
    let send = async {
        let mut stream = stream(endpoint).await?;
        let mut request = BytesMut::new();
        cancel_request(target.pid, &target.key, &mut request);
        let sent = Sent(target);
        let done = async {
            stream.write_all(&request).await?;
            stream.flush().await?;
            // The server answers nothing; an error here is the close that was awaited.
            let _ = stream.read_u8().await;
            std::mem::forget(sent);
            Ok(())
        };
        done.await.map_err(|source| BackendError::Connect { server: endpoint.name(), source })
    };
    within(endpoint, send).await
}
