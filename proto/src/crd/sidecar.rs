//! Sidecar. Source: <https://istio.io/latest/docs/reference/config/networking/sidecar/>.

use super::destination_rule::ConnectionPoolSettings;
use super::gateway::ServerTlsSettings;
use super::virtual_service::Destination;
use super::{NetworkingSelector, Port};

message! {
    /// What a sidecar serves and may reach.
    pub struct Sidecar {
        /// Workloads; none makes it the default of its namespace.
        pub workload_selector: Option<NetworkingSelector>,
        /// Inbound listeners; from the workload's services when empty.
        pub ingress: Vec<IstioIngressListener>,
        /// Outbound listeners.
        pub egress: Vec<IstioEgressListener>,
        /// Limits of inbound connections.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// Traffic to unknown destinations.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// An inbound listener.
    pub struct IstioIngressListener {
        /// Port.
        pub port: Port,
        /// Address to bind.
        pub bind: String,
        /// How traffic reaches it.
        pub capture_mode: CaptureMode,
        /// `127.0.0.1:PORT`, `0.0.0.0:PORT`, `[::1]:PORT`, `unix://PATH`.
        pub default_endpoint: String,
        /// TLS ended by the sidecar instead of mesh TLS.
        pub tls: Option<ServerTlsSettings>,
        /// Limits.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }

    /// An outbound listener.
    pub struct IstioEgressListener {
        /// Port; every port of the hosts when absent.
        pub port: Option<Port>,
        /// Address to bind.
        pub bind: String,
        /// How traffic reaches it.
        pub capture_mode: CaptureMode,
        /// `namespace/host`.
        pub hosts: Vec<String>,
    }

    /// Traffic to unknown destinations.
    pub struct OutboundTrafficPolicy {
        /// Mode.
        pub mode: OutboundMode,
        /// Gateway to send it to.
        pub egress_proxy: Option<Destination>,
    }
}

choice! {
    /// How traffic reaches a listener.
    pub enum CaptureMode {
        /// As the environment says.
        #[default]
        Default,
        /// Redirected by the kernel.
        Iptables,
        /// The listener binds its own port.
        None,
    }

    /// What happens to traffic to unknown destinations.
    pub enum OutboundMode {
        /// Dropped.
        RegistryOnly,
        /// Passed through.
        #[default]
        AllowAny,
        /// Passed through by DNS name.
        AllowAnyDynamicDns,
    }
}
