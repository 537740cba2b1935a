//! What the mesh tells about traffic: Istio's metrics with all their labels, and access logs.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::service_on;
use integration_tests::{Mesh, Shared, eventually};
use meshctl::metrics::Sample;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{object, subsets, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder()
        .service("shown", 1)
        .service("counted", 1)
        .service("leaving", 1)
        .service("quiet", 1)
        .service("kept", 1)
        .client("client")
        .client("stream")
        .client("holder")
        .client_in("elsewhere", "far")
});

/// The samples of a metric about a service, once there are any, as soon as they count `wanted` together.
async fn samples(mesh: &Mesh, workload: &str, name: &str, service: &str, wanted: f64) -> Result<Vec<Sample>> {
    let host = format!("{service}.default.svc.cluster.local");
    eventually(DEADLINE, async || {
        let all = mesh.metrics(workload).await?;
        let found: Vec<Sample> =
            all.named(name).filter(|sample| sample.label("destination_service") == host).cloned().collect();
        let sum: f64 = found.iter().map(|sample| sample.value).sum();
        ensure!(sum == wanted, "{name} of {host} at {workload} is {sum}, not {wanted}: {found:?}");
        Ok(found)
    })
    .await
}

/// Checks all labels of a sample at once.
#[track_caller]
fn labels_are(sample: &Sample, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(sample.labels, expected);
}

/// Labels of a request or connection from `client` to `counted-v1`, but for those of the reporter.
fn expected<'a>(
    service: &'a str,
    host: &'a str,
    reporter: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        ("reporter", reporter),
        ("source_workload", "client"),
        ("source_workload_namespace", "default"),
        ("source_principal", "spiffe://cluster.local/ns/default/sa/client"),
        ("source_app", "client"),
        ("source_version", "unknown"),
        ("source_canonical_service", "client"),
        ("source_canonical_revision", "latest"),
        ("destination_workload", "counted-v1"),
        ("destination_workload_namespace", "default"),
        ("destination_principal", "spiffe://cluster.local/ns/default/sa/counted"),
        ("destination_app", "counted"),
        ("destination_version", "v1"),
        ("destination_service", host),
        ("destination_service_name", service),
        ("destination_service_namespace", "default"),
        ("destination_canonical_service", "counted"),
        ("destination_canonical_revision", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_cluster", "Kubernetes"),
        ("connection_security_policy", if reporter == "source" { "unknown" } else { "mutual_tls" }),
        ("response_flags", "-"),
    ];
    all.extend(more);
    all
}

/// MT1, MT3, MT4, MT5: every label of a request, on both sides, is Istio's.
#[test]
fn requests_are_counted_with_istios_labels_on_both_sides() {
    MESH.run(async |mesh| {
        let client = mesh.client("client");
        for _ in 0..3 {
            assert_eq!(client.get("http://counted/").status().await, 200);
        }
        assert_eq!(client.get("http://counted/").header("x-test-status", "404").status().await, 404);
        let host = "counted.default.svc.cluster.local";
        for (workload, reporter) in [("client", "source"), ("counted-v1", "destination")] {
            let found = samples(mesh, workload, "istio_requests_total", "counted", 4.0).await?;
            assert_eq!(found.len(), 2, "{found:?}");
            for (code, count) in [("200", 3.0), ("404", 1.0)] {
                let sample = found.iter().find(|sample| sample.label("response_code") == code).unwrap();
                assert_eq!(sample.value, count, "{code}");
                labels_are(
                    sample,
                    &expected(
                        "counted",
                        host,
                        reporter,
                        &[("request_protocol", "http"), ("response_code", code), ("grpc_response_status", "")],
                    ),
                );
            }
            for name in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
                samples(mesh, workload, &format!("{name}_count"), "counted", 4.0).await?;
                let all = mesh.metrics(workload).await?;
                let of_host = |sample: &Sample| sample.label("destination_service") == host;
                assert!(all.sum(&format!("{name}_sum"), of_host) > 0.0, "{name}");
                assert!(
                    all.named(&format!("{name}_bucket")).any(|sample| of_host(sample) && sample.label("le") == "+Inf"),
                    "{name}"
                );
            }
        }
        Ok(())
    });
}

