//! Where connections come in: the first stage of the path.
//!
//! This file holds the resolved values that [`crate::xds`] makes of Envoy's `Listener`; `socket` opens and accepts,
//! `chain` chooses the filter chain. What follows is [`crate::detect`], [`crate::tls`], then [`crate::http`] or [`crate::tcp`].

pub mod accept;
pub mod chain;
pub mod place;
pub mod socket;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ipnet::IpNet;

use crate::Name;
use crate::http::HttpChain;
use crate::policy::authz::Rbac;
use crate::tcp::TcpChain;
use crate::telemetry::access_log::AccessLog;
use crate::tls::{ServerTls, TlsInfo};

/// A listener as configured: addresses, what to look at before a chain is chosen, and the chains.
#[derive(Debug)]
pub struct Listener {
    /// Unique name.
    pub name: Name,
    /// Where it listens, or, unbound, the original destination it stands for. Several with `additional_addresses`.
    pub addresses: Vec<BindAddress>,
    /// False for a listener that only receives connections handed over by one with [`Listener::use_original_dst`].
    pub bind_to_port: bool,
    /// Hand a connection to the unbound listener of its original destination, if there is one.
    pub use_original_dst: bool,
    /// Inbound or outbound, for metrics and defaults.
    pub direction: Direction,
    /// What is read of a connection before its chain is chosen.
    pub detect: Detect,
    /// The chains, in configured order. At most one matches (most specific first, Envoy's order).
    pub chains: Vec<Arc<FilterChain>>,
    /// Used when no chain matches; without it such a connection is closed.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Logs of connections that no chain took.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// `tcp_backlog_size`; the system's default when absent.
    pub backlog: Option<u32>,
    /// What is counted of its connections, shared by successive configurations of the same name.
    pub stats: Arc<ListenerStats>,
}

/// Connections of a listener: Envoy's `listener.*.downstream_cx_*`.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Accepted so far.
    pub total: AtomicU64,
    /// Open now.
    pub active: AtomicU64,
    /// Open, and idle for so long that only their sockets are kept.
    pub parked: AtomicU64,
    /// Taken by no filter chain.
    pub no_chain: AtomicU64,
    /// Whose TLS handshake failed.
    pub tls_errors: AtomicU64,
}

/// Ranges of ports.
pub type Ports = Vec<std::ops::RangeInclusive<u16>>;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindAddress {
    /// TCP. Port 0 lets the system choose.
    Ip(SocketAddr),
    /// A Unix socket's path.
    Pipe(PathBuf),
}

/// Envoy's `traffic_direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Not said.
    #[default]
    Unspecified,
    /// Towards the workload beside us.
    Inbound,
    /// From the workload beside us.
    Outbound,
}

/// The listener filters that are present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detect {
    /// Restore the original destination (`original_dst`, `SO_ORIGINAL_DST`).
    pub original_dst: bool,
    /// Read a PROXY protocol header (v1, v2) first.
    pub proxy_protocol: bool,
    /// Look at the TLS hello for server name and ALPN.
    pub tls: bool,
    /// Look whether plaintext is HTTP, and which version.
    pub http: bool,
    /// How long to wait for the first bytes; afterwards the connection goes on as opaque (server-first protocols).
    /// `None` waits for ever, as Envoy does with 0.
    pub timeout: Option<Duration>,
    /// At the time-out go on as opaque (true) or close (false).
    pub continue_on_timeout: bool,
    /// Destination ports on which TLS is not looked for (`filter_disabled`), such as server-first ones.
    pub tls_disabled: Ports,
    /// Destination ports on which HTTP is not looked for.
    pub http_disabled: Ports,
}

/// One filter chain: who it is for and what is done.
#[derive(Debug)]
pub struct FilterChain {
    /// Unique in its listener; generated from its position when the configuration names none.
    pub name: Name,
    /// Which connections it takes.
    pub matcher: ChainMatch,
    /// TLS ended here; plaintext when absent.
    pub tls: Option<Arc<ServerTls>>,
    /// Closes a TLS handshake that takes longer (`transport_socket_connect_timeout`).
    pub handshake_timeout: Option<Duration>,
    /// Network-level authorization, in order, before the protocol is served.
    pub rbac: Vec<Arc<Rbac>>,
    /// The protocol.
    pub protocol: ChainProtocol,
}

/// What a chain speaks.
#[derive(Debug)]
pub enum ChainProtocol {
    /// HTTP/1 and HTTP/2.
    Http(Arc<HttpChain>),
    /// Opaque bytes.
    Tcp(Arc<TcpChain>),
}

/// Envoy's `FilterChainMatch`. An empty list or `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// Original destination port.
    pub destination_port: Option<u16>,
    /// Original destination addresses.
    pub destination_ranges: Vec<IpNet>,
    /// Server names: `a.b`, `*.b`; lower case.
    pub server_names: Vec<String>,
    /// `tls` or `raw_buffer`.
    pub transport: Option<Transport>,
    /// ALPNs offered, or `http/1.1`, `h2c` as detected.
    pub application_protocols: Vec<String>,
    /// Source addresses.
    pub source_ranges: Vec<IpNet>,
    /// Source addresses of the connection itself, before PROXY protocol.
    pub direct_source_ranges: Vec<IpNet>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// What the first bytes were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A TLS hello.
    Tls,
    /// Anything else.
    RawBuffer,
}

/// What is known of an accepted connection; one a connection, shared by its requests (same worker: `Rc`).
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in this process.
    pub id: u64,
    /// The listener's name.
    pub listener: Name,
    /// The listener's direction.
    pub direction: Direction,
    /// The peer of the socket.
    pub direct_peer: SocketAddr,
    /// The client as PROXY protocol says, else [`ConnInfo::direct_peer`].
    pub peer: SocketAddr,
    /// Where the client wanted to go: the original destination, else the local address of the socket.
    pub local: SocketAddr,
    /// True if [`ConnInfo::local`] came from the kernel's redirection or PROXY protocol.
    pub local_restored: bool,
    /// The TLS session, once ended here.
    pub tls: Option<Arc<TlsInfo>>,
    /// Server name of the hello, also of TLS that is passed through.
    pub server_name: Option<Arc<str>>,
}

impl ConnInfo {
    /// The client's address without port.
    pub fn peer_ip(&self) -> IpAddr {
        self.peer.ip()
    }
}
