//! Fuzz targets: bytes in, and what must hold whatever they are. A target panics when something does not.
//!
//! Each has seeds in `corpus/NAME/` ([`seeds`]); the same folder keeps inputs that once broke something. They run as ordinary tests, and
//! `cargo xtask fuzz` lets libFuzzer go on from them.

pub mod config;
pub mod connection;
pub mod path;
pub mod request;
pub mod seeds;

/// What is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The TLS hello, read without ending TLS.
    TlsHello,
    /// The PROXY protocol header.
    ProxyProtocol,
    /// What a listener finds out of the first bytes of a connection.
    Detection,
    /// Paths made canonical.
    Normalization,
    /// Resources of a control plane.
    Xds,
    /// A whole proxy: bytes of a client on a connection, an application behind.
    Request,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::TlsHello, Self::ProxyProtocol, Self::Detection, Self::Normalization, Self::Xds, Self::Request];

    /// Its name on command lines and as a folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsHello => "tls-hello",
            Self::ProxyProtocol => "proxy-protocol",
            Self::Detection => "detection",
            Self::Normalization => "normalization",
            Self::Xds => "xds",
            Self::Request => "request",
        }
    }

    /// The target of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Tries one input.
    pub fn run(self, data: &[u8]) {
        match self {
            Self::TlsHello => connection::tls_hello(data),
            Self::ProxyProtocol => connection::proxy_protocol(data),
            Self::Detection => connection::detection(data),
            Self::Normalization => path::normalization(data),
            Self::Xds => config::xds(data),
            Self::Request => request::request(data),
        }
    }
}
