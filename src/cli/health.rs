use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ConfigArgument;
use super::failure::Failure;
use super::output::say;

/// Ask the pgward that runs with this configuration whether it is ready
///
/// For container health checks: asks /ready at the configuration's http.address. Exit code 0: ready.
/// 1: not ready, not running, or no http.address.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.outline()?;
    let Some(address) = settings.http else {
        return Err(Failure::said("the configuration has no http.address to ask"));
    };
    super::runtime()?.block_on(async {
        match tokio::time::timeout(Duration::from_secs(5), ready(reachable(address))).await {
            Ok(Ok(200)) => {
                say("ready");
                Ok(())
            }
            Ok(Ok(status)) => Err(Failure::said(format!("not ready: /ready answered {status}"))),
            Ok(Err(error)) => Err(Failure::said(format!("not ready: {address} does not answer: {error}"))),
            Err(_) => Err(Failure::said(format!("not ready: {address} did not answer within 5 s"))),
        }
    })
}

/// `0.0.0.0` is a place to listen at, not one to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The status of `GET /ready`.
pub(super) async fn ready(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && stream.read_buf(&mut answer).await? > 0 {}
    let text = String::from_utf8_lossy(&answer);
    let status = text.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer"))
}
