//! A server that costs next to nothing: it speaks as much of the protocol as proxies need in front of it, and answers
//! every statement with the same row at once. In front of it the proxy is what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PARAMETERS: [(&str, &str); 5] = [
    ("server_version", "15.0"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
    ("is_superuser", "off"),
];

/// A column `abalance` of type integer, and one row of it.
const DESCRIPTION: &[u8] = b"T\0\0\0\x21\0\x01abalance\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x010";
const SELECTED: &[u8] = b"C\0\0\0\x0dSELECT 1\0";
/// How far the log of each of them reaches.
const PLACE: &str = "0/1000000";
pub const READY: &[u8] = b"Z\0\0\0\x05I";

/// Statements by which a client asks for a large result: `large ` and the number of its pieces.
pub const LARGE: &str = "large ";
const PIECE_ROWS: usize = 64;
const ROW_LENGTH: usize = 1024;
/// Bytes of one.
pub const PIECE: usize = PIECE_ROWS * ROW_LENGTH;

/// The bytes that such a statement is answered with.
pub fn large_length(pieces: usize) -> usize {
    DESCRIPTION.len() + pieces * PIECE + SELECTED.len() + READY.len()
}

pub struct Mock {
    pub address: SocketAddr,
    selected: Arc<AtomicUsize>,
}

impl Mock {
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// One that says that it is a replica, which has everything.
    pub fn replica() -> Self {
        Self::start_as(true)
    }

    fn start_as(replica: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let selected = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&selected);
        std::thread::Builder::new()
            .name("mock".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::LocalRuntime::new().unwrap();
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).unwrap();
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let counter = Arc::clone(&counter);
                        tokio::task::spawn_local(async move {
                            // Clients come and go.
                            let _ = Served::new(stream, replica, counter).serve().await;
                        });
                    }
                });
            })
            .unwrap();
        Self { address, selected }
    }

    /// Whether it has served a client's statement.
    pub fn has_served(&self) -> bool {
        self.selected.load(Ordering::Relaxed) > 0
    }
}

struct Served {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    /// What was parsed last, as far as the answer depends on it.
    kind: Kind,
    replica: bool,
    selected: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Kind {
    Discard,
    Settings,
    /// What pgward asks of a backend that it may lend: `pgward.sound()`, and what is wrong with its login.
    Sound,
    Wrong,
    /// What it asks of a server: who it is and how far it has come, and which functions it has.
    Role,
    Functions,
    Other,
}

impl Kind {
    fn of(text: &[u8]) -> Self {
        let has = |part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
        match text {
            _ if text.starts_with(b"DISCARD ALL") => Self::Discard,
            _ if has("set_config") => Self::Settings,
            _ if has("pgward.sound()") => Self::Sound,
            _ if has("pg_has_role") => Self::Wrong,
            _ if has("pg_is_in_recovery") => Self::Role,
            _ if has("provolatile") => Self::Functions,
            _ => Self::Other,
        }
    }
}

impl Served {
    fn new(stream: TcpStream, replica: bool, selected: Arc<AtomicUsize>) -> Self {
        Self { stream, input: vec![0; 64 * 1024], filled: 0, out: Vec::new(), kind: Kind::Other, replica, selected }
    }

