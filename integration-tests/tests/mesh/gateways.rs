//! The ingress gateway: whom it lets in, by which names, ports and certificates, and how that changes under load.

use std::net::Ipv4Addr;

use http::Method;
use integration_tests::certs::{Authority, Pair};
use integration_tests::client::Connection;
use integration_tests::load::Load;
use integration_tests::mesh::service_on;
use integration_tests::{App, Client, Mesh, Shared, until};

use super::{object, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder().service("echo", 1).service_in("elsewhere", "far", 1).gateway(&[80, 81, 82, 443, 9000, 9001])
});

/// Namespace of the gateway, where its secrets lie.
const ROOT: &str = "istio-system";

fn gateway(name: &str, servers: &str) -> String {
    object("Gateway", "default", name, &format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"))
}

fn http(port: u16, hosts: &str) -> String {
    format!("{{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, hosts: [{hosts}]}}")
}

fn https(hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: 443, name: https-443, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

/// A rule of the gateway of the same name, to `echo`.
fn to_echo(name: &str, host: &str) -> String {
    virtual_service(
        name,
        &format!("{{hosts: ['{host}'], gateways: [{name}], http: [{{route: [{{destination: {{host: echo}}}}]}}]}}"),
    )
}

/// GW1, GW2, GW3, GW4: a Gateway opens its port on the gateways it selects, for hosts that both it and the rule name, and for rules of
/// the namespaces it allows.
#[test]
fn a_gateway_lets_in_the_hosts_it_names() {
    MESH.run(async |mesh| {
        let away = |name: &str, host: &str| {
            object(
                "VirtualService",
                "elsewhere",
                name,
                &format!(
                    "{{hosts: [{host}], gateways: [default/gw3], http: [{{route: [{{destination: {{host: far}}}}]}}]}}"
                ),
            )
        };
        let yaml = gateway("gw3", &http(80, "'*.gw3.example', './home.example', 'elsewhere/away.example'"))
            + &to_echo("gw3", "a.gw3.example")
            + &virtual_service(
                "gw3-home",
                "{hosts: [home.example], gateways: [gw3], http: [{route: [{destination: {host: echo}}]}]}",
            )
            + &virtual_service(
                "gw3-other",
                "{hosts: [other.example], gateways: [gw3], http: [{route: [{destination: {host: echo}}]}]}",
            )
            + &virtual_service(
                "gw3-not-away",
                "{hosts: [away.example], gateways: [gw3], http: [{directResponse: {status: 218}}]}",
            )
            + &away("gw3-home", "home.example")
            + &away("gw3-away", "away.example")
            + &object(
                "Gateway",
                "default",
                "gw1",
                &format!("{{selector: {{istio: nobody}}, servers: [{}]}}", http(80, "gw1.example")),
            )
            + &to_echo("gw1", "gw1.example");
        mesh.try_apply("gw3", &yaml).await?;
        let client = mesh.gateway(80);
        assert_ne!(mesh.gateway_port(80), 80, "the port of the service leads to the one that is open");
        for (host, expected) in [
            ("a.gw3.example", "echo"),
            ("b.gw3.example", "404"),
            ("home.example", "echo"),
            ("other.example", "404"),
            ("away.example", "far"),
            ("gw1.example", "404"),
        ] {
            let answer = client.get(&format!("http://{host}/")).send().await?;
            let found = if answer.status == 200 { answer.field("app") } else { answer.status.to_string() };
            assert_eq!(found, expected, "{host}");
        }
        Ok(())
    });
}

/// VS1: addresses are hosts too, of rules and of Gateways.
#[test]
fn rules_of_gateways_have_addresses_for_hosts() {
    MESH.run(async |mesh| {
        let yaml = gateway("vs1", &http(80, "192.0.2.1, 192.0.2.2")) + &to_echo("vs1", "192.0.2.1");
        mesh.apply(&yaml).await?;
        let client = mesh.gateway(80);
        for (url, expected) in [
            ("http://192.0.2.1/", 200),
            ("http://192.0.2.1:80/", 200),
            ("http://192.0.2.2/", 404),
            ("http://192.0.2.3/", 404),
        ] {
            assert_eq!(client.get(url).status().await, expected, "{url}");
        }
        Ok(())
    });
}

/// GW2: a server listens at the address that it names only.
#[test]
fn a_server_listens_at_the_address_it_names() {
    MESH.run(async |mesh| {
        let server = http(82, "gw2.example").replace("hosts:", "bind: 127.0.0.2, hosts:");
        mesh.apply(&(gateway("gw2", &server) + &to_echo("gw2", "gw2.example"))).await?;
        let named = Client::new((Ipv4Addr::new(127, 0, 0, 2), mesh.gateway_port(82)).into());
        until("the server listens", async || named.get("http://gw2.example/").status().await == 200).await;
        assert_eq!(mesh.gateway(82).get("http://gw2.example/").status().await, 0, "nobody listens elsewhere");
        Ok(())
    });
}

/// GW5: Gateways on one port are joined.
#[test]
fn gateways_on_one_port_are_joined() {
    MESH.run(async |mesh| {
        let yaml = gateway("gw5-a", &http(81, "a.gw5.example"))
            + &to_echo("gw5-a", "a.gw5.example")
            + &gateway("gw5-b", &http(81, "b.gw5.example"))
            + &to_echo("gw5-b", "b.gw5.example");
        mesh.apply_as("gw5", &yaml).await?;
        for (host, expected) in [("a", 200), ("b", 200), ("c", 404)] {
            assert_eq!(mesh.gateway(81).get(&format!("http://{host}.gw5.example/")).status().await, expected, "{host}");
        }
        Ok(())
    });
}

/// IG1: hosts, paths, headers, methods, gRPC and HTTP/2 by the gateway.
#[test]
fn the_gateway_routes_http_and_grpc() {
    MESH.run(async |mesh| {
        let yaml = gateway("ig1", &http(80, "ig1.example"))
            + &service_on("default", "ig1-grpc", "echo", &[(81, "grpc", "grpc")])
            + &virtual_service("ig1", "{hosts: [ig1.example], gateways: [ig1], http: [
                {match: [{uri: {prefix: /teapot}, method: {exact: PUT}, headers: {x-tea: {exact: green}}}], directResponse: {status: 418}},
                {match: [{headers: {content-type: {prefix: application/grpc}}}], route: [{destination: {host: ig1-grpc}}]},
                {match: [{uri: {prefix: /}}], route: [{destination: {host: echo}}]}]}");
        mesh.apply(&yaml).await?;
        let client = mesh.gateway(80);
        assert_eq!(client.ask(Method::PUT, "http://ig1.example/teapot").header("x-tea", "green").status().await, 418);
        assert_eq!(client.ask(Method::PUT, "http://ig1.example/teapot").status().await, 200);
        let answer = client.get("http://ig1.example/").http2().send().await?;
        assert_eq!(answer.peer(), "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account");
        let answer = client.post("http://ig1.example/pkg.Service/Method", "").grpc().header("x-test-grpc-status", "7").send().await?;
        assert_eq!((answer.status, answer.field("protocol").as_str()), (200, "HTTP/2.0"));
        assert_eq!(answer.trailers.get("grpc-status").map(|value| value.as_bytes()), Some(&b"7"[..]));
        Ok(())
    });
}

/// GT1, IG2: `httpsRedirect` sends users of plaintext to TLS.
#[test]
fn plaintext_is_redirected_to_tls() {
    MESH.run(async |mesh| {
        let server =
            "{port: {number: 80, name: http-80, protocol: HTTP}, hosts: [gt1.example], tls: {httpsRedirect: true}}";
        mesh.apply(&(gateway("gt1", server) + &to_echo("gt1", "gt1.example"))).await?;
        let answer = mesh.gateway(80).get("http://gt1.example/x?q=1").send().await?;
        assert_eq!((answer.status, answer.header("location")), (301, "https://gt1.example/x?q=1"));
        Ok(())
    });
}

/// GT2, GT4, IG3: SIMPLE, by the certificate of each name of the port; another host is not reached over a name's connection.
#[test]
fn each_name_has_its_certificate() {
    MESH.run(async |mesh| {
        let (one, two) = (Authority::new("one")?, Authority::new("two")?);
        let yaml = one.issue(&["one.gt4.example"])?.secret(ROOT, "gt4-one", None)?
            + &two.issue(&["*.two.gt4.example"])?.secret(ROOT, "gt4-two", None)?
            + &gateway(
                "gt4",
                &format!(
                    "{}, {}",
                    https("one.gt4.example", "mode: SIMPLE, credentialName: gt4-one"),
                    https("'*.two.gt4.example'", "mode: SIMPLE, credentialName: gt4-two")
                        .replace("https-443", "https-two")
                ),
            )
            + &to_echo("gt4", "*.gt4.example");
        mesh.apply(&yaml).await?;
        let client = mesh.gateway(443);
        for (host, good, bad) in [("one.gt4.example", &one, &two), ("a.two.gt4.example", &two, &one)] {
            let url = format!("https://{host}/");
            until(host, async || client.over_tls(good.pem(), None).get(&url).status().await == 200).await;
            assert_eq!(client.over_tls(good.pem(), None).get(&url).http2().send().await?.status, 200, "{host}");
            assert!(client.over_tls(bad.pem(), None).get(&url).send().await.is_err(), "{host}");
        }
        assert!(client.over_tls(one.pem(), None).get("https://unknown.example/").send().await.is_err());
        Ok(())
    });
}

/// GT2, GT5, IG3: MUTUAL and OPTIONAL_MUTUAL, with the authority of clients in the secret, beside it, and in the generic layout.
#[test]
fn clients_show_certificates_where_they_must() {
    MESH.run(async |mesh| {
        let (server, clients) = (Authority::new("server")?, Authority::new("clients")?);
        let own = clients.issue(&["visitor.example"])?;
        let foreign = Authority::new("foreign")?.issue(&["visitor.example"])?;
        let pair = |name: &str| server.issue(&[&format!("{name}.gt2.example")]);
        let generic = |pair: &Pair| {
            let data = serde_json::json!({"cert": pair.cert, "key": pair.key, "cacert": clients.pem()});
            let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gt2-generic", "namespace": ROOT}, "stringData": data});
            anyhow::Ok(format!("---\n{}", yaml_serde::to_string(&secret)?))
        };
        let beside = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gt2-beside-cacert", "namespace": ROOT}, "stringData": {"cacert": clients.pem()}});
        let names = ["inside", "beside", "generic", "optional"];
        let servers = names.map(|name| {
            let mode = if name == "optional" { "OPTIONAL_MUTUAL" } else { "MUTUAL" };
            https(&format!("{name}.gt2.example"), &format!("mode: {mode}, credentialName: gt2-{name}")).replace("https-443", &format!("https-{name}"))
        });
        let yaml = pair("inside")?.secret(ROOT, "gt2-inside", Some(clients.pem()))?
            + &pair("beside")?.secret(ROOT, "gt2-beside", None)?
            + &format!("---\n{}", yaml_serde::to_string(&beside)?)
            + &generic(&pair("generic")?)?
            + &pair("optional")?.secret(ROOT, "gt2-optional", Some(clients.pem()))?
            + &gateway("gt2", &servers.join(", "))
            + &to_echo("gt2", "*.gt2.example");
        mesh.apply(&yaml).await?;
        for name in names {
            let url = format!("https://{name}.gt2.example/");
            let ask = |own: Option<&Pair>| mesh.gateway(443).over_tls(server.pem(), own).get(&url);
            until(name, async || ask(Some(&own)).status().await == 200).await;
            assert_eq!(ask(None).send().await.is_ok_and(|answer| answer.status == 200), name == "optional", "{name}");
            assert!(ask(Some(&foreign)).send().await.is_err(), "{name}");
        }
        Ok(())
    });
}

/// GT2, IG1, VT1: PASSTHROUGH leads by server name to the application's own TLS.
#[test]
fn tls_is_passed_through_by_server_name() {
    MESH.run(async |mesh| {
        let authority = Authority::new("application")?;
        let mut app = App::start("inner", "v1").await?;
        let address = app.serve_tls(&authority.issue(&["pass.example"])?, None).await?;
        let yaml = object("ServiceEntry", "default", "pass", &format!("{{hosts: [inner.pass.example], ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}", address.port()))
            + &gateway("pass", "{port: {number: 443, name: tls-443, protocol: TLS}, hosts: [pass.example], tls: {mode: PASSTHROUGH}}")
            + &virtual_service("pass", "{hosts: [pass.example], gateways: [pass], tls: [{match: [{port: 443, sniHosts: [pass.example]}], route: [{destination: {host: inner.pass.example, port: {number: 443}}}]}]}");
        mesh.apply(&yaml).await?;
        let client = mesh.gateway(443).over_tls(authority.pem(), None);
        until("it is passed through", async || client.get("https://pass.example/").status().await == 200).await;
        let answer = client.get("https://pass.example/").send().await?;
        assert_eq!((answer.field("app").as_str(), answer.field("server_name").as_str()), ("inner", "pass.example"));
        Ok(())
    });
}

/// GT4, IG4: a secret is replaced under load, and no new connection fails.
#[test]
fn a_certificate_is_replaced_under_load() {
    MESH.run(async |mesh| {
        let (old, new) = (Authority::new("old")?, Authority::new("new")?);
        let names = ["rotate.example"];
        let rest = gateway("rotate", &https("rotate.example", "mode: SIMPLE, credentialName: rotate"))
            + &to_echo("rotate", "rotate.example");
        mesh.apply_as("rotate", &(old.issue(&names)?.secret(ROOT, "rotate", None)? + &rest)).await?;
        let only =
            |authority: &Authority| mesh.gateway(443).over_tls(authority.pem(), None).get("https://rotate.example/");
        until("the old certificate is served", async || only(&old).status().await == 200).await;
        let both =
            mesh.gateway(443).over_tls(&format!("{}{}", old.pem(), new.pem()), None).get("https://rotate.example/");
        let (fresh, kept) = (Load::start(&both, 2, true), Load::start(&both, 1, false));
        fresh.more(10).await;
        mesh.apply_as("rotate", &(new.issue(&names)?.secret(ROOT, "rotate", None)? + &rest)).await?;
        until("the new certificate is served", async || only(&new).status().await == 200).await;
        fresh.more(10).await;
        for (connections, outcome) in [("new", fresh.stop().await), ("kept", kept.stop().await)] {
            if outcome.failures.is_empty() && outcome.good > 10 {
                continue;
            }
            let lines = mesh.log(|line| line["authority"] == "rotate.example").await?;
            panic!("{connections} connections: {outcome:?}; the gateway says {lines:#?}");
        }
        assert!(only(&old).send().await.is_err(), "the old certificate is gone");
        Ok(())
    });
}

/// IG11: a connection outlives changes of its listener that do not concern it.
#[test]
fn connections_outlive_changes_of_their_listener() {
    MESH.run(async |mesh| {
        let authority = Authority::new("outlive")?;
        let one = |name: &str| {
            let host = format!("{name}.outlive.example");
            let server = https(&host, &format!("mode: SIMPLE, credentialName: outlive-{name}")).replace("443", "9001");
            let secret = authority.issue(&[&host])?.secret(ROOT, &format!("outlive-{name}"), None)?;
            let gateway_name = format!("outlive-{name}");
            anyhow::Ok(secret + &gateway(&gateway_name, &server) + &to_echo(&gateway_name, &host))
        };
        mesh.apply_as("outlive-one", &one("one")?).await?;
        let ask = mesh.gateway(9001).over_tls(authority.pem(), None).get("https://one.outlive.example/");
        until("it is served", async || ask.clone().status().await == 200).await;
        let mut kept = Connection::open(&ask).await?;
        assert_eq!(kept.send(&ask).await?.status, 200);
        // Its chain comes before the one that is in use.
        mesh.apply_as("outlive-two", &one("early")?).await?;
        let other = mesh.gateway(9001).over_tls(authority.pem(), None).get("https://early.outlive.example/");
        until("the other is served", async || other.clone().status().await == 200).await;
        assert_eq!(kept.send(&ask).await?.status, 200);
        mesh.delete("outlive-two").await?;
        assert_eq!(kept.send(&ask).await?.status, 200);
        Ok(())
    });
}

/// GT2: a server that begins to ask for certificates ends connections that showed none.
#[test]
fn a_server_that_turns_mutual_ends_connections_without_a_certificate() {
    MESH.run(async |mesh| {
        let (server, clients) = (Authority::new("server")?, Authority::new("clients")?);
        let own = clients.issue(&["visitor.example"])?;
        let secret = server.issue(&["turn.example"])?.secret(ROOT, "turn", Some(clients.pem()))?;
        let yaml = |mode: &str| {
            let servers = https("turn.example", &format!("mode: {mode}, credentialName: turn")).replace("443", "9001");
            format!("{secret}{}{}", gateway("turn", &servers), to_echo("turn", "turn.example"))
        };
        mesh.apply_as("turn", &yaml("SIMPLE")).await?;
        let ask = |own: Option<&Pair>| mesh.gateway(9001).over_tls(server.pem(), own).get("https://turn.example/");
        until("it is served", async || ask(None).status().await == 200).await;
        let mut kept = Connection::open(&ask(None)).await?;
        assert_eq!(kept.send(&ask(None)).await?.status, 200);
        mesh.apply_as("turn", &yaml("MUTUAL")).await?;
        until("certificates are asked for", async || ask(None).send().await.is_err()).await;
        assert_eq!(ask(Some(&own)).status().await, 200);
        assert_eq!(kept.send(&ask(None)).await?.header("connection"), "close");
        Ok(())
    });
}

/// IG1, IG11: TCP by the gateway; a port is opened and closed while it runs.
#[test]
fn the_gateway_leads_tcp_and_opens_ports_as_it_runs() {
    MESH.run(async |mesh| {
        let yaml = service_on("default", "ig1-tcp", "echo", &[(82, "tcp", "tcp")])
            + &gateway("ig1-tcp", "{port: {number: 9000, name: tcp-9000, protocol: TCP}, hosts: ['*']}")
            + &virtual_service("ig1-tcp", "{hosts: ['*'], gateways: [ig1-tcp], tcp: [{match: [{port: 9000}], route: [{destination: {host: ig1-tcp, port: {number: 82}}}]}]}");
        mesh.apply_as("ig1-tcp", &yaml).await?;
        until("TCP passes", async || mesh.gateway(9000).exchange(b"hi").await.is_ok_and(|text| text == "echo v1: hi")).await;
        mesh.delete("ig1-tcp").await?;
        until("the port is closed", async || mesh.gateway(9000).exchange(b"hi").await.is_err()).await;
        Ok(())
    });
}
