//! Control planes beside each other: what each of them reads, where its own things are, and whose status it writes.

use integration_tests::until;
use mesh_controlplane::app::{CaSettings, ControlPlane, Settings};
use mesh_controlplane::own::Own;
use mesh_proto::xds::cluster::Cluster;
use serde_json::Value;

use crate::plane::{Proxy, apply, findings, is_in_force, objects, server, settings};
use crate::support::CDS;

/// A VirtualService, with labels in YAML.
fn routes(name: &str, labels: &str, attempts: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\nspec:\n  \
         hosts: [{name}.example]\n  http: [{{directResponse: {{status: 200}}, retries: {{attempts: {attempts}}}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_control_plane_reads_what_names_its_revision_or_none() {
    let server = server().await;
    let canary = "istio.io/rev: canary";
    apply(&server, &[routes("common", "", "7"), routes("new", canary, "7")].concat()).await;
    let of = |revision: &str| Settings {
        own: Own { revision: revision.into(), ..Own::default() },
        ..settings(server.kubeconfig())
    };
    let stable = ControlPlane::start(of("default")).await.unwrap();
    let next = ControlPlane::start(of("canary")).await.unwrap();
    for plane in [&stable, &next] {
        assert!(objects(plane).await.contains(&"VirtualService shop/common".to_owned()));
        assert_eq!(findings(plane), Vec::<String>::new());
    }
    assert!(!objects(&stable).await.contains(&"VirtualService shop/new".to_owned()));
    assert!(objects(&next).await.contains(&"VirtualService shop/new".to_owned()));

    // What is wrong in it is said by the one who reads it, in its status as well.
    apply(&server, &routes("new", canary, "[1]")).await;
    until("the finding", async || findings(&next).iter().any(|one| one.contains("last good version"))).await;
    let status = async || {
        let args = ["get", "-n", "shop", "virtualservice", "new", "-o", "json"];
        let object: Value = serde_json::from_str(&server.kubectl(&args, "").await.unwrap().ok()).unwrap();
        object["status"]["conditions"][0]["status"].clone()
    };
    until("its status", async || status().await == "False").await;
    assert_eq!(findings(&stable), Vec::<String>::new());

    // An object that is given to another revision goes, and comes.
    apply(&server, &routes("new", "istio.io/rev: default", "7")).await;
    is_in_force(&stable, "VirtualService shop/new", true).await;
    is_in_force(&next, "VirtualService shop/new", false).await;
    until("its status", async || status().await == "True").await;
    until("no finding", async || findings(&next).is_empty()).await;
    apply(&server, &routes("common", canary, "7")).await;
    is_in_force(&stable, "VirtualService shop/common", false).await;
    is_in_force(&next, "VirtualService shop/common", true).await;
    stable.shutdown().await;
    next.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_namespace_is_where_the_control_plane_is() {
    let server = server().await;
    server.namespace("mesh").await.unwrap();
    let service = |namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    let mesh = |namespace: &str, label: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {namespace}}}\ndata: {{mesh: 'discoverySelectors: [{{matchLabels: {{mesh: \"{label}\"}}}}]'}}\n"
        )
    };
    let rest = [service("shop"), service("default"), mesh("mesh", "yes"), mesh("istio-system", "no")].concat();
    apply(&server, &rest).await;
    let own = Own { namespace: "mesh".into(), ..Own::default() };
    let settings = Settings { own, ca: CaSettings::Cluster, ..settings(server.kubeconfig()) };
    let plane = ControlPlane::start(settings).await.unwrap();
    let all = objects(&plane).await;
    assert!(
        all.contains(&"Service shop/web".to_owned()) && all.contains(&"ConfigMap mesh/istio".to_owned()),
        "{all:?}"
    );
    assert!(!all.contains(&"Service default/web".to_owned()), "its own settings count, and no others: {all:?}");

    // Its secrets and leases are there, and what stands there holds for everyone.
    server.kubectl(&["get", "-n", "mesh", "secret", "istio-ca-secret"], "").await.unwrap().ok();
    let lease = async |namespace: &str| {
        let found = server.kubectl(&["get", "lease", "-n", namespace, "-o", "name"], "").await.unwrap();
        found.stdout.contains("istio-status-leader")
    };
    until("the lease", async || lease("mesh").await).await;
    assert!(!lease("istio-system").await);
    let name = "outbound|80||web.shop.svc.cluster.local";
    let mut proxy = Proxy::connect(&plane, &[(CDS, "*")]).await;
    proxy.until::<Cluster>(CDS, name, |found| found.is_some()).await;
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: mesh}\nspec: {egress: [{hosts: [mesh/*]}]}\n";
    apply(&server, sidecar).await;
    proxy.until::<Cluster>(CDS, name, |found| found.is_none()).await;
    plane.shutdown().await;
}
