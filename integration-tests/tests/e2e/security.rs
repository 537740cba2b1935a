//! Mutual TLS between pods, and policies by identity.

use anyhow::{Context, Result, ensure};
use integration_tests::{Client, eventually};

use crate::capture::Capture;
use crate::cluster::{Cluster, PATIENCE};
use crate::traffic::page;

/// A part of the application in a namespace that is in no mesh, whose Services lead into the mesh.
const OUTSIDE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: Service
metadata: {name: details, namespace: outside}
spec: {type: ExternalName, externalName: details.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: outside}
spec: {type: ExternalName, externalName: reviews.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: productpage, namespace: outside}
spec: {type: NodePort, selector: {app: productpage}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: productpage, namespace: outside}
spec:
  selector: {matchLabels: {app: productpage}}
  template:
    metadata: {labels: {app: productpage}}
    spec:
      containers:
      - {name: productpage, image: 'IMAGE', imagePullPolicy: IfNotPresent, args: [productpage], ports: [{name: http, containerPort: 9080}], readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 2}}
";

/// Nobody but reviews is refused by details, and it by its identity.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details-not-for-productpage, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/bookinfo-productpage]}}]}]
";

pub async fn plaintext_is_refused_and_nothing_is_readable_on_the_wire(cluster: &Cluster) -> Result<()> {
    cluster.apply(&outside(cluster))?;
    cluster.rolled_out("outside", "productpage")?;
    let (visitor, stranger) = (cluster.visitor().await?, stranger(cluster)?);
    // Permissive as long as nothing else is said: plaintext from outside the mesh is taken.
    eventually(PATIENCE, async || page(&stranger).await.map(drop)).await.context("before mTLS is strict")?;
    if cluster.local {
        let capture = Capture::start(cluster, 9080)?;
        page(&stranger).await?;
        capture.until(b"GET /details/0").await.context("plaintext that is there is not seen")?;
    }
    cluster.apply_files(&["deploy/samples/bookinfo/strict-mtls.yaml"])?;
    eventually(PATIENCE, async || {
        let answer = stranger.get("http://stranger.example/productpage").send().await?;
        let page: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let refused = |part: &str| page["statuses"][part] == 502;
        ensure!(refused("details") && refused("reviews"), "plaintext is taken: {page}");
        Ok(())
    })
    .await?;
    if cluster.local {
        let capture = Capture::start(cluster, 9080)?;
        page(&visitor).await?;
        // A record of application data of TLS 1.3 (RFC 8446, section 5.1).
        let seen = capture.until(&[0x17, 3, 3]).await.context("no TLS on the wire")?;
        ensure!(!contains(&seen, b"GET /details") && !contains(&seen, b"Shakespeare"), "plaintext on the wire");
    } else {
        println!("    not run: the packet capture, since the nodes are not of this machine");
    }
    Ok(())
}

pub async fn a_policy_refuses_by_identity(cluster: &Cluster) -> Result<()> {
    cluster.apply_files(&["deploy/samples/bookinfo/authorization.yaml"])?;
    let visitor = cluster.visitor().await?;
    page(&visitor).await.context("ratings are for reviews")?;
    cluster.apply(POLICY)?;
    eventually(PATIENCE, async || {
        let answer = visitor.get(crate::traffic::PAGE).send().await?;
        let page: serde_json::Value = serde_json::from_slice(&answer.body)?;
        ensure!(page["statuses"]["details"] == 403, "productpage is not refused: {page}");
        ensure!(page["statuses"]["reviews"] == 200, "reviews is refused, too: {page}");
        Ok(())
    })
    .await?;
    cluster.delete(POLICY)?;
    eventually(PATIENCE, async || page(&visitor).await.map(drop)).await
}

fn outside(cluster: &Cluster) -> String {
    OUTSIDE.replace("IMAGE", &format!("{}/bookinfo:{}", cluster.hub, cluster.tag))
}

/// Asks the page that is outside of the mesh.
fn stranger(cluster: &Cluster) -> Result<Client> {
    let service = cluster.get(&["service", "productpage", "-n", "outside"])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
    Ok(Client::new(format!("{}:{port}", cluster.node()?.1).parse()?))
}

/// True if `part` is somewhere in `whole`.
pub fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}
