//! `DestinationRule`s, `ServiceEntry`s, `WorkloadEntry`s and `Sidecar`s: where requests end up, how many, over what.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use integration_tests::certs::Authority;
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::service;
use integration_tests::{App, Client, Mesh, Shared, eventually, until};

use super::{entry, no_retries, object, policy, rule, subsets, two_ports, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder()
        .service("echo", 3)
        .client("client")
        .client_in("elsewhere", "stranger")
        .client("scope")
        .client("closed")
        .client_in("scoped", "third")
        .client("ingress")
        .client("socket")
});

/// An HTTP service in the mesh by another name, of the workloads of `echo`.
fn alias(host: &str) -> String {
    let spec = format!(
        "{{hosts: ['{host}'], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, workloadSelector: {{labels: {{app: echo}}}}}}"
    );
    object("ServiceEntry", "default", host, &spec)
}

const ROUND_ROBIN: &str = "loadBalancer: {simple: ROUND_ROBIN}";

/// True if three versions take turns, which the other algorithms do twelve times on end once in ten thousand runs.
async fn takes_turns(client: &Client, url: &str) -> Result<bool> {
    let mut versions = Vec::new();
    for _ in 0..15 {
        versions.push(client.get(url).send().await?.version());
    }
    let all: BTreeSet<&String> = versions.iter().collect();
    Ok(all.len() == 3 && versions.windows(4).all(|window| window[0] == window[3]))
}

/// DR1: by short name and by wildcard; hidden by `exportTo`; for some workloads alone by `workloadSelector`.
#[test]
fn a_destination_rule_is_for_the_hosts_and_clients_it_names() {
    MESH.run(async |mesh| {
        let turns = format!("trafficPolicy: {{{ROUND_ROBIN}}}");
        let yaml = alias("a.dr1.example")
            + &object("DestinationRule", "default", "dr1-wild", &format!("{{host: '*.dr1.example', {turns}}}"))
            + &service("default", "dr1-short", "echo")
            + &object("DestinationRule", "default", "dr1-short", &format!("{{host: dr1-short, {turns}}}"))
            + &service("default", "dr1-own", "echo")
            + &object("DestinationRule", "default", "dr1-own", &format!("{{host: dr1-own, exportTo: ['.'], {turns}}}"))
            + &service("default", "dr1-some", "echo")
            + &object(
                "DestinationRule",
                "default",
                "dr1-some",
                &format!("{{host: dr1-some, workloadSelector: {{matchLabels: {{app: client}}}}, {turns}}}"),
            );
        mesh.apply(&yaml).await?;
        let (client, stranger, other) = (mesh.client("client"), mesh.client("stranger"), mesh.client("echo-v1"));
        for (who, url, expected) in [
            (&client, "http://a.dr1.example/", true),
            (&client, "http://dr1-short/", true),
            (&stranger, "http://dr1-short.default/", true),
            (&client, "http://dr1-own/", true),
            (&stranger, "http://dr1-own.default/", false),
            (&client, "http://dr1-some/", true),
            (&other, "http://dr1-some/", false),
        ] {
            assert_eq!(takes_turns(who, url).await?, expected, "{url}");
        }
        Ok(())
    });
}

/// DR2: the rule of the client's namespace comes before that of the service's, and that before the root namespace's; the most
/// specific host wins.
#[test]
fn destination_rules_are_looked_up_from_the_client_outwards() {
    MESH.run(async |mesh| {
        let turns = format!("trafficPolicy: {{{ROUND_ROBIN}}}");
        let random = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
        let host = "host: dr2.default.svc.cluster.local";
        let yaml = service("default", "dr2", "echo")
            + &object("DestinationRule", "elsewhere", "dr2", &format!("{{{host}, {turns}}}"))
            + &object("DestinationRule", "default", "dr2", &format!("{{{host}, {random}}}"))
            + &alias("a.dr2.example")
            + &alias("a.b.dr2.example")
            + &object("DestinationRule", "istio-system", "dr2-root", &format!("{{host: '*.dr2.example', {turns}}}"))
            + &object("DestinationRule", "istio-system", "dr2-near", &format!("{{host: '*.b.dr2.example', {random}}}"));
        mesh.apply(&yaml).await?;
        assert!(takes_turns(&mesh.client("stranger"), "http://dr2.default/").await?, "the client's own");
        assert!(!takes_turns(&mesh.client("client"), "http://dr2/").await?, "the service's");
        assert!(takes_turns(&mesh.client("client"), "http://a.dr2.example/").await?, "the root's");
        assert!(!takes_turns(&mesh.client("client"), "http://a.b.dr2.example/").await?, "the most specific");
        Ok(())
    });
}

