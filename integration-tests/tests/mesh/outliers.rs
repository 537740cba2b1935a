//! How long failing hosts are left out, how few may be left, and which answers are failures.

use std::time::{Duration, Instant};

use integration_tests::{App, Mesh, Shared, until};

use super::{entry, no_retries, policy};

static MESH: Shared = Shared::new(|| Mesh::builder().client("client"));

/// OD5: a host that fails again is left out for longer.
#[test]
fn a_host_that_fails_again_is_left_out_for_longer() {
    MESH.run(async |mesh| {
        let (good, bad) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
        let host = "od5.example";
        let yaml = entry(host, &[&good, &bad], "") + &no_retries(host)
            + &policy(host, "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 1s, maxEjectionPercent: 100}");
        mesh.apply(&yaml).await?;
        let client = mesh.client("client");
        let ask = client.get(&format!("http://{host}/"));
        let failing = ask.clone().header("x-test-status", "500").header("x-test-only", "v2");
        for number in 1..=3 {
            until("the host fails", async || failing.clone().status().await == 500).await;
            let ejected = Instant::now();
            until("the host returns", async || ask.clone().send().await.is_ok_and(|answer| answer.version() == "v2")).await;
            // The nth time it is n times as long; a tenth less for what the answer took.
            assert!(ejected.elapsed() > Duration::from_millis(900 * number), "{number}: {:?}", ejected.elapsed());
        }
        Ok(())
    });
}

/// OD7: where too few hosts would be left, all are used.
#[test]
fn with_too_few_healthy_hosts_all_are_used() {
    MESH.run(async |mesh| {
        for (host, least, versions) in [("od7-half.example", 50, 1), ("od7-more.example", 51, 2)] {
            let (good, bad) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
            let yaml = entry(host, &[&good, &bad], "") + &no_retries(host)
                + &policy(host, &format!("loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100, minHealthPercent: {least}}}"));
            mesh.apply(&yaml).await?;
            let client = mesh.client("client");
            let ask = client.get(&format!("http://{host}/")).header("x-test-status", "500").header("x-test-only", "v2");
            until("a host fails", async || ask.clone().status().await == 500).await;
            assert_eq!(client.count(&format!("http://{host}/"), 10).await?.len(), versions, "{host}");
        }
        Ok(())
    });
}

/// OD8: the statuses that a rule names are failures, and no others.
#[test]
fn a_rule_names_the_statuses_that_are_failures() {
    MESH.run(async |mesh| {
        for (host, codes, failure, other) in [
            ("od8-own.example", ", outlierDetectionHttpErrorCodes: [429, 503]", "429", "500"),
            ("od8-usual.example", "", "500", "429"),
        ] {
            let (good, bad) = (App::start("pair", "v1").await?, App::start("pair", "v2").await?);
            let yaml = entry(host, &[&good, &bad], "") + &no_retries(host)
                + &policy(host, &format!("loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{consecutive5xxErrors: 2, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100{codes}}}"));
            mesh.apply(&yaml).await?;
            let client = mesh.client("client");
            for (status, versions) in [(other, 2), (failure, 1)] {
                let ask = client.get(&format!("http://{host}/")).header("x-test-status", status).header("x-test-only", "v2");
                for _ in 0..8 {
                    ask.clone().status().await;
                }
                assert_eq!(client.count(&format!("http://{host}/"), 10).await?.len(), versions, "{host}: {status}");
            }
        }
        Ok(())
    });
}
