//! `meshctl proxy-status`: whether each connected proxy has taken the configuration that it was sent.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::dump::{path, text};
use crate::http_client;
use crate::local::state::State;
use crate::output::{BAD, Format, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this proxy: NAME or NAME.NAMESPACE
    pub name: Option<String>,
    /// Ask the control plane's monitoring port at this address instead of the local mesh's
    #[arg(long, value_name = "IP:PORT")]
    pub control_plane: Option<SocketAddr>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// Kinds of configuration: heading, and prefix of the fields in `/debug/syncz`.
const TYPES: &[(&str, &str)] = &[("CDS", "cluster"), ("LDS", "listener"), ("EDS", "endpoint"), ("RDS", "route")];

/// Asks the control plane and prints. Fails with 1 if some proxy has not taken what it was sent.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    let control_plane = match args.control_plane {
        Some(address) => address,
        None => State::read(directory)?.monitoring,
    };
    let all = http_client::get_json(control_plane, "/debug/syncz").await?;
    let mut proxies: Vec<Value> = all.as_array().cloned().unwrap_or_default();
    if let Some(name) = &args.name {
        proxies.retain(|proxy| matches(text(proxy, "proxy"), name));
        if proxies.is_empty() {
            bail!("no proxy named `{name}` is connected to the control plane at {control_plane}");
        }
    }
    proxies.sort_by(|a, b| text(a, "proxy").cmp(text(b, "proxy")));
    args.output.print(&Value::from(proxies.clone()), |_| rows(&proxies))?;
    let good = |proxy: &Value| TYPES.iter().all(|kind| matches!(state(proxy, kind), "SYNCED" | "NOT SENT"));
    Ok(if proxies.iter().all(good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn matches(proxy: &str, wanted: &str) -> bool {
    proxy == wanted || proxy.split('.').next() == Some(wanted)
}

fn rows(proxies: &[Value]) -> String {
    let mut headings = vec!["NAME", "CLUSTER"];
    headings.extend(TYPES.iter().map(|(heading, _)| *heading));
    let rows = proxies.iter().map(|proxy| {
        // istiod's older releases say `cluster`.
        let cluster = ["cluster_id", "cluster"].map(|name| text(proxy, name));
        let cluster = cluster.into_iter().find(|cluster| !cluster.is_empty()).unwrap_or("-");
        let mut row = vec![text(proxy, "proxy").to_owned(), cluster.to_owned()];
        row.extend(TYPES.iter().map(|kind| state(proxy, kind).to_owned()));
        row
    });
    let mut page = table(&headings, rows);
    for proxy in proxies {
        for (heading, _) in TYPES {
            let refused = text(path(proxy, &["types", heading, "nack"]), "error");
            if !refused.is_empty() {
                let proxy = text(proxy, "proxy");
                page.push_str(&format!("\n{BAD}{proxy} refuses {heading}{BAD:#}: {refused}"));
            }
        }
    }
    page
}

/// What our control plane says of a type, or what istioctl makes of istiod's pair of nonces.
fn state<'a>(proxy: &'a Value, (heading, prefix): &(&str, &str)) -> &'a str {
    let status = text(path(proxy, &["types", heading]), "status");
    if !status.is_empty() {
        return status;
    }
    let sent = text(proxy, &format!("{prefix}_sent"));
    let acked = text(proxy, &format!("{prefix}_acked"));
    match (sent, acked) {
        ("", _) => "NOT SENT",
        (sent, acked) if sent == acked => "SYNCED",
        _ => "STALE",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nonces_become_words() {
        let proxies = [json!({"proxy": "a.default", "cluster_id": "Kubernetes",
            "cluster_sent": "n1", "cluster_acked": "n1", "listener_sent": "n2", "listener_acked": "n1"})];
        assert_eq!(
            rows(&proxies),
            "NAME        CLUSTER      CDS      LDS     EDS        RDS\n\
             a.default   Kubernetes   SYNCED   STALE   NOT SENT   NOT SENT"
        );
        assert!(matches("a.default", "a") && matches("a.default", "a.default") && !matches("ab.default", "a"));
    }

    #[test]
    fn refusals_are_shown() {
        let proxies =
            [json!({"proxy": "a.default", "types": {"RDS": {"status": "ERROR", "nack": {"error": "80: no"}}}})];
        let page = anstream::adapter::strip_str(&rows(&proxies)).to_string();
        assert!(page.ends_with("a.default refuses RDS: 80: no"), "{page}");
        assert!(page.contains("ERROR"), "{page}");
    }
}
