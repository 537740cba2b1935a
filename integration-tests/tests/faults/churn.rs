//! Endpoints come and go all the time, and nobody notices (BX8, BX11).

use anyhow::{Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::object;
use integration_tests::{App, Crowd, Mesh, eventually};

use super::alone;
use super::base::Base;

const ENDPOINTS: usize = 50;
/// 30 %.
const REPLACED: usize = 15;
const ROUNDS: usize = 6;

fn entry(apps: &[App]) -> String {
    let endpoints: Vec<String> =
        apps.iter().map(|app| format!("{{address: 127.0.0.1, ports: {{http: {}}}}}", app.http.port())).collect();
    object(
        "ServiceEntry",
        "default",
        "churn",
        &format!(
            "{{hosts: [churn.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{}]}}",
            endpoints.join(", ")
        ),
    )
}

async fn some(count: usize, apps: &mut Vec<App>) -> Result<()> {
    for _ in 0..count {
        apps.push(App::start("churn", "v1").await?);
    }
    Ok(())
}

/// BX8, BX11: 15 of 50 endpoints are replaced, again and again. Those that were taken out are left alone, down to their idle
/// connections, and end then.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_replaced_by_the_dozen_and_no_request_fails() -> Result<()> {
    let _alone = alone().await;
    let mesh = Mesh::builder().service("echo", 1).client("client").start().await?;
    let base = Base::of(&mesh, &["client", "echo-v1"]).await?;
    let mut apps = Vec::new();
    some(ENDPOINTS, &mut apps).await?;
    mesh.apply_as("churn", &entry(&apps)).await?;
    let crowd = Crowd::start(&mesh.client("client"), &["http://churn.example/", "http://churn.example/again"]);
    for round in 0..ROUNDS {
        crowd.more(30).await;
        some(REPLACED, &mut apps).await?;
        let old: Vec<App> = apps.drain(..REPLACED).collect();
        mesh.apply_as("churn", &entry(&apps)).await?;
        eventually(DEADLINE, async || {
            let open: u64 = old.iter().map(App::open_connections).sum();
            ensure!(open == 0, "round {round}: {open} connections to endpoints that are gone");
            Ok(())
        })
        .await?;
        ensure!(old.iter().any(|app| app.requests() > 0), "round {round}: nobody was asked");
    }
    let asked = apps.iter().filter(|app| app.requests() > 0).count();
    ensure!(asked > REPLACED, "only {asked} endpoints are asked");
    crowd.stop().await;
    mesh.delete("churn").await?;
    drop(apps);
    base.returns(&mesh).await?;
    mesh.stop().await;
    Ok(())
}
