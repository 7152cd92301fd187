//! One question of pgward's own to a backend that is at rest.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Backend;
use crate::wire::{Header, Origin, backend as answer, frame, frontend};

/// The columns of a row as text.
pub type Row = Vec<Option<String>>;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the server refused: SQLSTATE {sqlstate}: {message}")]
    Server { sqlstate: String, message: String },
    #[error("the server closed the connection")]
    Lost,
    #[error("the server's answer was not what was expected")]
    Garbled,
}

/// Runs a query with these values for its parameters. When this succeeds, or the server refused, the backend is
/// at rest again.
pub async fn ask(backend: &mut Backend, query: &str, values: &[&str]) -> Result<Vec<Row>, AskError> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", &[query.as_bytes(), b"\0\0\0"].concat());
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_bytes())).collect();
    frontend::put_bind(&mut out, b"", &values);
    frontend::put_execute(&mut out);
    out.extend_from_slice(frontend::SYNC);
    let stream = &mut backend.stream;
    stream.write_all(&out).await.map_err(|_| AskError::Lost)?;
    stream.flush().await.map_err(|_| AskError::Lost)?;
    let (mut input, mut rows, mut refused) = (BytesMut::new(), Vec::new(), None);
    loop {
        while let Some(header) = Header::read(&input, Origin::Server).map_err(|_| AskError::Garbled)? {
            if input.len() < header.total {
                break;
            }
            let message = input.split_to(header.total);
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match header.tag {
                b'D' => rows.push(texts(body).ok_or(AskError::Garbled)?),
                b'E' => {
                    let text =
                        |code| String::from_utf8_lossy(answer::field(body, code).unwrap_or_default()).into_owned();
                    refused = Some(AskError::Server { sqlstate: text(b'C'), message: text(b'M') });
                }
                b'Z' if !input.is_empty() => return Err(AskError::Garbled),
                b'Z' => return refused.map_or(Ok(rows), Err),
                // Parse and Bind are done, the command is complete, and what the server may say at any time.
                b'1' | b'2' | b'C' | b'N' | b'S' => {}
                _ => return Err(AskError::Garbled),
            }
        }
        match stream.read_buf(&mut input).await {
            Ok(n) if n > 0 => {}
            _ => return Err(AskError::Lost),
        }
    }
}

fn texts(body: &[u8]) -> Option<Row> {
    let text = |column: Option<&[u8]>| column.map(|text| std::str::from_utf8(text).map(str::to_owned)).transpose();
    answer::row(body)?.into_iter().map(text).collect::<Result<_, _>>().ok()
}
