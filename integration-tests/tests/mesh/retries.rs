//! Retries beside those of a rule: the back-off, the mesh's own policy, what a server's sidecar does by itself, and limits.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use integration_tests::{App, Mesh, Shared};
use tokio::net::TcpListener;

use super::{entry, object, policy, virtual_service};

static MESH: Shared = Shared::new(|| {
    Mesh::builder()
        .client("client")
        .client("dead")
        .client("breaking")
        .client("leaving")
        .client("staying")
        .mesh_config("defaultHttpRetryPolicy: {attempts: 3, retryOn: '418'}")
});

/// VR6: a retry waits up to the back-off, drawn at random as Envoy does; without one it comes within 25 ms.
#[test]
fn a_retry_waits_for_its_back_off() {
    MESH.run(async |mesh| {
        let app = App::start("failing", "v1").await?;
        let host = "vr6.example";
        // Twenty retries wait at a time, more than the budget that holds without a rule.
        let yaml = entry(host, &[&app], "")
            + &policy(host, "connectionPool: {http: {maxRetries: 100}}")
            + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 1, retryOn: 5xx, backoff: 1s}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
        mesh.apply(&yaml).await?;
        let asked = (0..20).map(async |number| {
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-fail-first", "1");
            let started = Instant::now();
            (ask.header("x-test-id", &number.to_string()).status().await, started.elapsed())
        });
        let answers = join_all(asked).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        // All twenty draw less than half of the second once in a million runs.
        assert!(answers.iter().any(|(_, waited)| *waited > Duration::from_millis(500)), "{answers:?}");
        Ok(())
    });
}

/// VR7: the mesh's own policy holds where no rule has one.
#[test]
fn the_mesh_has_a_retry_policy_for_rules_without_one() {
    MESH.run(async |mesh| {
        let of_rule = |host: &str, more: &str| {
            virtual_service(
                host,
                &format!("{{hosts: [{host}], http: [{{{more}route: [{{destination: {{host: {host}}}}}]}}]}}"),
            )
        };
        for (host, rule, tries, status) in [
            ("plain.vr7.example", None, 4, 200),
            ("silent.vr7.example", Some(""), 4, 200),
            ("own.vr7.example", Some("retries: {attempts: 1, retryOn: '418'}, "), 2, 418),
            ("none.vr7.example", Some("retries: {attempts: 0}, "), 1, 418),
            ("other.vr7.example", Some("retries: {attempts: 3, retryOn: 5xx}, "), 1, 418),
        ] {
            let app = App::start("failing", "v1").await?;
            mesh.apply(&(entry(host, &[&app], "") + &rule.map(|more| of_rule(host, more)).unwrap_or_default())).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-status", "418");
            let found = ask.header("x-test-fail-first", "3").header("x-test-id", host).status().await;
            assert_eq!((found, app.requests()), (status, tries), "{host}");
        }
        Ok(())
    });
}

/// A service of one workload whose Sidecar leads to an address of its own.
async fn ingress(mesh: &Mesh, workload: &str, host: &str, endpoint: &str) -> Result<u16> {
    let (address, port) = (mesh.workload_address(workload).await?, mesh.client(workload).address().port());
    mesh.apply(&object("ServiceEntry", "default", host, &format!("{{hosts: [{host}], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}], resolution: STATIC, workloadSelector: {{labels: {{app: {workload}}}}}}}"))).await?;
    mesh.set_sidecar(workload, &format!("{{ingress: [{{port: {{number: {port}, protocol: HTTP, name: http}}, bind: {address}, captureMode: NONE, defaultEndpoint: '{endpoint}'}}]}}")).await?;
    Ok(port)
}

/// VR8: a server's sidecar tries twice more to reach its application, and sends nothing twice that may have reached it.
#[test]
fn a_servers_sidecar_retries_what_did_not_reach_the_application() {
    MESH.run(async |mesh| {
        let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let port = ingress(mesh, "dead", "dead.vr8.example", &nobody.to_string()).await?;
        assert_eq!(mesh.client("client").get("http://dead.vr8.example/").status().await, 503);
        let stats = mesh.admin("dead", "/stats?filter=upstream_cx_connect_fail").await?;
        assert!(stats.contains(&format!("cluster.inbound|{port}||.upstream_cx_connect_fail: 3\n")), "{stats}");
        let app = App::start("breaking", "v1").await?;
        ingress(mesh, "breaking", "breaking.vr8.example", &app.http.to_string()).await?;
        let ask = mesh.client("client").get("http://breaking.vr8.example/").header("x-test-reset", "1");
        assert_eq!((ask.status().await, app.requests()), (503, 1));
        Ok(())
    });
}

