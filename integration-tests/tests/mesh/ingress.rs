//! Kubernetes' Ingress: who is led where by it, through the gateway.

use anyhow::Result;
use integration_tests::certs::Authority;
use integration_tests::mesh::service;
use integration_tests::{Mesh, until};

/// GA1, MC2: hosts, paths by type, the longest first, TLS, and what no path takes.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_leads_by_host_and_path() -> Result<()> {
    let mesh = Mesh::builder().service("echo", 1).service("other", 1).gateway(&[80, 443]).start().await?;
    let authority = Authority::new("shop")?;
    let ingress = |name: &str, spec: &str| {
        format!(
            "\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: default, annotations: \
             {{kubernetes.io/ingress.class: istio}}}}\nspec: {spec}\n"
        )
    };
    let path = |path: &str, path_type: &str, service: &str, port: &str| {
        format!("{{path: {path}, pathType: {path_type}, backend: {{service: {{name: {service}, port: {{{port}}}}}}}}}")
    };
    let one = [
        path("/", "Prefix", "echo", "number: 80"),
        path("/items", "Prefix", "other", "name: http"),
        path("/items/one", "Exact", "echo", "number: 80"),
        path("/lost", "Prefix", "echo", "name: missing"),
    ];
    let yaml = service("default", "echo", "echo")
        + &service("default", "other", "other")
        + &authority.issue(&["shop.example"])?.secret("istio-system", "shop-cert", None)?
        + &ingress(
            "shop",
            &format!(
                "{{tls: [{{hosts: [shop.example], secretName: shop-cert}}], rules: [{{host: shop.example, http: {{paths: [{}]}}}}]}}",
                one.join(", ")
            ),
        )
        + &ingress(
            "rest",
            &format!(
                "{{defaultBackend: {{service: {{name: other, port: {{number: 80}}}}}}, rules: [{{host: '*.wild.example', http: {{paths: [{}]}}}}]}}",
                path("/echo", "Prefix", "echo", "number: 80")
            ),
        );
    mesh.write_config("ingress.yaml", &yaml)?;
    let client = mesh.gateway(80);
    until("the gateway serves it", async || client.get("http://shop.example/").status().await == 200).await;
    for (url, expected) in [
        ("shop.example/", "echo"),
        ("shop.example/anything", "echo"),
        ("shop.example/items", "other"),
        ("shop.example/items/", "other"),
        ("shop.example/items/two", "other"),
        ("shop.example/items/one", "echo"),
        ("shop.example/items/one/more", "other"),
        ("shop.example/itemsandmore", "echo"),
        ("shop.example/lost", "503"),
        ("a.wild.example/echo", "echo"),
        ("a.wild.example/else", "other"),
        ("nobody.example/echo", "other"),
    ] {
        let answer = client.get(&format!("http://{url}")).send().await?;
        let found = if answer.status == 200 { answer.field("app") } else { answer.status.to_string() };
        assert_eq!(found, expected, "{url}");
    }
    let secure = mesh.gateway(443).over_tls(authority.pem(), None);
    until("TLS is served", async || secure.get("https://shop.example/items").status().await == 200).await;
    assert_eq!(secure.get("https://shop.example/items").send().await?.field("app"), "other");
    let found = mesh.findings_of("ingress.yaml").await?;
    let messages: Vec<&str> = found.iter().filter_map(|one| one["message"].as_str()).collect();
    assert_eq!(messages, ["Service default/echo has no port `missing`, so it answers 503"]);
    Ok(())
}
