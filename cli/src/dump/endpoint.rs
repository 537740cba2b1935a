//! Rows of `proxy-config endpoint`, from `/clusters?format=json`: each endpoint and whether it is healthy.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

use super::{address, field, list, text};
use crate::http_client;

/// Headings.
pub const HEADINGS: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];

/// Asks a proxy's admin port.
pub async fn fetch(admin: SocketAddr) -> Result<Value> {
    http_client::get_json(admin, "/clusters?format=json").await
}

/// The rows of all clusters.
pub fn rows(clusters: &Value) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for cluster in list(clusters, "cluster_statuses") {
        for host in list(cluster, "host_statuses") {
            let (ip, port) = address(field(host, "address"));
            let endpoint = port.map_or(ip.clone(), |port| format!("{ip}:{port}"));
            let health = field(host, "health_status");
            let status = text(health, "eds_health_status");
            let ejected = field(health, "failed_outlier_check").as_bool() == Some(true);
            rows.push([
                endpoint,
                if status.is_empty() { "HEALTHY" } else { status }.to_owned(),
                if ejected { "FAILED" } else { "OK" }.to_owned(),
                text(cluster, "name").to_owned(),
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_tell_their_health() {
        let clusters = json!({"cluster_statuses": [{"name": "outbound|80||a", "host_statuses": [
            {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}}, "health_status": {"eds_health_status": "HEALTHY"}},
            {"address": {"socket_address": {"address": "10.0.0.2", "port_value": 8080}},
             "health_status": {"eds_health_status": "UNHEALTHY", "failed_outlier_check": true}}]}]});
        let rows: Vec<String> = rows(&clusters).iter().map(|row| row.join(" ")).collect();
        assert_eq!(rows, ["10.0.0.1:8080 HEALTHY OK outbound|80||a", "10.0.0.2:8080 UNHEALTHY FAILED outbound|80||a"]);
    }
}
