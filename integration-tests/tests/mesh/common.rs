//! What holds for every kind: served versions, who sees a service, order among rivals, protocols of ports, where a workload is; and the
//! mesh's settings as they change.

use integration_tests::certs::Authority;
use integration_tests::mesh::service;
use integration_tests::peer::Peer;
use integration_tests::{App, Mesh, Shared, until};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{object, virtual_service};

static MESH: Shared =
    Shared::new(|| Mesh::builder().service("echo", 1).client("client").client_in("elsewhere", "stranger"));

/// Another object of an API version and time.
fn dated(kind: &str, key: (&str, &str), time: &str, spec: &str) -> String {
    let (namespace, name) = key;
    object(kind, namespace, name, spec).replace(
        &format!("namespace: {namespace}}}"),
        &format!("namespace: {namespace}, creationTimestamp: '{time}'}}"),
    )
}

/// G1: each served version of an API group is read, with the same schema.
#[test]
fn objects_of_every_served_version_are_in_force() {
    MESH.run(async |mesh| {
        let answer = |version: &str, status: u16| {
            let host = format!("g1-{version}.example");
            virtual_service(&host, &format!("{{hosts: [{host}], http: [{{directResponse: {{status: {status}}}}}]}}"))
                .replace("networking.istio.io/v1", &format!("networking.istio.io/{version}"))
        };
        let versions = [("v1", 218), ("v1beta1", 219), ("v1alpha3", 220)];
        mesh.apply(&versions.map(|(version, status)| answer(version, status)).concat()).await?;
        for (version, status) in versions {
            let url = format!("http://g1-{version}.example/");
            assert_eq!(mesh.client("client").get(&url).status().await, status, "{version}");
        }
        let findings = mesh.try_apply("g1-wrong", &answer("v2", 221)).await?;
        assert!(findings[0].contains("is not served; write networking.istio.io/v1, "), "{findings:?}");
        Ok(())
    });
}

/// G4: a Service is seen where its annotation says; without one, everywhere.
#[test]
fn services_are_seen_where_their_annotation_exports_them() {
    MESH.run(async |mesh| {
        let exported = |name: &str, to: &str| {
            service("default", name, "echo").replace(
                "namespace: default}",
                &format!("namespace: default, annotations: {{networking.istio.io/exportTo: '{to}'}}}}"),
            )
        };
        let yaml = service("default", "g4-all", "echo")
            + &exported("g4-own", ".")
            + &exported("g4-named", "elsewhere, nowhere")
            + &exported("g4-none", "~");
        mesh.apply(&yaml).await?;
        for (name, at_home, elsewhere) in
            [("g4-all", true, true), ("g4-own", true, false), ("g4-named", false, true), ("g4-none", false, false)]
        {
            for (client, expected) in [("client", at_home), ("stranger", elsewhere)] {
                let found =
                    mesh.client(client).get(&format!("http://{name}.default.svc.cluster.local/")).status().await;
                assert_eq!(found == 200, expected, "{name} from {client}: {found}");
            }
        }
        Ok(())
    });
}

/// G7: of rivals the oldest is in force, then the first by name, then by namespace.
#[test]
fn of_rivals_the_oldest_then_the_first_by_name_is_in_force() {
    MESH.run(async |mesh| {
        let (old, young) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
        let answers = |host: &str, status: u16| {
            format!("{{hosts: [{host}.g7.example], http: [{{directResponse: {{status: {status}}}}}]}}")
        };
        let yaml = dated("VirtualService", ("default", "g7-age-a"), young, &answers("age", 218))
            + &dated("VirtualService", ("default", "g7-age-b"), old, &answers("age", 219))
            + &dated("VirtualService", ("default", "g7-name-b"), old, &answers("name", 218))
            + &dated("VirtualService", ("elsewhere", "g7-name-a"), old, &answers("name", 219))
            + &dated("VirtualService", ("elsewhere", "g7-place"), old, &answers("place", 218))
            + &dated("VirtualService", ("default", "g7-place"), old, &answers("place", 219))
            + &service("default", "g7-rule", "echo")
            + &dated(
                "DestinationRule",
                ("default", "g7-rule-a"),
                young,
                "{host: g7-rule, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
            )
            + &dated(
                "DestinationRule",
                ("default", "g7-rule-b"),
                old,
                "{host: g7-rule, trafficPolicy: {tls: {mode: DISABLE}}}",
            );
        mesh.try_apply("g7", &yaml).await?;
        for host in ["age", "name", "place"] {
            assert_eq!(mesh.client("client").get(&format!("http://{host}.g7.example/")).status().await, 219, "{host}");
        }
        assert_eq!(mesh.client("client").get("http://g7-rule/").send().await?.peer(), "");
        Ok(())
    });
}

