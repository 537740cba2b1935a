//! `meshctl demo` as a test: a whole mesh, traffic by weights, identities, refusals, and a change of weights under load.
#![allow(clippy::unwrap_used)]

use meshctl::demo::{self, Options};

/// The README's first command: every check that it prints must hold.
#[tokio::test(flavor = "multi_thread")]
async fn demo_succeeds() {
    let report = demo::run(Options { requests: 200, concurrency: 4, progress: false }).await.unwrap();
    let failed: Vec<_> = report.checks.iter().filter(|check| !check.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.checks.len() >= 11, "{:#?}", report.checks);
}

/// `-o json` has the fields that scripts read.
#[tokio::test(flavor = "multi_thread")]
async fn demo_prints_json() {
    let report = demo::run(Options { requests: 20, concurrency: 2, progress: false }).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for pointer in [
        "/split/before/observed/v1",
        "/split/before/wanted/v2",
        "/split/after/observed/v2",
        "/split/after/tolerance",
        "/edges/0/source",
        "/edges/0/service",
        "/edges/0/destination",
        "/edges/0/requests",
        "/edges/0/mutual_tls",
        "/services/0/service",
        "/services/0/latency/p50_ms",
        "/services/0/latency/p99_ms",
        "/services/0/error_rate",
        "/refused/0/request",
        "/refused/0/caller",
        "/refused/0/status",
        "/refused/0/why",
        "/checks/0/name",
        "/checks/0/passed",
        "/checks/0/observed",
    ] {
        assert!(json.pointer(pointer).is_some(), "{pointer} is missing in {json:#}");
    }
}