/// DR3, DR5: rules for one host are one: subsets add up, the first policy wins; subsets are used where routes name them.
#[test]
fn destination_rules_for_one_host_are_merged() {
    MESH.run(async |mesh| {
        let dated = |name: &str, second: u32, spec: &str| {
            let date = format!("namespace: default, creationTimestamp: '2026-01-01T00:00:{second:02}Z'");
            object("DestinationRule", "default", name, spec).replace("namespace: default", &date)
        };
        let yaml = dated("dr3-a", 10, "{host: dr3, subsets: [{name: one, labels: {version: v1}}]}")
            + &dated(
                "dr3-b",
                20,
                &format!(
                    "{{host: dr3, trafficPolicy: {{{ROUND_ROBIN}}}, subsets: [{{name: two, labels: {{version: v2}}}}]}}"
                ),
            )
            + &dated("dr3-c", 30, "{host: dr3, trafficPolicy: {loadBalancer: {simple: RANDOM}}}")
            + &virtual_service(
                "dr3",
                "{hosts: [dr3], http: [
                {match: [{uri: {prefix: /one}}], route: [{destination: {host: dr3, subset: one}}]},
                {match: [{uri: {prefix: /two}}], route: [{destination: {host: dr3, subset: two}}]},
                {route: [{destination: {host: dr3}}]}]}",
            );
        mesh.case("dr3", "echo", &yaml).await?;
        let client = mesh.client("client");
        assert_eq!(client.count("http://dr3/one", 12).await?["v1"], 12);
        assert_eq!(client.count("http://dr3/two", 12).await?["v2"], 12);
        assert!(takes_turns(&client, "http://dr3/").await?);
        Ok(())
    });
}

/// DR4: a subset's policy overrides block by block; a port's replaces whole.
#[test]
fn policies_of_subsets_override_and_those_of_ports_replace() {
    MESH.run(async |mesh| {
        let spec = format!(
            "{{host: dr4, trafficPolicy: {{{ROUND_ROBIN}, portLevelSettings: [{{port: {{number: 81}}, connectionPool: {{http: {{maxRetries: 7}}}}}}]}},
              subsets: [{{name: inherits, labels: {{app: echo}}, trafficPolicy: {{connectionPool: {{http: {{maxRetries: 7}}}}}}}},
                        {{name: overrides, labels: {{app: echo}}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}]}}"
        );
        let yaml = two_ports("dr4")
            + &object("DestinationRule", "default", "dr4", &spec)
            + &virtual_service("dr4", "{hosts: [dr4], http: [
                {match: [{uri: {prefix: /inherits}}], route: [{destination: {host: dr4, subset: inherits, port: {number: 80}}}]},
                {match: [{uri: {prefix: /overrides}}], route: [{destination: {host: dr4, subset: overrides, port: {number: 80}}}]},
                {match: [{uri: {prefix: /port}}], route: [{destination: {host: dr4, port: {number: 81}}}]},
                {route: [{destination: {host: dr4, port: {number: 80}}}]}]}");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        for (path, expected) in [("/", true), ("/inherits", true), ("/overrides", false), ("/port", false)] {
            assert_eq!(takes_turns(&client, &format!("http://dr4{path}")).await?, expected, "{path}");
        }
        Ok(())
    });
}

/// LB1: ROUND_ROBIN takes turns, RANDOM and LEAST_REQUEST reach every host, LEAST_REQUEST spares a busy one.
#[test]
fn simple_algorithms_share_out_as_they_say() {
    MESH.run(async |mesh| {
        for (host, algorithm) in
            [("lb1-turns", "ROUND_ROBIN"), ("lb1-random", "RANDOM"), ("lb1-least", "LEAST_REQUEST")]
        {
            mesh.case(host, "echo", &policy(host, &format!("loadBalancer: {{simple: {algorithm}}}"))).await?;
        }
        let client = mesh.client("client");
        assert!(takes_turns(&client, "http://lb1-turns/").await?);
        let counts = client.count("http://lb1-random/", 300).await?;
        assert!(counts.len() == 3 && counts.values().all(|count| (50..=150).contains(count)), "{counts:?}");
        assert!(!takes_turns(&client, "http://lb1-random/").await?);
        assert_eq!(client.count("http://lb1-least/", 60).await?.len(), 3);
        // Six requests wait at version 1, so that the others are always less busy.
        let (left, right) = (App::start("busy", "v1").await?, App::start("idle", "v2").await?);
        mesh.apply(
            &(entry("lb1.example", &[&left, &right], "")
                + &policy("lb1.example", "loadBalancer: {simple: LEAST_REQUEST}")),
        )
        .await?;
        let busy = client.get("http://lb1.example/").header("x-test-delay", "1500").header("x-test-only", "v1");
        let waiting = tokio::spawn(join_all((0..12).map(|_| busy.clone().send())));
        until("requests wait at version 1", async || left.most_at_once() >= 3).await;
        let before = left.requests();
        let counts = client.count("http://lb1.example/", 80).await?;
        // Of two draws both are the busy one a quarter of the time; four standard deviations from 60.
        assert!(counts["v2"] >= 45, "{counts:?}, {} at the busy one", left.requests() - before);
        waiting.await?;
        Ok(())
    });
}

