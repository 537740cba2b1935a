//! Mesh mTLS between a stock Envoy and our proxy, each as client and as server (BX19): HTTP/1.1 and HTTP/2, STRICT and PERMISSIVE, and
//! identities that are not the expected ones.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mesh_controlplane::app::ControlPlane;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Servers;
use mesh_proxy::bootstrap::agent::Agent;
use mesh_proxy::identity::{Root, Token};

use crate::backend::Backend;
use crate::process::{Ads, Api, Envoy, Who};
use crate::{client, plane};

const HOST: &str = "server.default.svc.cluster.local";
const HOST_HTTP2: &str = "server.default.svc.cluster.local:81";

/// Whose proxy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Ours,
    Envoys,
}

/// A running sidecar.
#[derive(Debug)]
pub enum Side {
    Ours(Box<Proxy>),
    Envoys(Box<Envoy>),
}

impl Side {
    pub async fn start(make: Make, plane: &ControlPlane, name: &str, address: Ipv4Addr) -> Self {
        let who = Who::sidecar(name, address.into());
        let side = match make {
            Make::Envoys => {
                let ads = Ads { address: plane.grpc_addr(), api: Api::Delta, token: None, roots: None };
                let envoy = Envoy::start(&who, &ads, plane::identity(plane, "default", name).await);
                envoy.live().await;
                Self::Envoys(Box::new(envoy))
            }
            Make::Ours => {
                let agent = Agent {
                    discovery_address: plane.secure_grpc_addr().to_string(),
                    root: Root::Pem(plane.root_pem()),
                    token: Token::Text(plane.issue_token("default", name, Duration::from_secs(3600))),
                    name: name.to_owned(),
                    service_account: name.to_owned(),
                    ip: IpAddr::V4(address),
                    labels: who.labels.clone(),
                    metadata: [("INTERCEPTION_MODE".to_owned(), "NONE".into())].into_iter().collect(),
                    servers: Servers { admin: Some((Ipv4Addr::LOCALHOST, 0).into()), ..Servers::default() },
                    ..Agent::default()
                };
                let proxy = Proxy::start(agent.bootstrap().unwrap(), Options { workers: 1 }).await.unwrap();
                tokio::time::timeout(plane::DEADLINE, proxy.ready()).await.expect("our proxy is configured");
                Self::Ours(Box::new(proxy))
            }
        };
        assert_eq!(matches!(side, Self::Ours(_)), make == Make::Ours);
        side
    }

    /// For messages.
    async fn log(&self) -> String {
        match self {
            Self::Ours(proxy) => format!("ours: {:?}\n", proxy.admin_addr()),
            Self::Envoys(envoy) => {
                let telling =
                    |name: &str| ["ssl", "no_filter_chain", "connect_fail"].iter().any(|part| name.contains(part));
                let stats = envoy.stats().await;
                let stats: Vec<_> = stats.iter().filter(|(name, count)| **count > 0 && telling(name)).collect();
                format!("Envoy's: {stats:?}\n{}", envoy.log())
            }
        }
    }
}

/// Two workloads with their sidecars; the server's application speaks on loopback.
struct Pair {
    plane: ControlPlane,
    egress: String,
    /// The server's sidecar: HTTP/1.1, then HTTP/2.
    inbound: [String; 2],
    sides: [Side; 2],
    _application: Backend,
}

impl Pair {
    async fn start(client: Make, server: Make) -> Self {
        let application = Backend::start("server").await;
        let (here, there) = (plane::address(), plane::address());
        let port = application.port();
        let yaml = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: server}}