/// MT1, MT3: gRPC has its status, and its messages are counted.
#[test]
fn grpc_calls_are_counted_with_status_and_messages() {
    MESH.run(async |mesh| {
        mesh.apply_as("calls", &service_on("default", "calls", "shown", &[(81, "grpc", "grpc")])).await?;
        let client = mesh.client("client");
        let call = || client.post("http://calls:81/pkg.Service/Method", vec![0, 0, 0, 0, 1, b'x']).grpc();
        for status in ["0", "0", "7"] {
            let answer = call().header("x-test-grpc-status", status).send().await?;
            assert_eq!(
                answer.trailers.get("grpc-status").and_then(|status| status.to_str().ok()),
                Some(status),
                "{answer:?}"
            );
        }
        for (workload, reporter) in [("client", "source"), ("shown-v1", "destination")] {
            // Behind one port there may be several services; inbound metrics are of the first.
            let service = if reporter == "source" { "calls" } else { "" };
            let name = "istio_requests_total";
            let of = |sample: &Sample| {
                sample.label("request_protocol") == "grpc"
                    && (service.is_empty() || sample.label("destination_service_name") == service)
            };
            for (status, count) in [("0", 2.0), ("7", 1.0)] {
                eventually(DEADLINE, async || {
                    let all = mesh.metrics(workload).await?;
                    let sum = all.sum(name, |sample| of(sample) && sample.label("grpc_response_status") == status);
                    ensure!(
                        sum == count,
                        "{reporter}: {sum} calls with status {status}: {:?}",
                        all.named(name).collect::<Vec<_>>()
                    );
                    Ok(())
                })
                .await?;
            }
            for name in ["istio_request_messages_total", "istio_response_messages_total"] {
                let sum = mesh.metrics(workload).await?.sum(name, of);
                assert_eq!(sum, 3.0, "{reporter}: {name}");
            }
        }
        Ok(())
    });
}