/// CP1, CP6, CP7: what is over the limits is 503 with flag UO, and the rest is served.
#[test]
fn requests_over_the_limits_are_refused() {
    MESH.run(async |mesh| {
        for (host, limits, most) in [
            ("cp1.example", "{tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 1}}", 2),
            ("cp6.example", "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2}}", 1),
            ("cp7.example", "{http: {http2MaxRequests: 3}}", 3),
        ] {
            let app = App::start("limited", "v1").await?;
            let yaml = entry(host, &[&app], "") + &policy(host, &format!("connectionPool: {limits}"))
                + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 0}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
            mesh.apply(&yaml).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-delay", "1500");
            // Those that run fill the connections, one by one, since a request also waits while its connection is made. The
            // others find only the room to wait.
            let mut running = Vec::new();
            for count in 1..=most {
                running.push(tokio::spawn(ask.clone().send()));
                until("a connection is in use", async || app.most_at_once() == count).await;
            }
            let others = join_all((0..10 - most).map(|_| ask.clone().send())).await;
            for answer in join_all(running).await {
                assert_eq!(answer??.status, 200, "{host}");
            }
            let answers = others.into_iter().map(|answer| answer.map(|answer| (answer.status, answer.text())));
            let statuses: Vec<_> = answers.collect::<Result<_>>()?;
            let good = statuses.iter().filter(|(status, _)| *status == 200).count() as u64;
            let refused: Vec<_> = statuses.iter().filter(|(status, _)| *status == 503).collect();
            assert_eq!(good + refused.len() as u64, 10 - most, "{host}: {statuses:?}");
            assert_eq!(good, 3 - most, "{host}: {statuses:?}");
            assert!(refused.iter().all(|(_, text)| text.contains("overflow")), "{host}: {statuses:?}");
            assert_eq!(app.most_at_once(), most, "{host}");
            let lines = mesh.log(|line| line["authority"] == host && line["response_code"] == 503).await?;
            assert!(lines.iter().all(|line| line["response_flags"] == "UO"), "{lines:?}");
        }
        Ok(())
    });
}

/// CP8: a connection is closed after as many requests as allowed.
#[test]
fn a_connection_carries_as_many_requests_as_allowed() {
    MESH.run(async |mesh| {
        for (host, most) in [("cp8-one.example", 1), ("cp8-three.example", 3), ("cp8-any.example", 0)] {
            let app = App::start("counted", "v1").await?;
            let yaml = entry(host, &[&app], "")
                + &policy(host, &format!("connectionPool: {{http: {{maxRequestsPerConnection: {most}}}}}"));
            mesh.apply(&yaml).await?;
            assert_eq!(mesh.client("client").count(&format!("http://{host}/"), 9).await?["v1"], 9);
            let expected = 9_u64.checked_div(most).unwrap_or(1);
            assert_eq!(app.connections(), expected, "{host}");
        }
        Ok(())
    });
}

/// CP5, CP10: a connection that is not used is closed after the idle timeout, and stays open before.
#[test]
fn idle_connections_are_closed_when_they_should() {
    MESH.run(async |mesh| {
        let (short, long) = (App::start("short", "v1").await?, App::start("long", "v1").await?);
        let yaml = entry("cp10-short.example", &[&short], "")
            + &policy("cp10-short.example", "connectionPool: {http: {idleTimeout: 1s}}")
            + &entry("cp10-long.example", &[&long], "");
        mesh.apply(&yaml).await?;
        for host in ["cp10-short.example", "cp10-long.example"] {
            assert_eq!(mesh.client("client").get(&format!("http://{host}/")).status().await, 200);
        }
        assert_eq!((short.open_connections(), long.open_connections()), (1, 1));
        until("the idle connection is closed", async || short.open_connections() == 0).await;
        assert_eq!(long.open_connections(), 1);
        Ok(())
    });
}

/// CP11, CP12: HTTP/1 requests are sent as HTTP/2 where UPGRADE says so, and not otherwise.
#[test]
fn http_1_is_upgraded_where_the_rule_says() {
    MESH.run(async |mesh| {
        let app = App::start("protocol", "v1").await?;
        for (host, policy_text, by_http1, by_http2) in [
            ("cp11-default.example", "DEFAULT", "HTTP/1.1", "HTTP/1.1"),
            ("cp11-upgrade.example", "UPGRADE", "HTTP/2.0", "HTTP/2.0"),
            ("cp11-stay.example", "DO_NOT_UPGRADE", "HTTP/1.1", "HTTP/1.1"),
        ] {
            let yaml = entry(host, &[&app], "")
                + &policy(host, &format!("connectionPool: {{http: {{h2UpgradePolicy: {policy_text}}}}}"));
            mesh.apply(&yaml).await?;
            let url = format!("http://{host}/");
            assert_eq!(mesh.client("client").get(&url).send().await?.field("protocol"), by_http1, "{host}");
            assert_eq!(mesh.client("client").get(&url).http2().send().await?.field("protocol"), by_http2, "{host}");
        }
        mesh.apply(
            &(entry("cp12.example", &[&app], "")
                + &policy("cp12.example", "connectionPool: {http: {useClientProtocol: true}}")),
        )
        .await?;
        assert_eq!(mesh.client("client").get("http://cp12.example/").send().await?.field("protocol"), "HTTP/1.1");
        assert_eq!(
            mesh.client("client").get("http://cp12.example/").http2().send().await?.field("protocol"),
            "HTTP/2.0"
        );
        Ok(())
    });
}

