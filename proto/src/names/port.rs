//! Ports of control plane and proxy (AG1, PT1).

/// Control plane: xDS and CA in plaintext.
pub const XDS_PLAINTEXT: u16 = 15010;
/// Control plane: xDS and CA over TLS.
pub const XDS_TLS: u16 = 15012;
/// Control plane: metrics, version, debug.
pub const MONITORING: u16 = 15014;
/// Control plane: webhooks over TLS.
pub const WEBHOOKS: u16 = 15017;
/// Proxy: admin, loopback only.
pub const ADMIN: u16 = 15000;
/// Proxy: captured outbound connections.
pub const OUTBOUND: u16 = 15001;
/// Proxy: captured inbound connections.
pub const INBOUND: u16 = 15006;
/// Proxy: HBONE.
pub const HBONE: u16 = 15008;
/// Proxy: merged metrics, probes, agent duties.
pub const AGENT: u16 = 15020;
/// Proxy: readiness, `/healthz/ready`.
pub const READINESS: u16 = 15021;
/// Proxy: DNS.
pub const DNS: u16 = 15053;
/// Proxy: its own metrics, `/stats/prometheus`.
pub const PROMETHEUS: u16 = 15090;
/// The user and group id that the proxy runs as; its traffic is not captured.
pub const PROXY_UID: u32 = 1337;
/// Ports whose protocol is never guessed, because the server speaks first: SMTP, DNS, MySQL, MongoDB (G10).
pub const NEVER_SNIFFED: &[u16] = &[25, 53, 3306, 27017];
