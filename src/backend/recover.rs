//! A client left in the middle of something: bring its backend back to rest.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Backend;
use super::cancel::{CancelTarget, cancel};
use crate::wire::backend::{Transaction, sqlstate};
use crate::wire::flow::{Fate, Owed};
use crate::wire::{Header, Origin, frontend};

/// Ends COPY, batch and transaction, reads all answers, and discards what sessions leave behind: locks,
/// temporary tables, settings. `false`: the backend must be closed.
/// The caller bounds the time and has sent a cancel request if a statement was running.
pub async fn recover(backend: &mut Backend, transaction: Transaction) -> bool {
    let out = ending(backend);
    let transaction = if backend.flow.is_empty() {
        Some(transaction)
    } else {
        if backend.stream.write_all(&out).await.is_err() || backend.stream.flush().await.is_err() {
            return false;
        }
        settle(backend).await.map(|settled| settled.transaction)
    };
    match transaction {
        Some(Transaction::Idle) => clean(backend).await,
        Some(_) => query(backend, b"ROLLBACK").await && clean(backend).await,
        None => false,
    }
}

/// The seed of random() outlives DISCARD ALL: who chose it would know what the next session is given.
async fn clean(backend: &mut Backend) -> bool {
    let seed = format!("SELECT pg_catalog.setseed({})", rand::random_range(-1.0..1.0f64));
    query(backend, b"DISCARD ALL").await && query(backend, seed.as_bytes()).await
}

/// Closes a backend that cannot be brought to rest, and returns when the server has let go of it: until
/// then it counts as open. A statement that still runs is cancelled, again and again, since a request
/// may overtake the statement that it is meant for.
pub async fn dispose(backend: &mut Backend, target: &CancelTarget) {
    // Without this the server would not notice; with it, it ends as soon as it reads.
    let _ = backend.stream.shutdown().await;
    for wait in [20, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400] {
        let closed = async {
            let mut chunk = [0; 4096];
            while matches!(backend.stream.read(&mut chunk).await, Ok(n) if n > 0) {}
        };
        if tokio::time::timeout(Duration::from_millis(wait), closed).await.is_ok() {
            return;
        }
        // If the server is out of reach, the last wait is the end of it.
        let _ = cancel(target).await;
    }
}

/// What ends the COPY and the batch that the client left open.
fn ending(backend: &mut Backend) -> Vec<u8> {
    let mut out = Vec::new();
    if backend.flow.in_copy() {
        backend.flow.copy_ended();
        frontend::put_text(&mut out, b'f', b"the client is gone");
    }
    if backend.flow.unsynced() {
        if !backend.flow.skipping() {
            // A Sync alone would commit what the batch has done. The client had not asked for that, and
            // PostgreSQL rolls it back when a client leaves, so the batch is made to fail first.
            frontend::put_execute_of(&mut out, b"pgward_gone");
            backend.flow.push(Owed::Execute);
        }
        out.extend_from_slice(frontend::SYNC);
        backend.flow.push(Owed::Sync);
    }
    out
}

/// Runs a statement that must succeed and leave no transaction open.
async fn query(backend: &mut Backend, text: &[u8]) -> bool {
    let mut out = Vec::new();
    frontend::put_text(&mut out, b'Q', text);
    backend.flow.push(Owed::Query);
    let sent = backend.stream.write_all(&out).await.is_ok() && backend.stream.flush().await.is_ok();
    sent && settle(backend).await == Some(Settled { transaction: Transaction::Idle, failed: false })
}

/// The backend owes nothing any more.
#[derive(PartialEq, Eq)]
struct Settled {
    transaction: Transaction,
    /// An error was among the answers.
    failed: bool,
}

/// Reads until nothing is owed any more.
async fn settle(backend: &mut Backend) -> Option<Settled> {
    let mut failed = false;
    let mut input = std::mem::take(&mut backend.cut);
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let mut at = 0;
        loop {
            if backend.rest > 0 {
                let skipped = backend.rest.min(input.len() - at);
                backend.rest -= skipped;
                at += skipped;
                if backend.rest > 0 {
                    break;
                }
            }
            while backend.flow.next_own().is_some() {}
            let Some(header) = Header::read(input.get(at..)?, Origin::Server).ok()? else { break };
            let short = matches!(header.tag, b'Z' | b'E');
            if short && input.len() - at < header.total {
                break;
            }
            let end = input.len().min(at + header.total);
            let body = input.get(at + 5..end)?;
            if header.tag == b'E' {
                // FATAL class: the server is about to close.
                if sqlstate(body).is_some_and(|code| code.starts_with(b"57P")) {
                    return None;
                }
                failed = true;
                backend.flow.error(|_| {});
            } else {
                match backend.flow.take(header.tag, body) {
                    Fate::Unexpected => return None,
                    // Anything behind the last answer would be out of step.
                    Fate::Settled(transaction) => {
                        return (end == input.len()).then_some(Settled { transaction, failed });
                    }
                    // A COPY begins only now, and the server would wait for its data for ever.
                    Fate::Forward if header.tag == b'G' => {
                        let out = ending(backend);
                        let sent = backend.stream.write_all(&out).await;
                        if sent.is_err() || backend.stream.flush().await.is_err() {
                            return None;
                        }
                    }
                    Fate::Forward | Fate::Hide => {}
                }
            }
            backend.rest = at + header.total - end;
            at = end;
        }
        input.drain(..at);
        match backend.stream.read(&mut chunk).await {
            Ok(n) if n > 0 => input.extend_from_slice(chunk.get(..n)?),
            _ => return None,
        }
    }
}