    async fn serve(&mut self) -> std::io::Result<()> {
        self.greet().await?;
        loop {
            let mut at = 0;
            while let Some((tag, length)) = message(&self.input[at..self.filled]) {
                let body = at + 5..at + length;
                at += length;
                if tag == b'X' {
                    return Ok(());
                }
                let large = tag == b'Q' && self.input[body.clone()].starts_with(LARGE.as_bytes());
                if large {
                    let text = std::str::from_utf8(&self.input[body.start + LARGE.len()..body.end - 1]).unwrap();
                    let pieces: usize = text.parse().unwrap();
                    self.large(pieces).await?;
                } else {
                    if tag == b'Q' {
                        self.selected.fetch_add(1, Ordering::Relaxed);
                    }
                    answer(tag, &self.input[body], self.replica, &mut self.kind, &mut self.out);
                }
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
            if !self.out.is_empty() {
                self.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            match self.stream.read(&mut self.input[self.filled..]).await? {
                0 => return Ok(()),
                n => self.filled += n,
            }
        }
    }

    /// Lets everybody in.
    async fn greet(&mut self) -> std::io::Result<()> {
        let length = self.stream.read_u32().await? as usize;
        let mut startup = vec![0; length - 4];
        self.stream.read_exact(&mut startup).await?;
        let mut out = b"R\0\0\0\x08\0\0\0\0".to_vec();
        for (name, value) in PARAMETERS {
            let body = format!("{name}\0{value}\0");
            out.extend_from_slice(&super::lean::message(b'S', body.as_bytes()));
        }
        out.extend_from_slice(b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02");
        out.extend_from_slice(READY);
        self.stream.write_all(&out).await
    }

    async fn large(&mut self, pieces: usize) -> std::io::Result<()> {
        self.out.extend_from_slice(DESCRIPTION);
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        let row = [b"D\0\0\x03\xff\0\x01\0\0\x03\xf5".as_slice(), &[b'x'; ROW_LENGTH - 11]].concat();
        let piece = row.repeat(PIECE_ROWS);
        for _ in 0..pieces {
            self.stream.write_all(&piece).await?;
        }
        self.out.extend_from_slice(SELECTED);
        self.out.extend_from_slice(READY);
        Ok(())
    }
}

/// The tag and whole length of the first message, if it is there.
fn message(input: &[u8]) -> Option<(u8, usize)> {
    let [tag, a, b, c, d] = input.first_chunk()?;
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1;
    (input.len() >= length).then_some((*tag, length))
}

fn answer(tag: u8, body: &[u8], replica: bool, kind: &mut Kind, out: &mut Vec<u8>) {
    match tag {
        b'Q' => [DESCRIPTION, ROW, SELECTED, READY].iter().for_each(|part| out.extend_from_slice(part)),
        b'P' => {
            let text = body.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
            *kind = Kind::of(text);
            out.extend_from_slice(b"1\0\0\0\x04");
        }
        b'B' => out.extend_from_slice(b"2\0\0\0\x04"),
        b'D' if body.starts_with(b"P") => out.extend_from_slice(DESCRIPTION),
        b'D' => out.extend_from_slice(b"t\0\0\0\x06\0\0n\0\0\0\x04"),
        b'E' => match kind {
            Kind::Discard => out.extend_from_slice(b"C\0\0\0\x10DISCARD ALL\0"),
            Kind::Role => {
                // Servers that were started in the same moment would be taken for one.
                let (role, started) = if replica { ("true", "2") } else { ("false", "1") };
                let columns = [role, "1", PLACE, PLACE, "16777216", "7", started];
                let mut body = 7u16.to_be_bytes().to_vec();
                for column in columns {
                    body.extend_from_slice(&(column.len() as u32).to_be_bytes());
                    body.extend_from_slice(column.as_bytes());
                }
                out.extend_from_slice(&super::lean::message(b'D', &body));
                out.extend_from_slice(SELECTED);
            }
            Kind::Wrong | Kind::Functions => out.extend_from_slice(b"C\0\0\0\x0dSELECT 0\0"),
            Kind::Sound => {
                out.extend_from_slice(b"D\0\0\0\x0b\0\x01\0\0\0\x01t");
                out.extend_from_slice(SELECTED);
            }
            Kind::Settings | Kind::Other => {
                out.extend_from_slice(ROW);
                out.extend_from_slice(SELECTED);
            }
        },
        b'C' => out.extend_from_slice(b"3\0\0\0\x04"),
        b'S' => out.extend_from_slice(READY),
        _ => {}
    }
}
