//! Requests that the mesh must refuse, and why it did: read from the access log and from the policies that the proxy holds.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Demo;
use super::report::{Check, Refused};
use crate::dump::{self, ConfigDump, field, list, text};
use crate::http_client::Connection;

/// Longest wait for a line of the access log or the end of a connection.
const DEADLINE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Makes every request that must be refused.
pub async fn run(demo: &Demo) -> Result<Vec<Refused>> {
    Ok(vec![
        by_policy(demo, "productpage-v1", Method::GET, "5f0e4f3e-3c1e-4b53-9d0a-000000000001").await?,
        by_policy(demo, "reviews-v2", Method::DELETE, "5f0e4f3e-3c1e-4b53-9d0a-000000000002").await?,
        plaintext(demo).await?,
    ])
}

/// What must hold of them.
pub fn checks(refused: &[Refused]) -> Vec<Check> {
    let names = ["allow_policy_refuses_other_identities", "deny_policy_refuses_other_methods", "plaintext_is_refused"];
    let policies = ["ns[default]-policy[ratings-for-reviews]-rule[0]", "ns[default]-policy[ratings-read-only]-rule[0]"];
    let checks = names.into_iter().zip(refused).enumerate();
    checks
        .map(|(index, (name, one))| {
            let passed = match policies.get(index) {
                Some(policy) => one.status == 403 && one.answer == "RBAC: access denied" && one.why.contains(policy),
                None => one.status == 0 && one.answer.ends_with("closed without an answer"),
            };
            let status = if one.status == 0 { String::new() } else { format!("{} ", one.status) };
            Check { name, passed, observed: format!("{}: {status}{}; {}", one.request, one.answer, one.why) }
        })
        .collect()
}

/// A request to ratings by a workload's own sidecar, with the workload's identity.
async fn by_policy(demo: &Demo, caller: &str, method: Method, request_id: &'static str) -> Result<Refused> {
    let outbound = demo.mesh.outbound(caller).with_context(|| format!("{caller} has no sidecar"))?;
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", HeaderValue::from_static(request_id));
    let answer = Connection::new(outbound).send(method.clone(), "ratings:9080", "/ratings/0", &headers).await?;
    let detail = logged_detail(&demo.access_log, request_id).await?;
    let ratings = demo.mesh.admin("ratings-v1").context("ratings has no sidecar")?;
    let policies = policies(&ConfigDump::fetch(ratings).await?);
    Ok(Refused {
        request: format!("{method} http://ratings:9080/ratings/0"),
        caller: demo.mesh.identity(caller).unwrap_or_default(),
        status: answer.status.as_u16(),
        answer: answer.text().trim().to_owned(),
        why: explain(&detail, &policies),
        detail,
    })
}

/// Why, in words, from what the proxy logged and the policies that it holds.
fn explain(detail: &str, policies: &Policies) -> String {
    let matched = detail.strip_prefix("rbac_access_denied_matched_policy[").and_then(|rest| rest.strip_suffix(']'));
    match matched {
        Some("none") => format!("no ALLOW policy lets it pass, of {}", policies.allow.join(", ")),
        Some(policy) => format!("DENY policy {policy} matched"),
        None => detail.to_owned(),
    }
}

