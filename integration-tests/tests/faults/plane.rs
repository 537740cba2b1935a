//! The control plane is killed, or cannot be reached: proxies serve on, come back, and are sent only what they miss (HA1, XD5).

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::object;
use integration_tests::{Crowd, Mesh, eventually, until};
use mesh_controlplane::app::{ControlPlane, Settings};
use tokio::runtime::Runtime;

use super::base::Base;
use super::relay::Relay;
use super::{alone, service_of};

/// A control plane with threads of its own, which can be killed as `kill -9` does: the system closes its sockets, and nobody says so.
struct Mortal(Option<Runtime>);

impl Mortal {
    async fn start(settings: Settings) -> Result<Self> {
        let (told, hears) = mpsc::channel();
        std::thread::spawn(move || {
            let started = || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                // Whoever was killed may still be closing sockets of the same address.
                let plane =
                    runtime.block_on(eventually(DEADLINE, async || ControlPlane::start(settings.clone()).await))?;
                // It would take leave of everybody when dropped.
                std::mem::forget(plane);
                anyhow::Ok(runtime)
            };
            let _ = told.send(started());
        });
        Ok(Self(Some(tokio::task::spawn_blocking(move || hears.recv()).await???)))
    }

    fn kill(self) {}
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A thousand hosts outside, which all proxies hear of.
fn hosts() -> String {
    let host = |number: usize| {
        object(
            "ServiceEntry",
            "default",
            &format!("outside-{number}"),
            &format!(
                "{{hosts: [outside-{number}.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.{}.{}}}]}}",
                number / 250,
                number % 250 + 1
            ),
        )
    };
    (0..1000).map(host).collect()
}

/// Bytes and responses that the control plane has sent since it started.
async fn sent(mesh: &Mesh) -> Result<(f64, f64)> {
    let metrics = mesh.control_plane_metrics().await?;
    let responses = metrics.sum("pilot_xds_pushes", |_| true);
    Ok((metrics.sum("pilot_xds_config_size_bytes_sum", |_| true), responses))
}

async fn synced(mesh: &Mesh) -> Result<()> {
    eventually(DEADLINE * 2, async || mesh.is_synced().await).await
}

/// HA1, XD5: killed twice under load, once while a rule changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_costs_no_request_and_comes_back_without_a_full_resend() -> Result<()> {
    let _alone = alone().await;
    let mut mesh = Mesh::builder().service("echo", 2).client("client").apply(&hosts()).start().await?;
    let (first, _) = sent(&mesh).await?;
    mesh.stop_control_plane().await;
    let settings = mesh.control_plane_settings();
    let plane = Mortal::start(settings.clone()).await?;
    synced(&mesh).await?;
    let base = Base::of(&mesh, &["client", "echo-v1", "echo-v2"]).await?;

    mesh.apply_as("survivor", &service_of("survivor", "v1")).await?;
    let client = mesh.client("client");
    let crowd = Crowd::start(&client, &["http://survivor/"]);
    crowd.more(5).await;
    plane.kill();
    until("the sidecar notices", async || matches!(mesh.stat("client", "control_plane.connected_state").await, Ok(0)))
        .await;
    crowd.more(20).await;
    assert_eq!(client.get("http://survivor/").send().await?.version(), "v1");
    let plane = Mortal::start(settings.clone()).await?;
    synced(&mesh).await?;
    let (again, responses) = sent(&mesh).await?;
    // Three proxies, at most five types: each is answered that there is nothing new.
    eprintln!("first {first} again {again} in {responses}");
    assert!(again < first / 100.0, "{again} bytes were sent again, of {first} at first");
    assert!(responses <= 15.0, "{responses} responses");
    crowd.more(5).await;

    plane.kill();
    mesh.write_config("survivor", &service_of("survivor", "v2"))?;
    crowd.more(5).await;
    let plane = Mortal::start(settings).await?;
    synced(&mesh).await?;
    eventually(DEADLINE, async || {
        let version = client.get("http://survivor/").send().await?.version();
        ensure!(version == "v2", "{version} still answers");
        Ok(())
    })
    .await?;
    let (changed, _) = sent(&mesh).await?;
    eprintln!("changed {changed}");
    // The one table of port 80 holds all thousand hosts, and nothing else changed.
    assert!(changed < first / 2.0, "{changed} bytes were sent for one rule, of {first} at first");
    crowd.stop().await;
    mesh.delete("survivor").await?;
    base.returns(&mesh).await?;
    plane.kill();
    mesh.stop().await;
    Ok(())
}

/// HA1, XD5: bytes stop passing, in silence. The sidecar serves on, notices by its pings, and catches up when the way is open again.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_partition_is_noticed_and_made_up_for() -> Result<()> {
    let _alone = alone().await;
    let mut mesh = Mesh::builder().service("echo", 2).client("client").start().await?;
    let relay = Relay::start(mesh.control_plane().secure_grpc_addr()).await?;
    mesh.renew_sidecar("client", |agent| {
        agent.discovery_address = relay.address.to_string();
        agent.keepalive = (Duration::from_millis(200), Duration::from_millis(300));
    })
    .await?;
    let base = Base::of(&mesh, &["client", "echo-v1", "echo-v2"]).await?;
    mesh.apply_as("island", &service_of("island", "v1")).await?;
    let client = mesh.client("client");
    let connected = async || mesh.stat("client", "control_plane.connected_state").await;
    assert_eq!(connected().await?, 1);
    let crowd = Crowd::start(&client, &["http://island/"]);
    crowd.more(5).await;

    let before = relay.connections();
    relay.cut();
    mesh.write_config("island", &service_of("island", "v2"))?;
    until("the sidecar notices", async || matches!(connected().await, Ok(0))).await;
    crowd.more(20).await;
    assert_eq!(client.get("http://island/").send().await?.version(), "v1", "nothing can have come");
    until("it tries again", async || relay.connections() > before).await;
    relay.heal();
    eventually(DEADLINE, async || {
        let version = client.get("http://island/").send().await?.version();
        ensure!(version == "v2", "{version} still answers");
        Ok(())
    })
    .await
    .context("after the partition")?;
    assert_eq!(connected().await?, 1);
    crowd.stop().await;
    mesh.delete("island").await?;
    base.returns(&mesh).await?;
    mesh.stop().await;
    Ok(())
}