/// OD1, OD4, OD5: a host that fails often enough is left out, and comes back.
#[test]
fn a_failing_host_is_ejected_and_returns() {
    MESH.run(async |mesh| {
        let (good, bad) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
        let host = "od1.example";
        let yaml = entry(host, &[&good, &bad], "") + &no_retries(host)
            + &policy(host, "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        let failing = client.get(&format!("http://{host}/")).header("x-test-status", "500").header("x-test-only", "v2");
        let mut failed = 0;
        for _ in 0..12 {
            failed += usize::from(failing.clone().status().await == 500);
        }
        assert_eq!(failed, 3, "ejected after three in a row");
        let ejected = Instant::now();
        assert_eq!(client.count(&format!("http://{host}/"), 10).await?.get("v2"), None);
        until("the host returns", async || client.get(&format!("http://{host}/")).send().await.is_ok_and(|answer| answer.version() == "v2")).await;
        assert!(ejected.elapsed() > Duration::from_millis(2500), "{:?}", ejected.elapsed());
        Ok(())
    });
}

/// OD2: gateway errors are counted apart, and 500 is none. OD6: no more hosts are left out than allowed.
#[test]
fn gateway_errors_eject_and_no_more_hosts_than_allowed() {
    MESH.run(async |mesh| {
        let (left, right) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
        let outliers = |percent: u32| format!("loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: {percent}}}");
        for (host, percent) in [("od2-half.example", 50), ("od2-all.example", 100)] {
            let yaml = entry(host, &[&left, &right], "") + &no_retries(host) + &policy(host, &outliers(percent));
            mesh.apply(&yaml).await?;
            let client = mesh.client("client");
            let ask = |status: &str| client.get(&format!("http://{host}/")).header("x-test-status", status);
            for _ in 0..10 {
                assert_eq!(ask("500").status().await, 500, "500 is no gateway error");
            }
            for _ in 0..10 {
                ask("502").status().await;
            }
            if percent == 100 {
                // With every host left out, all are used again (panic) only if the mesh allows it; Istio does not.
                let answer = ask("200").send().await?;
                assert_eq!((answer.status, answer.text().as_str()), (503, "no healthy upstream"));
            } else {
                assert_eq!(client.count(&format!("http://{host}/"), 10).await?.len(), 1, "{host}");
            }
        }
        Ok(())
    });
}

/// OD3: failures to connect are counted apart where errors are told apart; OD8: and among the rest otherwise.
#[test]
fn hosts_that_cannot_be_reached_are_ejected() {
    MESH.run(async |mesh| {
        let app = App::start("alive", "v1").await?;
        let dead = App::start("dead", "v2").await?;
        let entries = ["od3-split.example", "od3-together.example"].map(|host| entry(host, &[&app, &dead], "") + &no_retries(host));
        drop(dead);
        let split = "splitExternalLocalOriginErrors: true, consecutive5xxErrors: 0, consecutiveLocalOriginFailures: 2";
        for (host, errors) in [("od3-split.example", split), ("od3-together.example", "consecutive5xxErrors: 2")] {
            let entry = &entries[usize::from(host.contains("together"))];
            mesh.apply(&(entry.clone() + &policy(host, &format!("loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{{errors}, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}}")))).await?;
            let counts = mesh.client("client").count(&format!("http://{host}/"), 12).await?;
            assert_eq!((counts.get("503"), counts["v1"]), (Some(&2), 10), "{host}: {counts:?}");
        }
        Ok(())
    });
}

/// TL1, TL2, TL4, TL5, TL6, SE5: TLS to servers outside the mesh: what is trusted, which names count, what is shown.
#[test]
fn servers_outside_the_mesh_are_reached_by_tls() {
    MESH.run(async |mesh| {
        let authority = Authority::new("outside")?;
        let pair = authority.issue(&["tls.example", "127.0.0.1"])?;
        let mut app = App::start("secure", "v1").await?;
        let (plain, mutual) = (app.serve_tls(&pair, None).await?, app.serve_tls(&pair, Some(authority.pem())).await?);
        let visitor = authority.issue(&["visitor.example"])?;
        let ca = mesh.file("tl1-ca.pem", authority.pem())?;
        let other = mesh.file("tl1-other.pem", Authority::new("other")?.pem())?;
        let (cert, key) = (mesh.file("tl1-cert.pem", &visitor.cert)?, mesh.file("tl1-key.pem", &visitor.key)?);
        let own = format!("clientCertificate: {cert}, privateKey: {key}");
        for (name, port, sans, tls, expected) in [
            ("simple", plain, "", format!("mode: SIMPLE, caCertificates: {ca}, sni: tls.example"), 200),
            ("named", plain, "", format!("mode: SIMPLE, caCertificates: {ca}, subjectAltNames: [tls.example]"), 200),
            ("misnamed", plain, "", format!("mode: SIMPLE, caCertificates: {ca}, subjectAltNames: [other.example]"), 503),
            ("untrusted", plain, "", format!("mode: SIMPLE, caCertificates: {other}, sni: tls.example"), 503),
            ("roots", plain, "", "mode: SIMPLE, sni: tls.example".to_owned(), 503),
            ("skipped", plain, "", "mode: SIMPLE, insecureSkipVerify: true, sni: tls.example".to_owned(), 200),
            ("entry", plain, ", subjectAltNames: [tls.example]", format!("mode: SIMPLE, caCertificates: {ca}"), 200),
            ("entry-misnamed", plain, ", subjectAltNames: [other.example]", format!("mode: SIMPLE, caCertificates: {ca}"), 503),
            ("mutual", mutual, "", format!("mode: MUTUAL, caCertificates: {ca}, {own}, subjectAltNames: [tls.example]"), 200),
            ("shy", mutual, "", format!("mode: SIMPLE, caCertificates: {ca}, subjectAltNames: [tls.example]"), 503),
            ("plaintext", plain, "", "mode: DISABLE".to_owned(), 502),
        ] {
            let host = format!("{name}.tl1.example");
            let spec = format!("{{hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]{sans}}}", port.port());
            mesh.apply(&(object("ServiceEntry", "default", &host, &spec) + &policy(&host, &format!("tls: {{{tls}}}")))).await?;
            let answer = mesh.client("client").get(&format!("http://{host}/")).send().await?;
            assert_eq!(answer.status, expected, "{name}: {}", answer.text());
            if expected == 200 {
                let sni = if tls.contains("sni:") { "tls.example" } else { host.as_str() };
                assert_eq!(answer.field("server_name"), sni, "{name}");
                assert_eq!(answer.field("client_certificate"), (name == "mutual").to_string(), "{name}");
            }
        }
        Ok(())
    });
}

/// DR8: retries over the budget are not made.
#[test]
fn retries_keep_to_their_budget() {
    MESH.run(async |mesh| {
        let mut tries = Vec::new();
        for (host, budget) in [("dr8-free.example", "connectionPool: {http: {maxRetries: 1024}}, "), ("bx10-default.example", ""), ("dr8-tight.example", "retryBudget: {percent: {value: 1}, minRetryConcurrency: 1}, ")] {
            let app = App::start("failing", "v1").await?;
            let yaml = entry(host, &[&app], "") + &policy(host, &format!("{budget}{ROUND_ROBIN}"))
                + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 2, retryOn: 5xx}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
            mesh.apply(&yaml).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-status", "503").header("x-test-delay", "100");
            let statuses = join_all((0..20).map(|_| ask.clone().status())).await;
            assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
            tries.push(app.requests());
        }
        assert_eq!(tries[0], 60, "each request is tried three times");
        // Ten retries at a time, of twenty requests that fail together.
        assert!((30..60).contains(&tries[1]), "{tries:?}");
        assert!((20..45).contains(&tries[2]), "{tries:?}");
        Ok(())
    });
}

