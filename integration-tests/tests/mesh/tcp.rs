//! TCP through sidecars: routes by port and server name, servers that speak first, and mutual TLS.

use integration_tests::certs::Authority;
use integration_tests::mesh::service_on;
use integration_tests::{App, Mesh, Shared, until};

use super::{object, subsets, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder().service("echo", 2).client("plain").client("weighted").client("greeted").client("tls")
});

/// A Sidecar whose one listener takes TCP, or TLS, for a host that has a port of the same number, as Istio wants.
fn listener(protocol: &str, host: &str) -> String {
    format!(
        "{{egress: [{{port: {{number: ${{port}}, protocol: {protocol}, name: only}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/{host}']}}]}}"
    )
}

/// VC1: TCP routes by port, weighted between subsets.
#[test]
fn tcp_is_shared_out_by_weight() {
    MESH.run(async |mesh| {
        let port = mesh.client("weighted").address().port();
        let yaml = service_on("default", "vc1", "echo", &[(port, "tcp", "tcp")]) + &subsets("vc1", "")
            + &virtual_service("vc1", &format!("{{hosts: [vc1], tcp: [{{match: [{{port: {port}}}], route: [
                {{destination: {{host: vc1, subset: v1, port: {{number: {port}}}}}, weight: 75}}, {{destination: {{host: vc1, subset: v2, port: {{number: {port}}}}}, weight: 25}}]}}]}}"));
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("weighted", &listener("TCP", "vc1.default.svc.cluster.local")).await?;
        let client = mesh.client("weighted");
        until("TCP passes", async || client.exchange(b"hi").await.is_ok_and(|text| text.ends_with(": hi"))).await;
        let mut second = 0;
        for _ in 0..200 {
            match client.exchange(b"hi").await?.as_str() {
                "echo v1: hi" => {}
                "echo v2: hi" => second += 1,
                other => panic!("{other}"),
            }
        }
        // Five standard deviations of 200 draws.
        assert!((20..=80).contains(&second), "{second} of 200");
        Ok(())
    });
}

/// Server-first protocols pass where the port is declared TCP.
#[test]
fn a_server_may_speak_first() {
    MESH.run(async |mesh| {
        let port = mesh.client("greeted").address().port();
        let yaml = service_on("default", "greeter", "echo", &[(port, "tcp-greeting", "greeting")])
            + &virtual_service("greeter", &format!("{{hosts: [greeter], tcp: [{{match: [{{port: {port}}}], route: [{{destination: {{host: greeter, port: {{number: {port}}}}}}}]}}]}}"));
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("greeted", &listener("TCP", "greeter.default.svc.cluster.local")).await?;
        let client = mesh.client("greeted");
        until("the greeting comes", async || client.greeting().await.is_ok_and(|text| text.starts_with("hello from echo v"))).await;
        Ok(())
    });
}

/// DR9 for TCP: connections between sidecars are mutual TLS, and counted with both identities (MT2).
#[test]
fn tcp_between_sidecars_is_mutual_tls() {
    MESH.run(async |mesh| {
        let port = mesh.client("plain").address().port();
        let yaml = service_on("default", "quiet", "echo", &[(port, "tcp", "tcp")]) + &subsets("quiet", "")
            + &virtual_service("quiet", &format!("{{hosts: [quiet], tcp: [{{match: [{{port: {port}}}], route: [{{destination: {{host: quiet, subset: v1, port: {{number: {port}}}}}}}]}}]}}"));
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("plain", &listener("TCP", "quiet.default.svc.cluster.local")).await?;
        until("TCP passes", async || mesh.client("plain").exchange(b"hi").await.is_ok_and(|text| text == "echo v1: hi")).await;
        let (source, destination) = (mesh.identity("plain"), mesh.identity("echo-v1"));
        until("the connection is counted", async || {
            let Ok(samples) = mesh.metrics("echo-v1").await else { return false };
            samples.sum("istio_tcp_connections_opened_total", |sample| {
                sample.label("connection_security_policy") == "mutual_tls"
                    && sample.label("source_principal") == source
                    && sample.label("destination_principal") == destination
            }) > 0.0
        })
        .await;
        Ok(())
    });
}

/// VT1: TLS routes by server name, without ending TLS.
#[test]
fn tls_is_routed_by_server_name() {
    MESH.run(async |mesh| {
        let authority = Authority::new("outside")?;
        let port = mesh.client("tls").address().port();
        let mut yaml = String::new();
        let mut apps = Vec::new();
        for name in ["one", "two"] {
            let mut app = App::start(name, "v1").await?;
            let host = format!("{name}.vt1.example");
            let address = app.serve_tls(&authority.issue(&[&host])?, None).await?;
            yaml += &object("ServiceEntry", "default", &host, &format!("{{hosts: [{host}], ports: [{{number: {port}, name: tls, protocol: TLS, targetPort: {}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}", address.port()));
            yaml += &virtual_service(&host, &format!("{{hosts: [{host}], tls: [{{match: [{{port: {port}, sniHosts: [{host}]}}], route: [{{destination: {{host: {host}, port: {{number: {port}}}}}}}]}}]}}"));
            apps.push(app);
        }
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("tls", &listener("TLS", "*.vt1.example")).await?;
        let client = mesh.client("tls").over_tls(authority.pem(), None);
        for name in ["one", "two"] {
            let url = format!("https://{name}.vt1.example/");
            until(&url, async || client.get(&url).send().await.is_ok_and(|answer| answer.field("app") == name)).await;
        }
        Ok(())
    });
}
