//! Configuration changes while everybody talks: no request fails by it (BX8).

use anyhow::{Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::{Crowd, Mesh, Shared, eventually};

use super::{object, subsets, virtual_service};

static MESH: Shared = Shared::new(|| Mesh::builder().service("echo", 3).service("guarded", 1).client("client"));

fn weights(host: &str, first: u32) -> String {
    let second = 100 - first;
    subsets(host, "")
        + &virtual_service(
            host,
            &format!(
                "{{hosts: [{host}], http: [{{route: [{{destination: {{host: {host}, subset: v1}}, weight: {first}}}, {{destination: {{host: {host}, subset: v2}}, weight: {second}}}]}}]}}"
            ),
        )
}

/// VA1, BX8: weights are turned over again and again.
#[test]
fn weights_are_turned_over_under_load() {
    MESH.run(async |mesh| {
        mesh.case("flip", "echo", &weights("flip", 100)).await?;
        let crowd = Crowd::start(&mesh.client("client"), &["http://flip/"]);
        for round in 0..6 {
            let (first, expected) = if round % 2 == 0 { (0, "v2") } else { (100, "v1") };
            mesh.case("flip", "echo", &weights("flip", first)).await?;
            crowd.more(5).await;
            assert_eq!(mesh.client("client").get("http://flip/").send().await?.version(), expected);
        }
        crowd.stop().await;
        Ok(())
    });
}

/// BX8: a rule may come before the subset that it names, or after it; the old rule stays in force until all is there.
#[test]
fn a_subset_and_its_rule_come_in_any_order() {
    MESH.run(async |mesh| {
        let plain = object(
            "DestinationRule",
            "default",
            "order",
            "{host: order, subsets: [{name: v1, labels: {version: v1}}]}",
        );
        let to = |subset: &str| {
            virtual_service(
                "order",
                &format!("{{hosts: [order], http: [{{route: [{{destination: {{host: order, subset: {subset}}}}}]}}]}}"),
            )
        };
        let client = mesh.client("client");
        mesh.case("order", "echo", "").await?;
        mesh.apply_as("order-rule", &plain).await?;
        mesh.apply_as("order-route", &to("v1")).await?;
        let crowd = Crowd::start(&client, &["http://order/"]);
        // The subset first.
        mesh.apply_as("order-rule", &subsets("order", "")).await?;
        mesh.apply_as("order-route", &to("v2")).await?;
        crowd.more(5).await;
        assert_eq!(client.get("http://order/").send().await?.version(), "v2");
        // Back, the rule first.
        mesh.apply_as("order-route", &to("v1")).await?;
        mesh.apply_as("order-rule", &plain).await?;
        crowd.more(5).await;
        assert_eq!(client.get("http://order/").send().await?.version(), "v1");
        crowd.stop().await;
        Ok(())
    });
}

/// DR: traffic policies change: load balancing, pools, outliers, TLS.
#[test]
fn traffic_policies_change_under_load() {
    MESH.run(async |mesh| {
        mesh.case("policies", "echo", "").await?;
        let crowd = Crowd::start(&mesh.client("client"), &["http://policies/"]);
        for policy in [
            "loadBalancer: {simple: ROUND_ROBIN}",
            "loadBalancer: {simple: RANDOM}, connectionPool: {http: {maxRequestsPerConnection: 3}}",
            "outlierDetection: {consecutive5xxErrors: 3}, connectionPool: {tcp: {maxConnections: 50}}",
            "tls: {mode: ISTIO_MUTUAL}",
            "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}",
        ] {
            mesh.case(
                "policies",
                "echo",
                &object(
                    "DestinationRule",
                    "default",
                    "policies",
                    &format!("{{host: policies, trafficPolicy: {{{policy}}}}}"),
                ),
            )
            .await?;
            crowd.more(5).await;
        }
        mesh.case("policies", "echo", "").await?;
        crowd.more(5).await;
        crowd.stop().await;
        Ok(())
    });
}

/// AP, PA: policies that let the load pass come and go, and PERMISSIVE becomes STRICT.
#[test]
fn security_policies_change_under_load() {
    MESH.run(async |mesh| {
        let security = |kind: &str, spec: &str| {
            object(kind, "default", "guarded", &format!("{{selector: {{matchLabels: {{app: guarded}}}}, {spec}}}"))
                .replace("networking.istio.io", "security.istio.io")
        };
        let crowd = Crowd::start(&mesh.client("client"), &["http://guarded/"]);
        for yaml in [
            security("AuthorizationPolicy", "rules: [{from: [{source: {principals: ['*/client']}}]}]"),
            security("AuthorizationPolicy", "action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]"),
            security("PeerAuthentication", "mtls: {mode: PERMISSIVE}"),
            security("PeerAuthentication", "mtls: {mode: STRICT}"),
            security("PeerAuthentication", "mtls: {mode: PERMISSIVE}"),
        ] {
            mesh.apply_as("guard", &yaml).await?;
            crowd.more(5).await;
        }
        mesh.delete("guard").await?;
        crowd.more(5).await;
        crowd.stop().await;
        Ok(())
    });
}

/// BX8: a new workload takes over before the old one goes.
#[test]
fn endpoints_come_and_go_under_load() {
    MESH.run(async |mesh| {
        let entry = |version: &str| {
            let address = mesh.inbound(&format!("echo-{version}"), 0);
            object("WorkloadEntry", "default", &format!("churn-{version}"), &format!("{{address: {}, ports: {{http: {}}}, serviceAccount: echo, labels: {{app: churn, version: {version}, security.istio.io/tlsMode: istio}}}}", address.ip(), address.port()))
        };
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: churn, namespace: default}\nspec: {selector: {app: churn}, ports: [{name: http, port: 80, targetPort: http}]}\n";
        let client = mesh.client("client");
        mesh.apply_as("churn", &(service.to_owned() + &entry("v1"))).await?;
        let crowd = Crowd::start(&client, &["http://churn/"]);
        for (before, after) in [("v1", "v2"), ("v2", "v3"), ("v3", "v1")] {
            mesh.apply_as("churn", &(service.to_owned() + &entry(before) + &entry(after))).await?;
            crowd.more(5).await;
            mesh.apply_as("churn", &(service.to_owned() + &entry(after))).await?;
            crowd.more(5).await;
            eventually(DEADLINE, async || {
                let version = client.get("http://churn/").send().await?.version();
                ensure!(version == after, "{version} still answers, not {after}");
                Ok(())
            })
            .await?;
        }
        crowd.stop().await;
        Ok(())
    });
}