/// VR3: `reset` retries what an application outside the mesh breaks off.
#[test]
fn broken_connections_are_retried_where_asked() {
    MESH.run(async |mesh| {
        for (host, retry, expected) in [("vr3-reset.example", "reset", 200), ("vr3-none.example", "connect-failure", 503)] {
            let app = App::start("breaking", "v1").await?;
            let yaml = entry(host, &[&app], "")
                + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 2, retryOn: {retry}}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
            mesh.apply(&yaml).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-reset", "1");
            let answer = ask.header("x-test-fail-first", "2").header("x-test-id", host).send().await?;
            assert_eq!(answer.status, expected, "{host}: {}", answer.text());
        }
        Ok(())
    });
}

/// DR9: mutual TLS to those who speak it, plaintext to others, host by host; and none where the rule says so.
#[test]
fn mutual_tls_is_for_those_who_speak_it() {
    MESH.run(async |mesh| {
        let plain = App::start("plain", "v4").await?;
        let yaml = object("WorkloadEntry", "default", "dr9-plain", &format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{dr9: member}}}}", plain.http.port()))
            + &object("ServiceEntry", "default", "dr9", "{hosts: [plain.dr9.example], location: MESH_INTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {dr9: member}}}")
            + &alias("auto.dr9.example")
            + &alias("mutual.dr9.example") + &policy("mutual.dr9.example", "tls: {mode: ISTIO_MUTUAL}")
            + &alias("off.dr9.example") + &policy("off.dr9.example", "tls: {mode: DISABLE}");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        for (host, peer) in [("auto", mesh.identity("client")), ("mutual", mesh.identity("client")), ("off", String::new()), ("plain", String::new())] {
            let answer = client.get(&format!("http://{host}.dr9.example/")).send().await?;
            assert_eq!(answer.status, 200, "{host}: {}", answer.text());
            assert_eq!(answer.peer(), peer, "{host}");
        }
        assert_eq!(mesh.identity("client"), "spiffe://cluster.local/ns/default/sa/client");
        Ok(())
    });
}

