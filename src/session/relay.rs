//! Moving bytes: what one read brought is looked at message by message, and what goes on goes on in as
//! few pieces as it came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::net::Stream;

/// A run through `input` that composes what is to be written. As long as everything is forwarded as it
/// is, nothing is copied.
pub(super) struct Relay<'a> {
    input: &'a [u8],
    at: usize,
    /// Bytes to forward that are not in `out` yet.
    run: (usize, usize),
    out: &'a mut Vec<u8>,
}

impl<'a> Relay<'a> {
    pub fn new(input: &'a [u8], out: &'a mut Vec<u8>) -> Self {
        Self { input, at: 0, run: (0, 0), out }
    }

    /// What has not been looked at.
    pub fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    pub fn consumed(&self) -> usize {
        self.at
    }

    /// Passes on the next `n` bytes.
    #[inline]
    pub fn forward(&mut self, n: usize) {
        if self.run.1 != self.at {
            self.settle();
            self.run = (self.at, self.at);
        }
        self.at += n;
        self.run.1 = self.at;
    }

    /// Leaves out the next `n` bytes.
    pub fn skip(&mut self, n: usize) {
        self.at += n;
    }

    /// Where bytes of pgward's own go, between those forwarded.
    pub fn own(&mut self) -> &mut Vec<u8> {
        self.settle();
        self.out
    }

    fn settle(&mut self) {
        let (from, to) = self.run;
        self.out.extend_from_slice(self.input.get(from..to).unwrap_or_default());
        self.run = (self.at, self.at);
    }

    /// How much there is to write so far.
    pub fn written(&self) -> usize {
        self.out.len() + self.run.1 - self.run.0
    }

    /// Everything to write, in one piece.
    pub fn finish(mut self) -> &'a [u8] {
        if self.out.is_empty() {
            return self.input.get(self.run.0..self.run.1).unwrap_or_default();
        }
        self.settle();
        self.out
    }
}

/// What a peer could not take yet. Holds no memory while it is clear.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pending: Vec<u8>,
    at: usize,
    /// TLS may hold written bytes back until it is flushed.
    unflushed: bool,
}

impl Sink {
    pub fn is_clear(&self) -> bool {
        self.pending.is_empty() && !self.unflushed
    }

    /// Bytes for later; [`Sink::flush`] sends them.
    pub fn queue(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// Writes what goes now and keeps the rest.
    pub fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        if self.pending.is_empty() {
            while !data.is_empty() {
                match stream.poll_send(cx, data) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n)) => data = data.get(n..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
            self.unflushed = stream.is_tls();
        }
        self.pending.extend_from_slice(data);
        if self.unflushed { self.flush(stream, cx).map(drop) } else { Ok(()) }
    }

    /// Sends on. `true`: something moved.
    pub fn flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while let Some(data) = self.pending.get(self.at..).filter(|data| !data.is_empty()) {
            match stream.poll_send(cx, data) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => self.at += n,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(moved),
            }
            moved = true;
            self.unflushed = stream.is_tls();
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.at = 0;
        }
        if self.unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
            moved = true;
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forwarded_untouched_is_not_copied() {
        let input = b"abcdef".to_vec();
        let mut out = Vec::new();
        let mut relay = Relay::new(&input, &mut out);
        relay.forward(2);
        relay.forward(3);
        assert_eq!(relay.written(), 5);
        assert_eq!(relay.rest(), b"f");
        let written = relay.finish();
        assert_eq!(written, b"abcde");
        assert!(std::ptr::eq(written.as_ptr(), input.as_ptr()));
    }

    #[test]
    fn own_bytes_and_gaps_keep_their_places() {
        let mut out = Vec::new();
        let mut relay = Relay::new(b"abcdef", &mut out);
        relay.forward(1);
        relay.own().extend_from_slice(b"XY");
        relay.skip(2);
        relay.forward(1);
        relay.skip(1);
        relay.forward(1);
        assert_eq!(relay.finish(), b"aXYdf");
    }
}
