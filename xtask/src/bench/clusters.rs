//! What clusters cost: resident memory of a sidecar that holds many of one endpoint each.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::peer::{Peer, Programs};
use super::{settled, system};

/// How many clusters.
const COUNTS: [u32; 3] = [10, 1_000, 5_000];

/// Measures, and returns a Markdown table. HAProxy has no such bootstrap.
pub fn table(programs: &Programs, home: &Path, peers: &[Peer]) -> Result<String> {
    let mut text = String::from(
        "| proxy | RSS MiB with 10 clusters | 1,000 | KiB each | 5,000 | KiB each |\n|---|---|---|---|---|---|\n",
    );
    for peer in peers.iter().filter(|peer| **peer != Peer::Haproxy) {
        let [few, many, most] = COUNTS.map(|count| resident(programs, home, *peer, count));
        let (few, many, most) = (few?, many?, most?);
        let each = |mib: f64, count: u32| (mib - few) * 1024.0 / f64::from(count - COUNTS[0]);
        let row = format!(
            "| {peer:?} | {few:.1} | {many:.1} | {:.1} | {most:.1} | {:.1} |",
            each(many, COUNTS[1]),
            each(most, COUNTS[2])
        );
        println!("{row}");
        writeln!(text, "{row}")?;
    }
    Ok(text)
}

fn resident(programs: &Programs, home: &Path, peer: Peer, count: u32) -> Result<f64> {
    let folder = home.join("run");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let [admin] = system::free_ports()?;
    let config = folder.join("clusters.yaml");
    std::fs::write(&config, bootstrap(admin, count))?;
    let mut proxy = programs.start(peer, "clusters", &config, &folder)?;
    proxy.wait_for(admin)?;
    settled(&[proxy])
}

/// Named as a control plane of Istio's names them, with the metadata that it gives them.
fn bootstrap(admin: u16, count: u32) -> String {
    let mut text = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\nstatic_resources:\n  clusters:\n"
    );
    for index in 0..count {
        let host = format!("s{index}.shop.svc.cluster.local");
        text += &format!(
            "  - name: outbound|80||{host}\n    type: STATIC\n    connect_timeout: 5s\n    lb_policy: LEAST_REQUEST\n    \
             metadata: {{filter_metadata: {{istio: {{services: [{{host: {host}, name: s{index}, namespace: shop}}]}}}}}}\n    \
             load_assignment: {{cluster_name: outbound|80||{host}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
             {{address: 10.{}.{}.{}, port_value: 80}}}}}}}}]}}]}}\n",
            index >> 16,
            index >> 8 & 255,
            index & 255
        );
    }
    text
}