/// G9, G14: `appProtocol` says what a port speaks, else the prefix of its name; endpoints are those of EndpointSlices.
#[test]
fn ports_speak_what_they_are_declared() {
    MESH.run(async |mesh| {
        let app = App::start("sliced", "v1").await?;
        let ports = [
            (81, "http-a", "", "HTTP/1.1"),
            (82, "http2-b", "", "HTTP/2.0"),
            (83, "grpc", "", "HTTP/2.0"),
            (84, "odd", "kubernetes.io/h2c", "HTTP/2.0"),
            (85, "grpc-c", "http", "HTTP/1.1"),
            (86, "http2-d", "kubernetes.io/ws", "HTTP/1.1"),
        ];
        let declared = ports.map(|(number, name, word, _)| {
            let word = if word.is_empty() { String::new() } else { format!("appProtocol: {word}, ") };
            format!("{{name: {name}, {word}port: {number}}}")
        });
        let sliced = ports.map(|(_, name, ..)| format!("{{name: {name}, port: {}}}", app.http.port()));
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: g9}}\nspec: {{ports: [{}]}}\n---\napiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\nmetadata: {{name: g9-1, labels: {{kubernetes.io/service-name: g9}}}}\naddressType: IPv4\n\
             ports: [{}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n",
            declared.join(", "),
            sliced.join(", ")
        );
        mesh.apply(&yaml).await?;
        for (number, name, word, expected) in ports {
            let answer = mesh.client("client").get(&format!("http://g9:{number}/")).send().await?;
            assert_eq!((answer.field("app"), answer.field("protocol").as_str()), ("sliced".to_owned(), expected), "{name} {word}");
        }
        Ok(())
    });
}

/// G16: a proxy is where its workload is, and asks the endpoints that are near.
#[test]
fn a_workload_asks_the_endpoints_of_its_own_locality() {
    MESH.run(async |mesh| {
        let _apps = placed(mesh, "g16", "{}").await?;
        let near_only = async || {
            let counts = mesh.client("stranger").count("http://g16.example/", 40).await;
            counts.is_ok_and(|counts| counts.get("near") == Some(&40))
        };
        until("only the near endpoint is asked", near_only).await;
        let counts = mesh.client("client").count("http://g16.example/", 60).await?;
        assert_eq!(counts.len(), 2, "who is nowhere asks both: {counts:?}");
        Ok(())
    });
}

/// A client `stranger` somewhere, and a service with an endpoint near and one far from it.
async fn placed(mesh: &Mesh, name: &str, outlier_detection: &str) -> anyhow::Result<[App; 2]> {
    let (near, far) = (App::start("placed", "near").await?, App::start("placed", "far").await?);
    let place = |app: &App, locality: &str| {
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, locality: {locality}}}", app.http.port())
    };
    let stranger = object("WorkloadEntry", "elsewhere", "stranger", "{address: 127.0.0.1, locality: r1/z1/s1}");
    let endpoints = [place(&near, "r1/z1/s1"), place(&far, "r1/z2")].join(", ");
    let entry = format!(
        "{{hosts: [{name}.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{endpoints}]}}"
    );
    let policy = format!("{{host: {name}.example, trafficPolicy: {{outlierDetection: {outlier_detection}}}}}");
    let entry = object("ServiceEntry", "default", name, &entry);
    let yaml = stranger + &entry + &object("DestinationRule", "default", name, &policy);
    // Where the client is stands in the files of more than one test, which is a finding.
    mesh.try_apply(name, &yaml).await?;
    Ok([near, far])
}

