//! Opening listening sockets, and asking the kernel where a redirected connection wanted to go.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Connections that wait to be accepted, unless configured.
const BACKLOG: i32 = 4096;

/// Opens one socket for each worker on the same address; with port 0 the system chooses one port for all.
pub fn open(address: SocketAddr, count: usize, backlog: Option<u32>) -> io::Result<Vec<std::net::TcpListener>> {
    let backlog = backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(BACKLOG);
    let mut sockets = Vec::with_capacity(count);
    let mut actual = address;
    for _ in 0..count.max(1) {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&actual.into())?;
        if actual.port() == 0
            && let Some(bound) = socket.local_addr()?.as_socket()
        {
            actual = bound;
        }
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    // Listen only when all are bound, so that a connection is never given to a socket that is closed again by an error.
    for socket in &sockets {
        socket.listen(backlog)?;
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

/// Where a connection that the kernel redirected wanted to go; `None` if it was not redirected.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let original = if local.is_ipv4() {
        let raw = getsockopt(stream, sockopt::OriginalDst).ok()?;
        SocketAddr::from((std::net::Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port)))
    } else {
        let raw = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        SocketAddr::from((std::net::Ipv6Addr::from(raw.sin6_addr.s6_addr), u16::from_be(raw.sin6_port)))
    };
    (original != local).then_some(original)
}

/// Settings of an accepted or dialed connection.
pub fn tune(stream: &TcpStream) {
    // A peer that is gone already makes these fail; the next read tells.
    let _ = SockRef::from(stream).set_tcp_nodelay(true);
}