/// MT2, MT3, MT4: TCP connections and bytes, with the peer known on both sides by the exchange of metadata.
#[test]
fn connections_are_counted_with_istios_labels() {
    MESH.run(async |mesh| {
        let (_port, address) = mesh.open_tcp("stream", "wire", "shown", "tcp").await?;
        let echo = integration_tests::Client::new(address).exchange(b"twelve bytes").await?;
        assert_eq!(echo, "shown v1: twelve bytes");
        let sent = echo.len() as f64;
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            ("istio_tcp_received_bytes_total", 12.0),
            ("istio_tcp_sent_bytes_total", sent),
        ] {
            let found = samples(mesh, "stream", name, "wire", value).await?;
            assert_eq!((found.len(), found[0].label("request_protocol")), (1, "tcp"));
            assert_eq!(
                (found[0].label("source_workload"), found[0].label("destination_workload")),
                ("stream", "shown-v1")
            );
            eventually(DEADLINE, async || {
                let all = mesh.metrics("shown-v1").await?;
                let sum = all.sum(name, |sample| {
                    sample.label("reporter") == "destination"
                        && sample.label("source_principal").ends_with("/sa/stream")
                        && sample.label("source_workload") == "stream"
                        && sample.label("source_canonical_service") == "stream"
                });
                ensure!(sum == value, "{name} at the server is {sum}, not {value}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

/// MT2: a connection that stays open is counted meanwhile, on both sides.
#[test]
fn bytes_are_counted_while_a_connection_is_open() {
    MESH.run(async |mesh| {
        let (_port, address) = mesh.open_tcp("holder", "hold", "kept", "tcp").await?;
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"eight by").await?;
        for (workload, reporter) in [("holder", "source"), ("kept-v1", "destination")] {
            for (name, value) in [("istio_tcp_received_bytes_total", 8.0), ("istio_tcp_connections_opened_total", 1.0)]
            {
                eventually(DEADLINE, async || {
                    let all = mesh.metrics(workload).await?;
                    let sum = all.sum(name, |sample| {
                        sample.label("reporter") == reporter && sample.label("destination_canonical_service") == "kept"
                    });
                    ensure!(sum == value, "{name} of {reporter} is {sum}, not {value}");
                    Ok(())
                })
                .await?;
            }
            let closed = mesh.metrics(workload).await?.sum("istio_tcp_connections_closed_total", |sample| {
                sample.label("destination_canonical_service") == "kept"
            });
            assert_eq!(closed, 0.0, "{reporter}");
        }
        Ok(())
    });
}

const KEYS: [&str; 24] = [
    "authority",
    "bytes_received",
    "bytes_sent",
    "connection_termination_details",
    "downstream_local_address",
    "downstream_remote_address",
    "duration",
    "method",
    "path",
    "protocol",
    "request_id",
    "requested_server_name",
    "response_code",
    "response_code_details",
    "response_flags",
    "route_name",
    "start_time",
    "upstream_cluster",
    "upstream_host",
    "upstream_local_address",
    "upstream_service_time",
    "upstream_transport_failure_reason",
    "user_agent",
    "x_forwarded_for",
];

/// AL2, MC3: JSON lines have Istio's 24 keys, each with its value, on both sides.
#[test]
fn json_lines_have_every_key_on_both_sides() {
    MESH.run(async |mesh| {
        let ask = mesh
            .client("client")
            .post("http://shown/logged?q=1", "body")
            .header("user-agent", "test/1")
            .header("x-request-id", "0e1b5ff4-0d9c-9c3c-8d5e-2a1f0c9d7e11");
        let answer = ask.send().await?;
        assert_eq!(answer.status, 200);
        let of_path = |line: &Value| line["path"] == "/logged?q=1";
        let lines = eventually(DEADLINE, async || {
            let lines = mesh.log(of_path).await?;
            ensure!(lines.len() == 2, "{} lines", lines.len());
            Ok(lines)
        })
        .await?;
        for line in &lines {
            let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, KEYS);
            let inbound = line["upstream_cluster"].as_str().unwrap().starts_with("inbound|");
            for (key, value) in [
                ("authority", "shown"),
                ("method", "POST"),
                ("protocol", "HTTP/1.1"),
                ("response_code_details", "via_upstream"),
                ("response_flags", "-"),
                ("route_name", "default"),
                ("user_agent", "test/1"),
                ("request_id", "0e1b5ff4-0d9c-9c3c-8d5e-2a1f0c9d7e11"),
            ] {
                assert_eq!(line[key], value, "{key} of {line}");
            }
            assert_eq!((&line["bytes_received"], &line["response_code"]), (&4.into(), &200.into()));
            assert_eq!(line["bytes_sent"], answer.body.len());
            assert!(line["duration"].is_u64() && line["start_time"].as_str().unwrap().ends_with('Z'), "{line}");
            assert!(line["upstream_service_time"].as_str().is_some_and(|text| text.parse::<u64>().is_ok()), "{line}");
            for key in ["connection_termination_details", "upstream_transport_failure_reason"] {
                assert!(line[key].is_null(), "{key} of {line}");
            }
            for key in
                ["downstream_local_address", "downstream_remote_address", "upstream_host", "upstream_local_address"]
            {
                assert!(line[key].as_str().unwrap().parse::<std::net::SocketAddr>().is_ok(), "{key} of {line}");
            }
            if inbound {
                assert_eq!(line["upstream_host"], mesh.app("shown-v1").http.to_string());
                assert_eq!(line["downstream_local_address"], mesh.inbound("shown-v1", 0).to_string());
                assert_eq!(line["requested_server_name"], "outbound_.80_._.shown.default.svc.cluster.local");
            } else {
                assert_eq!(line["upstream_host"], mesh.inbound("shown-v1", 0).to_string());
                assert_eq!(line["upstream_cluster"], "outbound|80||shown.default.svc.cluster.local");
                assert!(line["requested_server_name"].is_null());
            }
        }
        Ok(())
    });
}

/// AL1, MC3: text lines have Istio's fields in Istio's order.
#[tokio::test(flavor = "multi_thread")]
async fn text_lines_are_istios() -> Result<()> {
    let mesh =
        Mesh::builder().service("texted", 1).client("client").mesh_config("accessLogEncoding: TEXT").start().await?;
    let ask = mesh
        .client("client")
        .get("http://texted/line")
        .header("user-agent", "test/1")
        .header("x-request-id", "0e1b5ff4-0d9c-9c3c-8d5e-2a1f0c9d7e12");
    let answer = ask.send().await?;
    let lines = eventually(DEADLINE, async || {
        let lines = mesh.log_lines(|line| line.contains("/line"))?;
        ensure!(lines.len() == 2, "{lines:?}");
        Ok(lines)
    })
    .await?;
    let line = lines.iter().find(|line| line.contains("outbound|80||texted")).unwrap();
    let (time, rest) = line.strip_prefix('[').unwrap().split_once("] ").unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let words: Vec<&str> = rest.split(' ').collect();
    assert_eq!(&words[..8], ["\"GET", "/line", "HTTP/1.1\"", "200", "-", "via_upstream", "-", "\"-\""], "{line}");
    assert_eq!((words[8], words[9]), ("0", answer.body.len().to_string().as_str()));
    assert!(words[10].parse::<u64>().is_ok() && words[11].parse::<u64>().is_ok(), "{line}");
    assert_eq!(
        &words[13..17],
        [
            "\"test/1\"",
            "\"0e1b5ff4-0d9c-9c3c-8d5e-2a1f0c9d7e12\"",
            "\"texted\"",
            &format!("\"{}\"", mesh.inbound("texted-v1", 0))
        ],
        "{line}"
    );
    assert_eq!(words[17], "outbound|80||texted.default.svc.cluster.local");
    assert!(words[18..21].iter().all(|word| word.parse::<std::net::SocketAddr>().is_ok()), "{line}");
    assert_eq!(&words[21..], ["-", "default"], "{line}");
    mesh.stop().await;
    Ok(())
}

/// AL4, MC11: a log of the mesh's own making has the fields that it names, and without those that are empty if it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_log_of_the_mesh_has_its_own_fields() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("own.log");
    let labels = "{path: '%REQ(:PATH)%', missing: '%REQ(X-MISSING)%', both: 'a%REQ(X-MISSING)%b'}";
    let provider = format!(
        "{{name: own, envoyFileAccessLog: {{path: {}, omitEmptyValues: true, logFormat: {{labels: {labels}}}}}}}",
        file.display()
    );
    let mesh = Mesh::builder()
        .service("owned", 1)
        .client("client")
        .mesh_config(&format!("extensionProviders: [{provider}]\ndefaultProviders: {{accessLogging: [own]}}"))
        .start()
        .await?;
    assert_eq!(mesh.client("client").get("http://owned/own").status().await, 200);
    let lines = eventually(DEADLINE, async || {
        let lines = std::fs::read_to_string(&file)?;
        ensure!(lines.lines().count() == 2, "{lines}");
        Ok(lines)
    })
    .await?;
    assert!(lines.lines().all(|line| line == r#"{"both":"ab","path":"/own"}"#), "{lines}");
    mesh.stop().await;
    Ok(())
}

/// AL5: response flags say why there was no answer of the application's.
#[test]
fn response_flags_say_why() {
    MESH.run(async |mesh| {
        let client = mesh.client("client");
        let nobody = |host: &str, app: &str| integration_tests::mesh::service("default", host, app);
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.local_addr()?.port()
        };
        let no_retries = |host: &str, more: &str| virtual_service(host, &format!("{{hosts: [{host}], http: [{{route: [{{destination: {{host: {host}}}}}], retries: {{attempts: 0}}{more}}}]}}"));
        let yaml = nobody("flag-uh", "nobody")
            + &nobody("flag-uf", "closed")
            + &object("WorkloadEntry", "default", "closed", &format!("{{address: 127.0.0.1, ports: {{http: {closed}}}, labels: {{app: closed}}}}"))
            + &no_retries("flag-uf", "")
            + &nobody("flag-nr", "shown")
            + &virtual_service("flag-nr", "{hosts: [flag-nr], http: [{match: [{uri: {exact: /only}}], route: [{destination: {host: flag-nr}}]}]}")
            + &nobody("flag-uc", "shown") + &no_retries("flag-uc", "")
            + &nobody("flag-ut", "shown") + &no_retries("flag-ut", ", timeout: 0.05s")
            + &nobody("flag-urx", "shown")
            + &virtual_service("flag-urx", "{hosts: [flag-urx], http: [{route: [{destination: {host: flag-urx}}], retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}}]}")
            + &nobody("flag-uo", "shown")
            + &object("DestinationRule", "default", "flag-uo", "{host: flag-uo, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}}");
        mesh.apply_as("flags", &yaml).await?;
        for (host, header, status) in [
            ("flag-uh", None, 503),
            ("flag-uf", None, 503),
            ("flag-nr", None, 404),
            ("flag-uc", Some(("x-test-reset", "1")), 503),
            ("flag-ut", Some(("x-test-delay", "3000")), 504),
            ("flag-urx", Some(("x-test-status", "503")), 503),
        ] {
            let mut ask = client.get(&format!("http://{host}/"));
            if let Some((name, value)) = header {
                ask = ask.header(name, value);
            }
            assert_eq!(ask.status().await, status, "{host}");
        }
        // Of several at a time only one is let through.
        let slow = || client.get("http://flag-uo/").header("x-test-delay", "300").status();
        let (one, two, three) = tokio::join!(slow(), slow(), slow());
        assert!([one, two, three].contains(&200) && [one, two, three].contains(&503), "{one} {two} {three}");
        // A client that goes away.
        let before = mesh.app("leaving-v1").requests();
        let gone = tokio::spawn(client.get("http://leaving/").header("x-test-delay", "3000").send());
        eventually(DEADLINE, async || {
            ensure!(mesh.app("leaving-v1").requests() > before, "the request has not arrived");
            Ok(())
        })
        .await?;
        gone.abort();
        for (host, flag) in [("flag-uh", "UH"), ("flag-uf", "UF"), ("flag-nr", "NR"), ("flag-uc", "UC"), ("flag-ut", "UT"), ("flag-urx", "URX"), ("flag-uo", "UO"), ("leaving", "DC")] {
            let flagged = |line: &Value| line["authority"] == host && line["response_flags"].as_str().is_some_and(|flags| flags.split(',').any(|one| one == flag));
            let lines = mesh.log(flagged).await;
            assert!(lines.is_ok(), "{host} has no line with {flag}: {:?}", mesh.log(|line| line["authority"] == host).await);
        }
        Ok(())
    });
}

/// TE4: Telemetry turns access logs off and on, for a workload and for a side.
#[test]
fn telemetry_turns_access_logs_off_and_on() {
    MESH.run(async |mesh| {
        let telemetry = |spec: &str| object("Telemetry", "default", "quiet", &format!("{{selector: {{matchLabels: {{app: quiet}}}}, accessLogging: [{spec}]}}")).replace("networking.istio.io", "telemetry.istio.io");
        let client = mesh.client("client");
        for (spec, path, written) in [
            ("{providers: [{name: envoy}], disabled: true}", "/off", false),
            ("{providers: [{name: envoy}], match: {mode: CLIENT}, disabled: true}, {providers: [{name: envoy}], match: {mode: SERVER}}", "/server", true),
            ("{providers: [{name: envoy}]}", "/on", true),
        ] {
            mesh.apply_as("quiet-logs", &telemetry(spec)).await?;
            assert_eq!(client.get(&format!("http://quiet{path}")).status().await, 200);
            // The client's own line comes in any case.
            mesh.log(|line| line["path"] == path).await?;
            if written {
                mesh.log(|line| line["path"] == path && line["upstream_cluster"].as_str().is_some_and(|name| name.starts_with("inbound|"))).await?;
            }
        }
        // Lines of a proxy are in order, so what is not there by now was not written.
        let inbound = mesh.log(|line| line["authority"] == "quiet" && line["upstream_cluster"].as_str().is_some_and(|name| name.starts_with("inbound|"))).await?;
        assert!(inbound.iter().all(|line| line["path"] != "/off"), "{inbound:?}");
        mesh.delete("quiet-logs").await?;
        Ok(())
    });
}

/// AL5: a subset that does not exist is a cluster that does not exist.
#[test]
fn a_subset_that_is_missing_is_no_cluster() {
    MESH.run(async |mesh| {
        let yaml = integration_tests::mesh::service("default", "flag-nc", "shown")
            + &subsets("flag-nc", "")
            + &virtual_service(
                "flag-nc",
                "{hosts: [flag-nc], http: [{route: [{destination: {host: flag-nc, subset: none}}]}]}",
            );
        let _ = mesh.try_apply("flag-nc", &yaml).await?;
        eventually(DEADLINE, async || {
            let status = mesh.client("client").get("http://flag-nc/").status().await;
            ensure!(status == 503, "{status}");
            mesh.log(|line| line["authority"] == "flag-nc" && line["response_flags"] == "NC").await
        })
        .await?;
        Ok(())
    });
}