/// VR4: after two tries nearby, a retry goes to another locality where the rule says so, and only there.
#[test]
fn retries_go_to_other_localities_where_the_rule_says() {
    MESH.run(async |mesh| {
        // Failures eject nobody, so that only the rule leads away.
        let _apps = placed(mesh, "vr4", "{consecutive5xxErrors: 0}").await?;
        for (remote, status) in [(false, 503), (true, 200)] {
            let rule = format!(
                "{{hosts: [vr4.example], http: [{{retries: {{attempts: 2, retryOn: 5xx, retryIgnorePreviousHosts: false, retryRemoteLocalities: {remote}}}, route: [{{destination: {{host: vr4.example}}}}]}}]}}"
            );
            mesh.apply_as("vr4-rule", &virtual_service("vr4", &rule)).await?;
            let failing = mesh.client("stranger").get("http://vr4.example/").header("x-test-status", "503");
            let failing = failing.header("x-test-only", "near");
            until("the near endpoint comes first", async || {
                for _ in 0..10 {
                    if failing.clone().status().await != status {
                        return false;
                    }
                }
                true
            })
            .await;
        }
        Ok(())
    });
}

/// The mesh's ConfigMap. Its path comes before the one that the mesh started with, so that it is used instead.
async fn set(mesh: &Mesh, lines: &str) -> anyhow::Result<Vec<String>> {
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {lines}\n"
    );
    mesh.try_apply("a-settings", &yaml).await
}

/// MC5, MC17: settings of the mesh are followed while it runs; what is wrong in them is found, and what was in force stays.
#[tokio::test(flavor = "multi_thread")]
async fn the_meshs_settings_are_followed_while_it_runs() {
    let mesh = Mesh::builder()
        .service("echo", 1)
        .client("client")
        .apply(&service("default", "mc", "echo"))
        .start()
        .await
        .unwrap();
    let peer = async || mesh.client("client").get("http://mc/").send().await.unwrap().peer();
    assert_eq!(peer().await, mesh.identity("client"));
    set(&mesh, "enableAutoMtls: false").await.unwrap();
    assert_eq!(peer().await, "", "without automatic mutual TLS, and no rule that asks for it");
    let findings = set(&mesh, "{enableAutoMtls: true, connectTimeout: soon}").await.unwrap();
    assert!(findings[0].contains("data.mesh.connectTimeout"), "{findings:?}");
    assert_eq!(peer().await, "");
    set(&mesh, "enableAutoMtls: true").await.unwrap();
    assert_eq!(peer().await, mesh.identity("client"));
    mesh.stop().await;
}

