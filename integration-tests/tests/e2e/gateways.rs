//! The ways in and out.

use anyhow::{Result, ensure};
use integration_tests::certs::Authority;
use integration_tests::eventually;

use crate::cluster::{Cluster, PATIENCE, SYSTEM};
use crate::traffic::page;

const HOST: &str = "bookinfo.example";

const SECURE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: bookinfo-credential}
    hosts: [bookinfo.example]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure, namespace: default}
spec:
  hosts: [bookinfo.example]
  gateways: [secure]
  http: [{route: [{destination: {host: productpage, port: {number: 9080}}}]}]
";

/// Details come from outside of the mesh, by way of the egress gateway, which mTLS leads to.
const EGRESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: website, namespace: outside}
spec: {selector: {app: website}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: website, namespace: outside}
spec:
  selector: {matchLabels: {app: website}}
  template:
    metadata: {labels: {app: website}}
    spec:
      containers:
      - {name: website, image: 'IMAGE', imagePullPolicy: IfNotPresent, args: [details], ports: [{name: http, containerPort: 9080}], readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 2}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: website, namespace: default}
spec:
  hosts: [details.website.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]
  endpoints: [{address: website.outside.svc.cluster.local}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: default}
spec:
  selector: {istio: egressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: website, namespace: default}
spec:
  hosts: [details]
  gateways: [mesh]
  http:
  - route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
    rewrite: {authority: details.website.example}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: website-from-egress, namespace: default}
spec:
  hosts: [details.website.example]
  gateways: [egress]
  http: [{route: [{destination: {host: details.website.example, port: {number: 80}}}]}]
";

pub async fn visitors_come_over_tls_with_a_certificate_of_a_secret(cluster: &Cluster) -> Result<()> {
    let authority = Authority::new("visitors")?;
    let first = authority.issue(&[HOST])?;
    cluster.apply(&first.secret(SYSTEM, "bookinfo-credential", None)?)?;
    cluster.apply(SECURE)?;
    let gateway = cluster.at_gateway("istio-ingressgateway", "https").await?;
    let url = format!("https://{HOST}/productpage");
    let ask = async |roots: &str| {
        let answer = gateway.over_tls(roots, None).get(&url).send().await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    };
    eventually(PATIENCE, async || ask(authority.pem()).await).await?;
    // Another authority's certificate takes over without a restart.
    let other = Authority::new("other visitors")?;
    cluster.apply(&other.issue(&[HOST])?.secret(SYSTEM, "bookinfo-credential", None)?)?;
    eventually(PATIENCE, async || ask(other.pem()).await).await?;
    cluster.delete(SECURE)?;
    cluster.kubectl(&["-n", SYSTEM, "delete", "secret", "bookinfo-credential"]).map(drop)
}

pub async fn what_leaves_the_mesh_leaves_by_the_egress_gateway(cluster: &Cluster) -> Result<()> {
    let yaml = EGRESS.replace("IMAGE", &format!("{}/bookinfo:{}", cluster.hub, cluster.tag));
    cluster.apply(&yaml)?;
    cluster.rolled_out("outside", "website")?;
    let visitor = cluster.visitor().await?;
    eventually(PATIENCE, async || {
        page(&visitor).await?;
        let log = cluster.kubectl(&["-n", SYSTEM, "logs", "deployment/istio-egressgateway", "--tail=20"])?;
        ensure!(
            log.contains("/details/0") && log.contains("details.website.example"),
            "the gateway saw nothing:\n{log}"
        );
        Ok(())
    })
    .await?;
    cluster.delete(&yaml)?;
    eventually(PATIENCE, async || page(&visitor).await.map(drop)).await
}
