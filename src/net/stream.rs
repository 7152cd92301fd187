//! A connection, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::socket::Socket;

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    fn tcp(&self) -> io::Result<&TcpStream> {
        match self {
            Self::Plain(tcp) => Ok(tcp),
            Self::Tls(tls) => tls.get_ref().0.tcp().ok_or_else(|| io::ErrorKind::NotConnected.into()),
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    pub fn peer(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp()?.peer_addr()
    }

    /// Whether the reactor has seen nothing happen on the socket, where that is all there is to look at.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.try_io(Interest::READABLE, || Ok(())).is_err(),
            Self::Tls(_) => false,
        }
    }

    /// What has arrived without anybody waiting for it. `None`: nothing, and the connection stands.
    /// Costs no system call while the reactor has seen nothing happen on the socket.
    pub fn read_unasked(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let mut context = Context::from_waker(Waker::noop());
        let mut buf = ReadBuf::new(buf);
        match Pin::new(self).poll_read(&mut context, &mut buf) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => Some(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Some(Err(error)),
        }
    }

    /// As [`AsyncRead`], in fewer steps where the socket is all there is, and without tokio's yielding: who calls it
    /// again and again has to.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self::Plain(tcp) = self else {
            let mut buf = ReadBuf::new(buf);
            return Pin::new(self).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len());
        };
        loop {
            let len = buf.len();
            if let Some(outcome) = at_once(tcp, Interest::READABLE, len, || {
                rustix::net::recv(&*tcp, &mut *buf, RecvFlags::DONTWAIT).map(|(n, _)| n)
            }) {
                return Poll::Ready(outcome);
            }
            std::task::ready!(tcp.poll_read_ready(cx))?;
        }
    }

    /// As [`AsyncWrite`], in the same way.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Self::Plain(tcp) = self else { return Pin::new(self).poll_write(cx, data) };
        loop {
            let send = || rustix::net::send(&*tcp, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if let Some(outcome) = at_once(tcp, Interest::WRITABLE, data.len(), send) {
                return Poll::Ready(outcome);
            }
            std::task::ready!(tcp.poll_write_ready(cx))?;
        }
    }

    /// Moves the socket to the reactor of the calling thread.
    pub fn rehome(self) -> io::Result<Self> {
        match self {
            Self::Plain(tcp) => TcpStream::from_std(tcp.into_std()?).map(Self::Plain),
            Self::Tls(mut tls) => tls.get_mut().0.rehome().map(|()| Self::Tls(tls)),
        }
    }
}

/// What a system call does that moves up to `most` bytes and does not wait. `None`: it would have to. The reactor is told
/// so when it moved fewer than it could have: then there is no more, and the call need not be made again to learn that.
fn at_once(
    tcp: &TcpStream,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> Result<usize, Errno>,
) -> Option<io::Result<usize>> {
    let mut outcome = None;
    let seen = tcp.try_io(interest, || {
        let result = loop {
            match call() {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        let done = match result {
            Ok(n) => n == 0 || n == most,
            Err(errno) => errno != Errno::WOULDBLOCK,
        };
        if result != Err(Errno::WOULDBLOCK) {
            outcome = Some(result.map_err(io::Error::from));
        }
        if done { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    drop(seen);
    outcome
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