/// SE1, SE2, SE3: hosts, ports and target ports; static and DNS endpoints, inline and by selector.
#[test]
fn service_entries_name_services_of_all_kinds() {
    MESH.run(async |mesh| {
        let app = App::start("outside", "v9").await?;
        let port = app.http.port();
        let yaml = object("ServiceEntry", "default", "se1-target", &format!("{{hosts: [one.se1.example, two.se1.example], ports: [{{number: 8080, name: http, protocol: HTTP, targetPort: {port}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}"))
            + &object("ServiceEntry", "default", "se1-dns", &format!("{{hosts: [dns.se1.example], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}], resolution: DNS, endpoints: [{{address: localhost}}]}}"))
            + &object("ServiceEntry", "default", "se1-round-robin", &format!("{{hosts: [rr.se1.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS_ROUND_ROBIN, endpoints: [{{address: localhost, ports: {{http: {port}}}}}]}}"))
            + &object("ServiceEntry", "default", "se1-self", &format!("{{hosts: [localhost], ports: [{{number: {port}, name: http, protocol: HTTP}}], resolution: DNS}}"))
            + &alias("selected.se1.example");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        for (url, expected) in [
            ("http://one.se1.example:8080/".to_owned(), "v9"),
            ("http://two.se1.example:8080/".to_owned(), "v9"),
            ("http://dns.se1.example/".to_owned(), "v9"),
            ("http://rr.se1.example/".to_owned(), "v9"),
            (format!("http://localhost:{port}/"), "v9"),
        ] {
            until(&url, async || client.get(&url).send().await.is_ok_and(|answer| answer.version() == expected)).await;
        }
        assert_eq!(client.count("http://selected.se1.example/", 30).await?.len(), 3);
        Ok(())
    });
}

/// SE4: an entry that is not exported is its namespace's own, or nobody's.
#[test]
fn service_entries_are_seen_where_they_are_exported() {
    MESH.run(async |mesh| {
        let app = App::start("outside", "v9").await?;
        let yaml = entry("all.se4.example", &[&app], "")
            + &entry("own.se4.example", &[&app], ", exportTo: ['.']")
            + &entry("named.se4.example", &[&app], ", exportTo: [elsewhere]");
        mesh.apply(&yaml).await?;
        for (host, at_home, elsewhere) in [("all", true, true), ("own", true, false), ("named", false, true)] {
            let url = format!("http://{host}.se4.example/");
            for (client, expected) in [("client", at_home), ("stranger", elsewhere)] {
                let reached = mesh.client(client).get(&url).send().await.is_ok_and(|answer| answer.version() == "v9");
                assert_eq!(reached, expected, "{host} from {client}");
            }
        }
        Ok(())
    });
}

/// WE1: weights and ports of workload entries.
#[test]
fn workload_entries_have_weights_and_ports() {
    MESH.run(async |mesh| {
        let (heavy, light) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
        let member = |name: &str, app: &App, weight: u32| {
            object("WorkloadEntry", "default", name, &format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{we1: member}}, weight: {weight}}}", app.http.port()))
        };
        let yaml = member("we1-heavy", &heavy, 3) + &member("we1-light", &light, 1)
            + &object("ServiceEntry", "default", "we1", "{hosts: [we1.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {we1: member}}}")
            + &policy("we1.example", ROUND_ROBIN);
        mesh.apply_as("we1", &yaml).await?;
        let counts = mesh.client("client").count("http://we1.example/", 80).await?;
        assert!((55..=65).contains(&counts["v1"]), "{counts:?}");
        // A workload that goes is asked no more.
        mesh.apply_as("we1", &yaml.replace("weight: 3}", "weight: 3, labels: {we1: gone}}").replace("labels: {we1: member}, weight: 3, ", "weight: 3, ")).await?;
        assert_eq!(mesh.client("client").count("http://we1.example/", 20).await?.get("v1"), None);
        Ok(())
    });
}

/// SC2, SC6: a sidecar knows what its Sidecar lets it reach and does not take out again, and is sent nothing else.
#[test]
fn a_sidecar_is_sent_what_it_may_reach() {
    MESH.run(async |mesh| {
        let yaml = service("default", "sc2-in", "echo") + &service("default", "sc2-out", "echo") + &service("elsewhere", "sc2-far", "nobody")
            + &virtual_service("sc2-out", "{hosts: [sc2-out], http: [{directResponse: {status: 218}}]}");
        mesh.apply(&yaml).await?;
        let egress = |hosts: &str| format!("{{egress: [{{port: {{number: ${{port}}, protocol: HTTP_PROXY, name: proxy}}, bind: 127.0.0.1, captureMode: NONE, hosts: [{hosts}]}}]}}");
        for (hosts, inside, outside) in [("'./sc2-in.default.svc.cluster.local'", true, false), ("'./*'", true, true), ("'elsewhere/*'", false, false), ("'*/sc2-out.default.svc.cluster.local'", false, true),
            ("'./*', '~default/sc2-in.default.svc.cluster.local'", false, true), ("'*/*', '~./sc2-out.default.svc.cluster.local'", true, false), ("'*/*', '~elsewhere/*'", true, true), ("'*/*', '~default/*'", false, false)] {
            mesh.set_sidecar("scope", &egress(hosts)).await?;
            let clusters = mesh.admin("scope", "/clusters").await?;
            assert_eq!(clusters.contains("outbound|80||sc2-in.default"), inside, "{hosts}");
            assert_eq!(clusters.contains("outbound|80||sc2-out.default"), outside, "{hosts}");
            let client = mesh.client("scope");
            assert_eq!(client.get("http://sc2-in/").status().await == 200, inside, "{hosts}");
            assert_eq!(client.get("http://sc2-out/").status().await == 218, outside, "{hosts}");
        }
        Ok(())
    });
}

