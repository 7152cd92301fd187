//! A connection, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

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

    /// Moves the socket to the reactor of the calling thread.
    pub fn rehome(self) -> io::Result<Self> {
        match self {
            Self::Plain(tcp) => TcpStream::from_std(tcp.into_std()?).map(Self::Plain),
            Self::Tls(mut tls) => tls.get_mut().0.rehome().map(|()| Self::Tls(tls)),
        }
    }
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
