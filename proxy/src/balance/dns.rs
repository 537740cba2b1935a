//! Clusters whose endpoints a resolver finds. Runs on the control thread; a failed lookup keeps what was found before.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::cluster::{Cluster, Discovery, DnsFamily};
use super::endpoint::{Address, EndpointSpec};

/// Wait after a lookup that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Resolves the names of `specs` again and again for as long as the cluster lives; `told` hears of every change.
pub async fn resolve(cluster: Weak<Cluster>, specs: Vec<EndpointSpec>, told: Arc<Notify>) {
    let mut last: Option<Vec<(Address, u32)>> = None;
    loop {
        let Some(family) = cluster.upgrade().map(|cluster| cluster.config.dns_family) else { return };
        let found = lookup_all(&specs, family).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let complete = found.is_some();
        if let Some(mut found) = found {
            if cluster.config.discovery == Discovery::LogicalDns {
                found.truncate(1);
            }
            found.sort_by_key(|spec| spec.address.to_string());
            let key: Vec<_> = found.iter().map(|spec| (spec.address.clone(), spec.weight)).collect();
            if last.as_ref() != Some(&key) {
                last = Some(key);
                cluster.apply(found);
                told.notify_one();
            }
        } else if !cluster.is_warm() {
            // Unknown names must not hold up the rest of the configuration.
            cluster.apply(Vec::new());
            told.notify_one();
        }
        let wait = if complete { cluster.config.dns_refresh } else { RETRY };
        drop(cluster);
        tokio::time::sleep(wait).await;
    }
}

/// All addresses of all names, or `None` if no name could be resolved.
async fn lookup_all(specs: &[EndpointSpec], family: DnsFamily) -> Option<Vec<EndpointSpec>> {
    let mut found = Vec::new();
    let mut resolved = specs.is_empty();
    for spec in specs {
        let Address::Name(name, port) = &spec.address else {
            found.push(spec.clone());
            resolved = true;
            continue;
        };
        match tokio::net::lookup_host((&**name, *port)).await {
            Ok(addresses) => {
                resolved = true;
                for address in select(addresses.collect(), family) {
                    let hostname = spec.hostname.clone().or_else(|| Some(Arc::clone(name)));
                    found.push(EndpointSpec { address: Address::Ip(address), hostname, ..spec.clone() });
                }
            }
            Err(error) => tracing::warn!(%name, %error, "cannot resolve"),
        }
    }
    resolved.then_some(found)
}

fn select(addresses: Vec<std::net::SocketAddr>, family: DnsFamily) -> Vec<std::net::SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| matches!(address.ip(), IpAddr::V4(_)));
    match family {
        DnsFamily::V4 => v4,
        DnsFamily::V6 => v6,
        DnsFamily::All => v4.into_iter().chain(v6).collect(),
        DnsFamily::V4Preferred if v4.is_empty() => v6,
        DnsFamily::V4Preferred => v4,
        DnsFamily::Auto if v6.is_empty() => v4,
        DnsFamily::Auto => v6,
    }
}