/// SC5, G18: with REGISTRY_ONLY a host that nobody knows is 502, and known ones are reached.
#[test]
fn unknown_hosts_are_refused_where_only_the_registry_counts() {
    MESH.run(async |mesh| {
        mesh.case("sc5", "echo", "").await?;
        mesh.set_sidecar("closed", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{port: {number: ${port}, protocol: HTTP_PROXY, name: proxy}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}]}").await?;
        assert_eq!(mesh.client("closed").get("http://sc5/").status().await, 200);
        assert_eq!(mesh.client("closed").get("http://unheard-of.example/").status().await, 502);
        Ok(())
    });
}

/// SC1: the Sidecar of the workload comes before that of its namespace, and that before the root namespace's.
#[test]
fn the_nearest_sidecar_counts() {
    MESH.run(async |mesh| {
        let names = ["sc1-root", "sc1-namespace", "sc1-workload"];
        let port = mesh.client("third").address().port();
        let egress = |name: &str| format!("{{egress: [{{port: {{number: {port}, protocol: HTTP_PROXY, name: proxy}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/{name}.default.svc.cluster.local']}}]}}");
        mesh.apply(&names.map(|name| service("default", name, "echo")).concat()).await?;
        let reached = async || {
            let mut found = Vec::new();
            for name in names {
                if mesh.client("third").get(&format!("http://{name}.default/")).status().await == 200 {
                    found.push(name);
                }
            }
            found
        };
        mesh.set_sidecar("third", &egress("sc1-workload")).await?;
        mesh.apply_as("sc1-namespace", &object("Sidecar", "scoped", "default", &egress("sc1-namespace"))).await?;
        assert_eq!(reached().await, ["sc1-workload"]);
        mesh.set_sidecar("third", "").await?;
        assert_eq!(reached().await, ["sc1-namespace"]);
        // Every other workload of the mesh has a Sidecar of its own.
        mesh.apply_as("sc1-root", &object("Sidecar", "istio-system", "default", &egress("sc1-root"))).await?;
        assert_eq!(reached().await, ["sc1-namespace"]);
        mesh.delete("sc1-namespace").await?;
        assert_eq!(reached().await, ["sc1-root"]);
        Ok(())
    });
}

/// SC3: an ingress listener leads to the endpoint that the Sidecar names.
#[test]
fn ingress_leads_where_the_sidecar_says() {
    MESH.run(async |mesh| {
        let app = App::start("local", "v7").await?;
        let address = mesh.workload_address("ingress").await?;
        let free = mesh.client("ingress").address().port();
        let yaml = object("ServiceEntry", "default", "sc3", &format!("{{hosts: [sc3.example], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {free}}}], resolution: STATIC, workloadSelector: {{labels: {{app: ingress}}}}}}"));
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("ingress", &format!("{{ingress: [{{port: {{number: {free}, protocol: HTTP, name: http}}, bind: {address}, captureMode: NONE, defaultEndpoint: '127.0.0.1:{}'}}]}}", app.http.port())).await?;
        let answer = mesh.client("client").get("http://sc3.example/").send().await?;
        assert_eq!((answer.version().as_str(), answer.peer()), ("v7", mesh.identity("client")));
        Ok(())
    });
}

/// SE6, SC3: endpoints at Unix sockets, of services outside the mesh and of an application beside its sidecar.
#[test]
fn unix_sockets_are_endpoints() {
    MESH.run(async |mesh| {
        let mut app = App::start("socket", "v6").await?;
        let path = mesh.path("se6.sock");
        app.serve_unix(&path)?;
        let address = mesh.workload_address("socket").await?;
        let free = mesh.client("socket").address().port();
        let yaml = object("ServiceEntry", "default", "se6", &format!("{{hosts: [se6.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: 'unix://{path}'}}]}}"))
            + &object("ServiceEntry", "default", "sc3-unix", &format!("{{hosts: [unix.sc3.example], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {free}}}], resolution: STATIC, workloadSelector: {{labels: {{app: socket}}}}}}"));
        mesh.apply(&yaml).await?;
        mesh.set_sidecar("socket", &format!("{{ingress: [{{port: {{number: {free}, protocol: HTTP, name: http}}, bind: {address}, captureMode: NONE, defaultEndpoint: 'unix://{path}'}}]}}")).await?;
        for (host, peer) in [("se6.example", String::new()), ("unix.sc3.example", mesh.identity("client"))] {
            let answer = mesh.client("client").get(&format!("http://{host}/")).send().await?;
            assert_eq!((answer.version().as_str(), answer.peer()), ("v6", peer), "{host}");
        }
        Ok(())
    });
}

