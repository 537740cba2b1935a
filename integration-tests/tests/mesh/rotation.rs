//! Certificates change while everybody talks, and nobody notices: workloads', the authority's, the control plane's own.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use integration_tests::eventually::DEADLINE;
use integration_tests::tcp::TcpLoad;
use integration_tests::{Crowd, Mesh, eventually};
use mesh_controlplane::ca::Authority;

use super::object;

/// Certificates are renewed at half of it.
const LIFE: Duration = Duration::from_secs(4);

/// How often a workload has asked for a certificate.
async fn requests(mesh: &Mesh, workload: &str) -> Result<u64> {
    let metrics = mesh.metrics(workload).await?;
    Ok(metrics.sum("istio_agent_num_outgoing_requests", |_| true) as u64)
}

/// Waits until both sides have new certificates, as many times.
async fn rotated(mesh: &Mesh, times: u64) -> Result<()> {
    let both = ["client", "server-v1"];
    let wanted = [requests(mesh, both[0]).await? + times, requests(mesh, both[1]).await? + times];
    for (workload, wanted) in both.into_iter().zip(wanted) {
        // A request that was under way when this began tells nothing.
        eventually(DEADLINE * 2, async || {
            let found = requests(mesh, workload).await?;
            anyhow::ensure!(found > wanted, "{workload} has asked {found} times, not more than {wanted}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Load of every kind; `fresh` makes the sidecar connect anew for each request.
async fn everybody(mesh: &Mesh) -> Result<(Crowd, [TcpLoad; 2], meshctl::local::ports::Port)> {
    let once = object(
        "DestinationRule",
        "default",
        "fresh",
        "{host: fresh, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}",
    );
    mesh.case("fresh", "server", &once).await?;
    let (port, address) = mesh.open_tcp("client", "echo", "server", "tcp").await?;
    let crowd = Crowd::start(&mesh.client("client"), &["http://server/", "http://fresh/"]);
    Ok((crowd, [TcpLoad::start(address, 1, false), TcpLoad::start(address, 1, true)], port))
}

async fn nobody_failed(crowd: Crowd, tcp: [TcpLoad; 2]) {
    crowd.stop().await;
    for load in tcp {
        let outcome = load.stop().await;
        assert!(outcome.failures.is_empty() && outcome.good > 0, "TCP: {outcome:?}");
    }
}

/// ID1, AG12: certificates of client and server are renewed again and again under load.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_rotate_under_load_and_no_request_fails() -> Result<()> {
    let mesh = Mesh::builder().service("server", 1).client("client").certificate_life(LIFE).start().await?;
    let (crowd, tcp, _port) = everybody(&mesh).await?;
    rotated(&mesh, 3).await?;
    crowd.more(20).await;
    for load in &tcp {
        load.more(20).await;
    }
    nobody_failed(crowd, tcp).await;
    mesh.stop().await;
    Ok(())
}

/// BX13: the authority is replaced under load in three steps: both roots trusted, the new one signs, the old one goes. The control
/// plane's own certificate follows, and proxies that were started with the old root still find it.
#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_replaced_under_load_and_no_request_fails() -> Result<()> {
    let mesh = Mesh::builder().service("server", 1).client("client").certificate_life(LIFE).start().await?;
    let (crowd, tcp, _port) = everybody(&mesh).await?;
    let handle = mesh.control_plane().authority();
    let old_root = handle.load().roots().to_vec();
    let (new_chain, new_key) = mesh.new_root("successor")?;
    let new = || {
        Authority::new(rcgen::KeyPair::from_pem(&new_key)?, new_chain.clone(), new_chain.clone())
            .map_err(anyhow::Error::from)
    };

    handle.set_authority(mesh.kept_authority()?.with_roots(new_chain.clone()));
    rotated(&mesh, 1).await?;
    handle.set_authority(new()?.with_roots(old_root));
    rotated(&mesh, 1).await?;
    handle.set_authority(new()?);
    rotated(&mesh, 1).await?;

    crowd.more(20).await;
    // The configuration stream goes on too.
    mesh.apply_as(
        "later",
        &object(
            "VirtualService",
            "default",
            "later",
            "{hosts: [later.example], http: [{directResponse: {status: 202}}]}",
        ),
    )
    .await?;
    assert_eq!(mesh.client("client").get("http://later.example/").status().await, 202);
    nobody_failed(crowd, tcp).await;
    assert!(handle.load().not_after() > SystemTime::now());
    mesh.stop().await;
    Ok(())
}
