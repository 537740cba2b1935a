//! Free ports on loopback that stay ours until a process of ours listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// A port that nobody else is given while this value lives.
///
/// The socket is bound but never listens, so connections go to whoever listens on the port with `SO_REUSEPORT`, as our
/// proxies and demo servers do; the system gives a port that is bound so to no one who asks for any free port.
#[derive(Debug)]
pub struct Port {
    _socket: Socket,
    number: u16,
}

impl Port {
    /// Reserves a port of loopback that the system chooses.
    pub fn reserve() -> io::Result<Self> {
        Self::reserve_at(Ipv4Addr::LOCALHOST)
    }

    /// Reserves a port of an address of this machine that the system chooses.
    pub fn reserve_at(address: Ipv4Addr) -> io::Result<Self> {
        let socket = bound(SocketAddrV4::new(address, 0))?;
        let number = socket.local_addr()?.as_socket_ipv4().map(|address| address.port()).unwrap_or_default();
        Ok(Self { _socket: socket, number })
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// A listener on a reserved port of loopback, or on any for 0.
pub fn listen(port: u16) -> io::Result<tokio::net::TcpListener> {
    let socket = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Tells whether a listener could be opened on a port now: nobody else listens there, not even one that would share it.
pub fn require_free(address: Ipv4Addr, port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a listener that is gone do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    socket.listen(1)
}

fn bound(address: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    Ok(socket)
}