/// SE1: the addresses of a service lead to it, as its names do.
#[test]
fn addresses_of_service_entries_lead_to_them() {
    MESH.run(async |mesh| {
        let app = App::start("outside", "v9").await?;
        mesh.apply(&entry("address.se1.example", &[&app], ", addresses: [240.1.2.3, 240.1.2.4]")).await?;
        for url in ["http://240.1.2.3/", "http://240.1.2.3:80/", "http://240.1.2.4/", "http://address.se1.example/"] {
            assert_eq!(mesh.client("client").get(url).send().await?.version(), "v9", "{url}");
        }
        Ok(())
    });
}

/// WE1: entries have names that DNS finds.
#[test]
fn workload_entries_have_names_for_addresses() {
    MESH.run(async |mesh| {
        let app = App::start("named", "v8").await?;
        let yaml = object("WorkloadEntry", "default", "we1-named", &format!("{{address: localhost, ports: {{http: {}}}, labels: {{we1: named}}}}", app.http.port()))
            + &object("ServiceEntry", "default", "we1-named", "{hosts: [named.we1.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS, workloadSelector: {labels: {we1: named}}}");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        until("the name is found", async || client.get("http://named.we1.example/").send().await.is_ok_and(|answer| answer.version() == "v8")).await;
        Ok(())
    });
}

/// WE1, SE7: servers must show the identity of their entry's service account, or one that a ServiceEntry of the same host names.
#[test]
fn servers_show_the_identities_that_entries_name() {
    MESH.run(async |mesh| {
        let host = "se7.default.svc.cluster.local";
        let member = |account: &str| {
            let mut spec = mesh.workload_entry("echo-v1")?;
            spec["labels"]["app"] = "se7".into();
            spec["serviceAccount"] = account.into();
            anyhow::Ok(object("WorkloadEntry", "default", "se7", &spec.to_string()) + &service("default", "se7", "se7"))
        };
        let ask = mesh.client("client").get("http://se7/");
        mesh.apply_as("se7", &member("echo")?).await?;
        assert_eq!(ask.clone().send().await?.peer(), mesh.identity("client"));
        mesh.apply_as("se7", &member("somebody")?).await?;
        assert_eq!(ask.clone().status().await, 503);
        let named = format!("{{hosts: [{host}], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, subjectAltNames: ['{}']}}", mesh.identity("echo-v1"));
        mesh.apply(&object("ServiceEntry", "default", "se7", &named)).await?;
        assert_eq!(ask.send().await?.peer(), mesh.identity("client"));
        let findings = mesh.findings().await?;
        let told = |finding: &serde_json::Value| {
            finding["field"] == "hosts[0]" && finding["message"].as_str().is_some_and(|text| text.starts_with(host))
        };
        assert!(findings.as_array().into_iter().flatten().any(told), "what else the entry says has no effect: {findings}");
        Ok(())
    });
}

/// DR5: rules of subsets that nobody names change nothing.
#[test]
fn subsets_that_no_route_names_are_not_used() {
    MESH.run(async |mesh| {
        mesh.case("dr5", "echo", &subsets("dr5", "")).await?;
        assert_eq!(mesh.client("client").count("http://dr5/", 40).await?.len(), 3);
        mesh.apply_as(
            "dr5",
            &(service("default", "dr5", "echo") + &rule("dr5", "{route: [{destination: {host: dr5, subset: v2}}]}")),
        )
        .await?;
        assert_eq!(mesh.client("client").count("http://dr5/", 40).await?["v2"], 40);
        Ok(())
    });
}

/// VM8: routes with a `statPrefix` are counted apart, and count on when their rule changes.
#[test]
fn routes_with_a_prefix_are_counted_apart() {
    MESH.run(async |mesh| {
        let host = "vm8.example";
        let rule = |timeout: &str| {
            let to = format!("timeout: {timeout}, route: [{{destination: {{host: {host}}}}}]");
            let first = format!("{{match: [{{uri: {{prefix: /buy}}, statPrefix: shop}}], {to}}}");
            virtual_service(host, &format!("{{hosts: [{host}], http: [{first}, {{{to}}}]}}"))
        };
        let ask = |path: &str| mesh.client("client").get(&format!("http://{host}{path}"));
        let counted = async |class: &str| {
            mesh.stat("client", &format!("vhost.{host}:80.route.shop.upstream_rq_{class}")).await
        };
        mesh.apply_as("vm8", &(alias(host) + &rule("9s"))).await?;
        for (path, status) in [("/buy", "200"), ("/buy/more", "503"), ("/else", "200")] {
            ask(path).header("x-test-status", status).status().await;
        }
        eventually(DEADLINE, async || {
            let seen = (counted("2xx").await?, counted("5xx").await?, counted("total").await?);
            ensure!(seen == (1, 1, 2), "{seen:?}");
            Ok(())
        })
        .await?;
        mesh.apply_as("vm8", &(alias(host) + &rule("8s"))).await?;
        assert_eq!(ask("/buy").status().await, 200);
        eventually(DEADLINE, async || {
            let seen = counted("2xx").await?;
            ensure!(seen == 2, "{seen}");
            Ok(())
        })
        .await?;
        let line = "envoy_vhost_route_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_virtual_host=\"vm8.example:80\",envoy_route=\"shop\"} 2";
        let page = mesh.admin("client", "/stats/prometheus").await?;
        assert!(page.contains(line), "{page}");
        Ok(())
    });
}
