//! A relay that passes bytes on and does nothing else: what is left of a proxy that reads once when something has come,
//! writes that at once, and waits by `epoll`. It keeps nothing, and each client has a connection to the server of its own.
//! It waits for whoever does not read, so it is for short messages alone.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What the benchmark starts itself with to be one.
pub const FLAG: &str = "--relay";

const CHUNK: usize = 64 * 1024;
const EVENTS: usize = 1024;
/// The listener's number; sockets have those of their places.
const LISTENER: u64 = u64::MAX;

/// Until it is killed. `words`: the ports that it listens on and passes on to.
pub fn run(words: &[String]) -> ! {
    let [listen, server] = words else { panic!("{FLAG} takes two ports") };
    let [listen, server] = [listen, server].map(|word| SocketAddr::from((Ipv4Addr::LOCALHOST, word.parse().unwrap())));
    let listener = TcpListener::bind(listen).unwrap();
    listener.set_nonblocking(true).unwrap();
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&watch, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN).unwrap();
    // Those of a client and of its server stand next to each other.
    let mut sockets: Vec<Option<OwnedFd>> = Vec::new();
    let (mut events, mut buffer) = (Vec::with_capacity(EVENTS), vec![0; CHUNK]);
    loop {
        events.clear();
        match epoll::wait(&watch, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => accept(&listener, server, &watch, &mut sockets),
                place => {
                    // Where the end has come too, a short read is not all there is.
                    let flags = event.flags;
                    let ends = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP);
                    pass(&mut sockets, usize::try_from(place).unwrap(), &mut buffer, ends);
                }
            }
        }
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, watch: &OwnedFd, sockets: &mut Vec<Option<OwnedFd>>) {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("accept: {error}"),
        };
        for socket in [client, TcpStream::connect(server).unwrap()] {
            socket.set_nodelay(true).unwrap();
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(watch, &socket, epoll::EventData::new_u64(sockets.len() as u64), flags).unwrap();
            sockets.push(Some(socket.into()));
        }
    }
}

fn pass(sockets: &mut [Option<OwnedFd>], from: usize, buffer: &mut [u8], ends: bool) {
    let to = from ^ 1;
    loop {
        let (Some(source), Some(target)) = (&sockets[from], &sockets[to]) else { return };
        let (read, ended) = match recv(source, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((n, _)) => (n, n == 0),
            Err(Errno::AGAIN) => return,
            Err(_) => (0, true),
        };
        if ended || !send_all(target, &buffer[..read]) {
            (sockets[from], sockets[to]) = (None, None);
            return;
        }
        if read < buffer.len() && !ends {
            return;
        }
    }
}

fn send_all(target: &OwnedFd, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        match send(target, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => data = &data[n..],
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(target, PollFlags::OUT)], None)),
            Err(_) => return false,
        }
    }
    true
}
