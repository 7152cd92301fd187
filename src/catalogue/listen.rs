//! A connection that is told of changes, for as long as it lasts.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls};

use crate::topology::Way;

const DEADLINE: Duration = Duration::from_secs(30);

pub struct Listener {
    /// The connection ends with it.
    _client: Client,
    changes: mpsc::Receiver<()>,
    /// Ended when dropped.
    _task: JoinSet<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("no connection to the server that takes writes could be had")]
    Connect(#[source] Error),
    #[error("the server does not tell of changes")]
    Listen(#[source] Error),
    #[error("the server did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
}

impl Listener {
    pub async fn connect(way: &Way) -> Result<Self, ListenError> {
        let connecting = async {
            let (sender, changes) = mpsc::channel(1);
            let mut _task = JoinSet::new();
            let client = match &way.tls {
                Some(tls) => {
                    let (client, connection) = way.config.connect(tls.clone()).await.map_err(ListenError::Connect)?;
                    _task.spawn(drive(connection, sender));
                    client
                }
                None => {
                    let (client, connection) = way.config.connect(NoTls).await.map_err(ListenError::Connect)?;
                    _task.spawn(drive(connection, sender));
                    client
                }
            };
            client.batch_execute("listen pgward_catalogue").await.map_err(ListenError::Listen)?;
            Ok(Self { _client: client, changes, _task })
        };
        tokio::time::timeout(DEADLINE, connecting).await.unwrap_or(Err(ListenError::Timeout))
    }

    /// Waits for a change. Several that come at once are one. `None`: the connection is gone.
    pub async fn changed(&mut self) -> Option<()> {
        self.changes.recv().await
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, changes: mpsc::Sender<()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            // One that waits to be heard says as much as two.
            let _ = changes.try_send(());
        }
    }
}