/// VR1: what did not reach the application behind one sidecar is tried at the next workload, also a POST, if the rule retries connect
/// failures; the client hears nothing of how that is known.
#[test]
fn a_request_that_no_application_took_goes_to_another_workload() {
    MESH.run(async |mesh| {
        let app = App::start("staying", "v1").await?;
        let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let (mut endpoints, mut leaving) = (Vec::new(), None);
        for (workload, endpoint) in [("leaving", nobody), ("staying", app.http)] {
            let port = ingress(mesh, workload, &format!("{workload}.vr1.example"), &endpoint.to_string()).await?;
            let address = mesh.workload_address(workload).await?;
            leaving.get_or_insert(format!("{address}:{port}"));
            endpoints.push(format!("{{address: {address}, ports: {{http: {port}}}, serviceAccount: {workload}, labels: {{security.istio.io/tlsMode: istio}}}}"));
        }
        let entry = |host: &str, retries: &str| {
            object("ServiceEntry", "default", host, &format!("{{hosts: [{host}], location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{}]}}", endpoints.join(", ")))
                + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{{retries}}}, route: [{{destination: {{host: {host}}}}}]}}]}}"))
        };
        let hosts = [("tried.vr1.example", "attempts: 2, retryOn: connect-failure"), ("untried.vr1.example", "attempts: 2, retryOn: '418'")];
        mesh.apply(&hosts.map(|(host, retries)| entry(host, retries)).concat()).await?;
        for (host, failures) in [("tried.vr1.example", 0..1), ("untried.vr1.example", 1..20)] {
            let mut failed = 0;
            for _ in 0..20 {
                let answer = mesh.client("client").post(&format!("http://{host}/"), "once").send().await?;
                assert_eq!(answer.header("x-ferromesh-unprocessed"), "");
                failed += usize::from(answer.status != 200);
            }
            assert!(failures.contains(&failed), "{host}: {failed} of 20 failed");
        }
        let leaving = leaving.unwrap_or_default();
        let answer = integration_tests::Client::new(leaving.parse()?).get("http://leaving.vr1.example/").send().await?;
        assert_eq!((answer.status, answer.header("x-ferromesh-unprocessed")), (503, ""), "only clients of the mesh are told");
        Ok(())
    });
}

/// CP9: no more retries at a time than allowed; a request whose retry is over may make its next.
#[test]
fn no_more_retries_at_a_time_than_allowed() {
    MESH.run(async |mesh| {
        let retries = |host: &str| virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 2, retryOn: 5xx}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
        let mut tries = Vec::new();
        for (host, limit) in [("cp9-free.example", ""), ("cp9-one.example", "connectionPool: {http: {maxRetries: 1}}")] {
            let app = App::start("failing", "v1").await?;
            let rule = if limit.is_empty() { String::new() } else { policy(host, limit) };
            mesh.apply(&(entry(host, &[&app], "") + &retries(host) + &rule)).await?;
            let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-status", "503");
            assert_eq!((ask.clone().status().await, app.requests()), (503, 3), "{host}: one after the other");
            let slow = ask.header("x-test-delay", "500");
            let statuses = join_all((0..10).map(|_| slow.clone().status())).await;
            assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
            tries.push(app.requests());
        }
        assert_eq!(tries[0], 33, "each request is tried three times");
        assert!(tries[1] < 33, "of ten that want a retry at a time some get none: {tries:?}");
        Ok(())
    });
}

/// DR8: a budget counts the requests of its interval, and without one those that are under way.
#[test]
fn a_retry_budget_counts_the_requests_of_its_interval() {
    MESH.run(async |mesh| {
        for (host, interval, last) in [("recent.dr8.example", ", budgetInterval: 600s", 200), ("under-way.dr8.example", "", 503)] {
            let app = App::start("failing", "v1").await?;
            let yaml = entry(host, &[&app], "")
                + &policy(host, &format!("retryBudget: {{percent: {{value: 25}}, minRetryConcurrency: 0{interval}}}"))
                + &virtual_service(host, &format!("{{hosts: [{host}], http: [{{retries: {{attempts: 1, retryOn: 5xx}}, route: [{{destination: {{host: {host}}}}}]}}]}}"));
            mesh.apply(&yaml).await?;
            let mut statuses = Vec::new();
            for number in 0..5 {
                let ask = mesh.client("client").get(&format!("http://{host}/")).header("x-test-fail-first", "1");
                statuses.push(ask.header("x-test-id", &format!("{host}{number}")).status().await);
            }
            assert_eq!((statuses[0], statuses[4]), (503, last), "{host}: {statuses:?}");
        }
        Ok(())
    });
}