/// PC3, PC4, IG5: a gateway believes as many proxies before it as it is told, and reads the PROXY header of a load balancer.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_believes_as_many_proxies_as_it_is_told() {
    let yaml = service("default", "pc", "echo")
        + &object(
            "Gateway",
            "default",
            "pc",
            "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
        )
        + &virtual_service("pc", "{hosts: [pc.example], gateways: [pc], http: [{route: [{destination: {host: pc}}]}]}");
    let mesh = Mesh::builder()
        .service("echo", 1)
        .gateway(&[80])
        .apply(&yaml)
        .mesh_config("defaultConfig: {gatewayTopology: {numTrustedProxies: 1}, proxyHeaders: {server: {value: ours}, attemptCount: {disabled: true}}}")
        .start()
        .await
        .unwrap();
    let client = mesh.gateway(80);
    let remote = async |path: &str| {
        let of_gateway = |line: &serde_json::Value| {
            let outbound = line["upstream_cluster"].as_str().is_some_and(|name| name.starts_with("outbound"));
            outbound && line["path"] == path && line["authority"] == "pc.example"
        };
        let lines = mesh.log(of_gateway).await.unwrap();
        lines[0]["downstream_remote_address"].as_str().unwrap().to_owned()
    };
    let ask = client.get("http://pc.example/one").header("x-forwarded-for", "7.7.7.7, 8.8.8.8");
    let answer = ask.send().await.unwrap();
    assert_eq!((answer.status, answer.header("server")), (200, "ours"));
    assert_eq!(answer.saw("x-envoy-attempt-count"), "");
    let seen = answer.saw("x-forwarded-for");
    assert!(seen.starts_with("7.7.7.7, 8.8.8.8,") || seen.starts_with("7.7.7.7,8.8.8.8,"), "{seen}");
    assert!(remote("/one").await.starts_with("8.8.8.8:"), "the trusted proxy's word");

    set(&mesh, &format!("{{accessLogFile: {}, accessLogEncoding: JSON, defaultConfig: {{gatewayTopology: {{proxyProtocol: {{}}}}}}}}", mesh.file("x", "").unwrap().replace("/x", "/access.log"))).await.unwrap();
    let request = "GET /two HTTP/1.1\r\nhost: pc.example\r\nconnection: close\r\n\r\n";
    let header = "PROXY TCP4 9.9.9.9 127.0.0.1 1234 80\r\n";
    let talk = async |text: String| {
        let mut stream = TcpStream::connect(client.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is not understood ends without an answer, or with an error.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    until("the header is read", async || talk(format!("{header}{request}")).await.starts_with("HTTP/1.1 200")).await;
    let without = talk(request.to_owned()).await;
    assert!(!without.starts_with("HTTP/1.1 200"), "{without}");
    assert!(remote("/two").await.starts_with("9.9.9.9:1234"));
    mesh.stop().await;
}

/// GT3, GT6, GT7: a server's certificate from files, names that clients must show, versions and cipher suites.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_ends_tls_as_its_settings_say() {
    let mesh = Mesh::builder().service("echo", 1).gateway(&[443]).start().await.unwrap();
    let (server, clients) = (Authority::new("server").unwrap(), Authority::new("clients").unwrap());
    let pair = server.issue(&["peer.test"]).unwrap();
    let file = |name: &str, text: &str| mesh.file(name, text).unwrap();
    let files = format!(
        "serverCertificate: {}, privateKey: {}, caCertificates: {}",
        file("gt-cert.pem", &pair.cert),
        file("gt-key.pem", &pair.key),
        file("gt-ca.pem", clients.pem())
    );
    let apply = async |tls: &str| {
        let server = format!(
            "{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [peer.test], tls: {{{tls}, {files}}}}}"
        );
        let yaml = service("default", "gt", "echo")
            + &object(
                "Gateway",
                "default",
                "gt",
                &format!("{{selector: {{istio: ingressgateway}}, servers: [{server}]}}"),
            )
            + &virtual_service(
                "gt",
                "{hosts: [peer.test], gateways: [gt], http: [{route: [{destination: {host: gt}}]}]}",
            );
        mesh.apply_as("gt", &yaml).await.unwrap();
    };
    let address = mesh.gateway(443).address();
    let version = async |peer: Peer| {
        let exchange = peer.alpn(&["http/1.1"]).get(address, "peer.test", "/").await;
        exchange.map_or_else(|_| "refused".to_owned(), |exchange| exchange.version)
    };
    let plain = Peer::anonymous;
    for (tls, newest, old) in [
        ("mode: SIMPLE", "TLSv1_3", "TLSv1_2"),
        ("mode: SIMPLE, minProtocolVersion: TLSV1_3", "TLSv1_3", "refused"),
        ("mode: SIMPLE, maxProtocolVersion: TLSV1_2", "TLSv1_2", "TLSv1_2"),
        ("mode: SIMPLE, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]", "TLSv1_3", "TLSv1_2"),
        // The certificate is of ECDSA, so that no suite of RSA fits it.
        ("mode: SIMPLE, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]", "TLSv1_3", "refused"),
    ] {
        apply(tls).await;
        until(tls, async || version(plain()).await == newest && version(plain().tls12()).await == old).await;
    }
    apply("mode: MUTUAL, subjectAltNames: [visitor.example]").await;
    let ask = async |name: &str| {
        let own = clients.issue(&[name]).unwrap();
        let client = mesh.gateway(443).over_tls(server.pem(), Some(&own));
        client.get("https://peer.test/").status().await
    };
    until("names are looked at", async || ask("stranger.example").await != 200).await;
    assert_eq!(ask("visitor.example").await, 200);
    mesh.stop().await;
}