/// BX6, BX8: what is no YAML, and what is no valid object, is a finding that disturbs nobody.
#[test]
fn bad_configuration_is_a_finding_and_disturbs_nobody() {
    MESH.run(async |mesh| {
        mesh.case("steady", "echo", &weights("steady", 100)).await?;
        let client = mesh.client("client");
        let crowd = Crowd::start(&client, &["http://steady/"]);
        mesh.write_config("garbage", "a: [b: }\n\t- {")?;
        eventually(DEADLINE, async || {
            let findings = mesh.findings_of("garbage").await?;
            ensure!(!findings.is_empty(), "no finding yet");
            Ok(())
        })
        .await?;
        let found = mesh
            .try_apply(
                "wrong",
                &virtual_service(
                    "steady-wrong",
                    "{hosts: [steady], http: [{route: [{destination: {host: steady}, weight: -1}], unknown: field}]}",
                ),
            )
            .await?;
        assert!(!found.is_empty(), "an unknown field is found");
        crowd.more(10).await;
        assert_eq!(client.get("http://steady/").send().await?.version(), "v1");
        // Good configuration goes on being taken beside the bad.
        mesh.case("steady", "echo", &weights("steady", 0)).await?;
        assert_eq!(client.get("http://steady/").send().await?.version(), "v2");
        mesh.remove_config("garbage")?;
        mesh.delete("wrong").await?;
        crowd.stop().await;
        Ok(())
    });
}

/// BX8: the control plane dies and comes back under load; proxies serve on, and take what changed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_restarts_under_load() -> Result<()> {
    let mut mesh = Mesh::builder().service("echo", 2).client("client").start().await?;
    mesh.case("survivor", "echo", &weights("survivor", 100)).await?;
    let client = mesh.client("client");
    let crowd = Crowd::start(&client, &["http://survivor/"]);
    mesh.stop_control_plane().await;
    crowd.more(20).await;
    assert_eq!(client.get("http://survivor/").send().await?.version(), "v1");
    mesh.write_config(
        "survivor",
        &(integration_tests::mesh::service("default", "survivor", "echo") + &weights("survivor", 0)),
    )?;
    mesh.start_control_plane().await?;
    eventually(DEADLINE, async || {
        let version = client.get("http://survivor/").send().await?.version();
        ensure!(version == "v2", "{version} still answers");
        Ok(())
    })
    .await?;
    mesh.case("survivor", "echo", &weights("survivor", 100)).await?;
    assert_eq!(client.get("http://survivor/").send().await?.version(), "v1");
    crowd.more(20).await;
    crowd.stop().await;
    mesh.stop().await;
    Ok(())
}
