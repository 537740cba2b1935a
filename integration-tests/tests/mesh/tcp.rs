//! TCP through sidecars: routes by port and server name, servers that speak first, and mutual TLS.

use integration_tests::certs::Authority;
use integration_tests::mesh::service_on;
use integration_tests::{App, Mesh, Shared, until};

use super::{object, subsets, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder()
        .service("echo", 2)
        .client("plain")
        .client("weighted")
        .client("greeted")
        .client("tls")
        .client("left")
        .client("right")
        .client_in("elsewhere", "stranger")
        .client("tls-left")
        .client("tls-right")
        .client_in("elsewhere", "tls-stranger")
        .gateway(&[443, 9000])
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

/// VC1: TCP routes match by who asks: labels and namespace of the workload, which gateway; and by the address asked for.
#[test]
fn tcp_routes_match_by_who_asks_for_which_address() {
    MESH.run(async |mesh| {
        let clients = ["left", "right", "stranger"];
        let ports = clients.map(|name| mesh.client(name).address().port());
        let numbered: Vec<String> = ports.iter().map(|port| format!("tcp-{port}")).collect();
        let all: Vec<_> = ports.iter().zip(&numbered).map(|(port, name)| (*port, name.as_str(), "tcp")).collect();
        let to = |version: &str| format!("route: [{{destination: {{host: who, subset: {version}, port: {{number: {}}}}}}}]", ports[0]);
        let far = "destinationSubnets: [192.0.2.0/24]";
        let near = "destinationSubnets: [127.0.0.0/8]";
        let yaml = service_on("default", "who", "echo", &all) + &subsets("who", "")
            + &object("Gateway", "default", "who", "{selector: {istio: ingressgateway}, servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}")
            + &virtual_service("who", &format!("{{hosts: [who.default.svc.cluster.local], gateways: [mesh, who], tcp: [
                {{match: [{{gateways: [who]}}], {}}},
                {{match: [{{{far}, sourceLabels: {{app: right}}}}], {}}},
                {{match: [{{{near}, sourceLabels: {{app: left}}}}, {{sourceNamespace: elsewhere}}], {}}},
                {{match: [{{gateways: [mesh]}}], {}}}]}}", to("v2"), to("v1"), to("v1"), to("v2")));
        mesh.apply(&yaml).await?;
        for name in clients {
            mesh.set_sidecar(name, &listener("TCP", "who.default.svc.cluster.local")).await?;
        }
        for (client, version) in [(mesh.client("left"), "v1"), (mesh.client("right"), "v2"), (mesh.client("stranger"), "v1"), (mesh.gateway(9000), "v2")] {
            until("TCP passes", async || client.exchange(b"hi").await.is_ok_and(|text| text.ends_with(": hi"))).await;
            assert_eq!(client.exchange(b"hi").await?, format!("echo {version}: hi"), "{:?}", client.address());
        }
        Ok(())
    });
}

/// VT1: TLS routes match by the same.
#[test]
fn tls_routes_match_by_who_asks_for_which_address() {
    MESH.run(async |mesh| {
        let authority = Authority::new("outside")?;
        let pair = authority.issue(&["who.vt1.example"])?;
        let clients = ["tls-left", "tls-right", "tls-stranger"];
        let ports: Vec<String> = clients.iter().map(|name| {
            let port = mesh.client(name).address().port();
            format!("{{number: {port}, name: tls-{port}, protocol: TLS}}")
        }).collect();
        let mut yaml = object("ServiceEntry", "default", "who.vt1.example", &format!("{{hosts: [who.vt1.example], ports: [{}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}", ports.join(", ")));
        let mut apps = Vec::new();
        for name in ["first", "second"] {
            let mut app = App::start(name, "v1").await?;
            let target = app.serve_tls(&pair, None).await?.port();
            yaml += &object("ServiceEntry", "default", name, &format!("{{hosts: [{name}.vt1.example], ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {target}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}"));
            apps.push(app);
        }
        let rule = |conditions: &[&str], name: &str| {
            let all: Vec<_> = conditions.iter().map(|more| format!("{{sniHosts: [who.vt1.example], {more}}}")).collect();
            format!("{{match: [{}], route: [{{destination: {{host: {name}.vt1.example, port: {{number: 443}}}}}}]}}", all.join(", "))
        };
        yaml += &object("Gateway", "default", "vt1", "{selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: [who.vt1.example], tls: {mode: PASSTHROUGH}}]}");
        yaml += &virtual_service("vt1-who", &format!("{{hosts: [who.vt1.example], gateways: [mesh, vt1], tls: [{}, {}, {}, {}]}}",
            rule(&["gateways: [vt1]"], "second"),
            rule(&["destinationSubnets: [192.0.2.0/24], sourceLabels: {app: tls-right}"], "first"),
            rule(&["destinationSubnets: [127.0.0.0/8], sourceLabels: {app: tls-left}", "sourceNamespace: elsewhere"], "first"),
            rule(&["gateways: [mesh]"], "second")));
        mesh.apply(&yaml).await?;
        for name in clients {
            mesh.set_sidecar(name, &listener("TLS", "*.vt1.example")).await?;
        }
        for (client, app) in [(mesh.client("tls-left"), "first"), (mesh.client("tls-right"), "second"), (mesh.client("tls-stranger"), "first"), (mesh.gateway(443), "second")] {
            let client = client.over_tls(authority.pem(), None);
            let url = "https://who.vt1.example/";
            until("TLS passes", async || client.get(url).status().await == 200).await;
            assert_eq!(client.get(url).send().await?.field("app"), app, "{:?}", client.address());
        }
        Ok(())
    });
}