spec: {{selector: {{app: server}}, ports: [{{name: http, port: 80, targetPort: 18080}}, {{name: http2, port: 81, targetPort: 18081}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: server}}
status: {{podIP: {there}, phase: Running}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: client}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress: [{{port: {{number: 15080, protocol: HTTP_PROXY, name: http}}, bind: {here}, hosts: ['*/*']}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress:
  - {{port: {{number: 18080, protocol: HTTP, name: http}}, bind: {there}, defaultEndpoint: '127.0.0.1:{port}'}}
  - {{port: {{number: 18081, protocol: HTTP2, name: http2}}, bind: {there}, defaultEndpoint: '127.0.0.1:{port}'}}
  egress: [{{hosts: ['~/*']}}]
"
        );
        let plane = plane::start(&yaml).await;
        plane.apply(plane::objects(&authentication("STRICT"))).await;
        let sides =
            [Side::start(client, &plane, "client", here).await, Side::start(server, &plane, "server", there).await];
        Self {
            plane,
            egress: format!("{here}:15080"),
            inbound: [format!("{there}:18080"), format!("{there}:18081")],
            sides,
            _application: application,
        }
    }

    /// Calls the server through both proxies until the answer is as wanted.
    async fn until(&self, what: &str, host: &str, wanted: impl Fn(u16, &str) -> bool) {
        plane::eventually(what, || async {
            let (status, body) =
                client::get(&self.egress, host, "/headers").await.map_err(|error| error.to_string())?;
            if wanted(status, &body) {
                return Ok(());
            }
            Err(format!("{status} {body}\n{}{}", self.sides[0].log().await, self.sides[1].log().await))
        })
        .await;
    }

    /// Calls the server's sidecar without TLS.
    async fn plaintext(&self) -> Vec<bool> {
        let mut answered = Vec::new();
        for inbound in &self.inbound {
            answered.push(matches!(client::get(inbound, HOST, "/headers").await, Ok((200, _))));
        }
        answered
    }
}

pub fn authentication(mode: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: default}}, spec: {{mtls: {{mode: {mode}}}}}}}"
    )
}

/// Clients that expect the server to be somebody.
fn expecting(account: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: server}}, spec: {{host: server, trafficPolicy: {{tls: \
         {{mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/default/sa/{account}']}}}}}}}}"
    )
}

/// The server lets only this account in.
pub fn allowing(account: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: server}}, spec: {{selector: {{matchLabels: {{app: \
         server}}}}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]}}]}}}}"
    )
}

/// The request came over mesh mTLS: the server's sidecar tells whose certificate it saw.
fn is_known(status: u16, body: &str) -> bool {
    let forwarded = body.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: ")).unwrap_or_default();
    status == 200
        && forwarded.contains("URI=spiffe://cluster.local/ns/default/sa/client")
        && forwarded.contains("By=spiffe://cluster.local/ns/default/sa/server")
}

async fn check(client: Make, server: Make) {
    let pair = Pair::start(client, server).await;
    pair.until("HTTP/1.1 under STRICT", HOST, |status, body| is_known(status, body) && body.starts_with("HTTP/1.1"))
        .await;
    pair.until("HTTP/2 under STRICT", HOST_HTTP2, |status, body| is_known(status, body) && body.starts_with("HTTP/2"))
        .await;
    assert_eq!(pair.plaintext().await, [false, false], "STRICT takes no plaintext");

    pair.plane.apply(plane::objects(&expecting("somebody"))).await;
    pair.until("a server that is not the expected one", HOST, |status, _| status == 503).await;
    pair.plane.apply(plane::objects(&expecting("server"))).await;
    pair.until("the expected server", HOST, is_known).await;

    pair.plane.apply(plane::objects(&allowing("somebody"))).await;
    pair.until("a client that is not let in", HOST, |status, _| status == 403).await;
    pair.until("nor over HTTP/2", HOST_HTTP2, |status, _| status == 403).await;
    pair.plane.apply(plane::objects(&allowing("client"))).await;
    pair.until("the client that is let in", HOST, is_known).await;
    let open =
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: server}, spec: {rules: [{}]}}";
    pair.plane.apply(plane::objects(open)).await;

    pair.plane.apply(plane::objects(&authentication("PERMISSIVE"))).await;
    plane::eventually("PERMISSIVE takes plaintext", || async {
        let answered = pair.plaintext().await;
        if answered == [true, false] || answered == [true, true] { Ok(()) } else { Err(format!("{answered:?}")) }
    })
    .await;
    pair.until("and mesh TLS", HOST, is_known).await;
    pair.until("over HTTP/2 too", HOST_HTTP2, is_known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_speaks_mesh_tls_to_envoy() {
    check(Make::Ours, Make::Envoys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_speaks_mesh_tls_to_our_proxy() {
    check(Make::Envoys, Make::Ours).await;
}
