//! The control plane's own certificate for TLS, signed by the mesh's authority and made anew at half of its life.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{KeyPair, SanType};
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio_util::sync::CancellationToken;

use super::{Authority, AuthorityHandle, CaError, DEFAULT_TTL};
use mesh_proto::names::CONTROL_PLANE_HOST;

/// The wait before another try after a failure.
const RETRY: Duration = Duration::from_secs(30);

/// TLS settings of the control plane's secure ports, always of a certificate that holds.
#[derive(Debug, Clone)]
pub struct ServingTls {
    configs: Arc<ArcSwap<Configs>>,
    https: bool,
}

/// The same certificate for two kinds of callers.
#[derive(Debug)]
struct Configs {
    /// Proxies, by HTTP/2, with the mesh's certificates if they have them.
    grpc: Arc<rustls::ServerConfig>,
    /// The API server, by any HTTP, with whatever certificate it has or none.
    https: Arc<rustls::ServerConfig>,
}

impl ServingTls {
    /// Makes the first certificate, for `hosts`, this machine, and the name that proxies expect wherever the control plane is, and a task that keeps it fresh until `stop`.
    pub fn start(authority: AuthorityHandle, hosts: Vec<String>, stop: CancellationToken) -> Result<Self, CaError> {
        let mut changed = authority.subscribe();
        changed.mark_unchanged();
        let (configs, mut renew) = build(&authority.load(), &hosts, SystemTime::now())?;
        let serving = Self { configs: Arc::new(ArcSwap::from_pointee(configs)), https: false };
        let cell = serving.configs.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(renew) => {}
                    changed = changed.changed() => if changed.is_err() { return },
                }
                match build(&authority.load(), &hosts, SystemTime::now()) {
                    Ok((configs, next)) => {
                        cell.store(Arc::new(configs));
                        renew = next;
                        tracing::info!(renew_in_seconds = renew.as_secs(), "the control plane has a new certificate");
                    }
                    Err(error) => {
                        renew = RETRY;
                        tracing::error!(%error, "the control plane's certificate could not be renewed");
                    }
                }
            }
        });
        Ok(serving)
    }

    /// The same for callers that are no proxies: the API server and its webhooks.
    pub fn https(&self) -> Self {
        Self { https: true, ..self.clone() }
    }

    /// The settings of now.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        let configs = self.configs.load();
        if self.https { configs.https.clone() } else { configs.grpc.clone() }
    }
}

/// Settings with a new certificate, and the time until half of its life.
fn build(authority: &Authority, hosts: &[String], now: SystemTime) -> Result<(Configs, Duration), CaError> {
    let crypto = |error: &dyn std::fmt::Display| CaError::Crypto(error.to_string());
    let key = KeyPair::generate()?;
    let mut names =
        vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)), SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST))];
    for host in [CONTROL_PLANE_HOST, "localhost"].into_iter().chain(hosts.iter().map(String::as_str)) {
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into()?),
        });
    }
    let signed = authority.sign(&key, names, DEFAULT_TTL, now)?;
    let half = signed.not_after.duration_since(now).unwrap_or_default() / 2;
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root.clone()).map_err(|error| crypto(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // A workload without a certificate shows a token instead, so none is demanded here.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| crypto(&error))?;
    let mut grpc = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| crypto(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(signed.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .map_err(|error| crypto(&error))?;
    grpc.alpn_protocols = vec![b"h2".to_vec()];
    let mut https = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| crypto(&error))?
        .with_no_client_auth()
        .with_cert_resolver(grpc.cert_resolver.clone());
    https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    for config in [&mut grpc, &mut https] {
        // A resumed session would outlive a changed trust bundle.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    // Never a tight loop, even if the authority is about to expire.
    Ok((Configs { grpc: Arc::new(grpc), https: Arc::new(https) }, half.max(Duration::from_secs(1))))
}