/// `response_code_details` of the line in which ratings' sidecar tells that it refused the request.
async fn logged_detail(access_log: &Path, request_id: &str) -> Result<String> {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(access_log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(request_id));
        let mut details = lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|line| line["response_code_details"].as_str().map(str::to_owned));
        if let Some(detail) = details.find(|detail| detail.starts_with("rbac_")) {
            return Ok(detail);
        }
        if started.elapsed() > DEADLINE {
            return Ok(format!("{} has no line of the refused request {request_id}", access_log.display()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Names of the rules of a proxy's authorization policies.
#[derive(Debug, Default, PartialEq, Eq)]
struct Policies {
    allow: Vec<String>,
    deny: Vec<String>,
}

fn policies(dump: &ConfigDump) -> Policies {
    let mut found = Policies::default();
    for listener in dump.listeners() {
        let mut chains: Vec<&Value> = list(listener, "filter_chains").iter().collect();
        chains.push(field(listener, "default_filter_chain"));
        let filters = chains.into_iter().flat_map(|chain| list(chain, "filters"));
        for filter in filters.flat_map(|filter| list(field(filter, "typed_config"), "http_filters")) {
            let config = field(filter, "typed_config");
            if !text(config, "@type").ends_with(".RBAC") {
                continue;
            }
            let rules = field(config, "rules");
            let names = field(rules, "policies").as_object().into_iter().flat_map(|policies| policies.keys().cloned());
            // ALLOW is the enum's zero, which JSON leaves out.
            if text(rules, "action") == "DENY" { found.deny.extend(names) } else { found.allow.extend(names) }
        }
    }
    for names in [&mut found.allow, &mut found.deny] {
        names.sort();
        names.dedup();
    }
    found
}

/// Plain HTTP straight to the port on which ratings' sidecar takes mesh TLS only.
async fn plaintext(demo: &Demo) -> Result<Refused> {
    let address = demo.mesh.inbound("ratings-v1").context("ratings serves no port")?;
    let answer = match tokio::time::timeout(DEADLINE, raw_request(address)).await {
        Ok(bytes) if bytes.is_empty() => "the connection was closed without an answer".to_owned(),
        Ok(bytes) => format!("answered {}", String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default()),
        Err(_) => format!("the connection was left open for {} s", DEADLINE.as_secs()),
    };
    let ratings = demo.mesh.admin("ratings-v1").context("ratings has no sidecar")?;
    let why = transport(&ConfigDump::fetch(ratings).await?, address.port());
    Ok(Refused {
        request: format!("plaintext GET http://{address}/ratings/0"),
        caller: "nobody (no certificate)".to_owned(),
        status: 0,
        answer,
        detail: String::new(),
        why,
    })
}

/// What a port takes, in words, from the filter chains that the proxy holds for it.
fn transport(dump: &ConfigDump, port: u16) -> String {
    let at_port = |listener: &&Value| {
        dump::number(dump::path(listener, &["address", "socket_address", "port_value"])) == Some(u64::from(port))
    };
    let Some(listener) = dump.listeners().into_iter().find(at_port) else {
        return format!("the sidecar has no listener on port {port}");
    };
    let requires = |chain: &&Value| {
        let tls = dump::path(chain, &["transport_socket", "typed_config"]);
        field(tls, "require_client_certificate").as_bool() == Some(true)
    };
    let chains = list(listener, "filter_chains");
    match chains.iter().filter(requires).count() {
        mutual if mutual > 0 && mutual == chains.len() => {
            "each of the port's filter chains requires a client certificate: mutual TLS is STRICT".to_owned()
        }
        mutual => format!("only {mutual} of the port's {} filter chains require a client certificate", chains.len()),
    }
}

/// Everything that is answered until the connection ends. A reset is an end.
async fn raw_request(address: std::net::SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        let request = format!("GET /ratings/0 HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut bytes).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_explained_by_the_policies_names() {
        let dump = ConfigDump(json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": [
        {"active_state": {"listener": {"filter_chains": [{"filters": [{"typed_config": {"http_filters": [
            {"typed_config": {"@type": "x/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": {"d": {}}}}},
            {"typed_config": {"@type": "x/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"policies": {"a": {}}}}}
        ]}}]}]}}}]}]}));
        let policies = policies(&dump);
        assert_eq!(policies, Policies { allow: vec!["a".to_owned()], deny: vec!["d".to_owned()] });
        for (detail, why) in [
            ("rbac_access_denied_matched_policy[none]", "no ALLOW policy lets it pass, of a"),
            (
                "rbac_access_denied_matched_policy[ns[x]-policy[d]-rule[0]]",
                "DENY policy ns[x]-policy[d]-rule[0] matched",
            ),
            ("via_upstream", "via_upstream"),
        ] {
            assert_eq!(explain(detail, &policies), why);
        }
    }
}
