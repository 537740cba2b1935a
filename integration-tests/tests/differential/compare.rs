//! Two lists of observations → differences.

use super::case::{Case, Protocol, Request};
use super::client::Observation;

/// What is never compared: dates, and the like.
const NOISE: &[&str] = &["log.host"];

/// Replaced by its mere presence.
const PRESENCE: &[&str] =
    &["header.x-envoy-upstream-service-time", "header.x-request-id", "header.server", "header.x-envoy-decorator"];

/// A request in one line.
pub fn label(request: &Request) -> String {
    let protocol = match request.protocol {
        Protocol::Http11 => "h1",
        Protocol::Http10 => "h1.0",
        Protocol::Http2 => "h2",
        Protocol::Tcp => "tcp",
    };
    if request.raw.is_some() {
        return format!("raw {protocol}");
    }
    let script = request.script.as_deref().map(|script| format!(" [{script}]")).unwrap_or_default();
    format!("{protocol} {} {} {}{script}", request.method, request.host, request.path)
}

/// Differences of a case, one line each.
pub fn case(case: &Case, envoy: &[Observation], ours: &[Observation]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, request) in case.requests.iter().enumerate() {
        let (envoy, ours) = (&envoy[index], &ours[index]);
        let mut own = Vec::new();
        if let Some(want) = request.want
            && envoy.get("status").map(String::as_str) != Some(want.to_string().as_str())
        {
            own.push(format!("    status: the case says {want}, Envoy says {}", text(envoy.get("status"))));
        }
        match &request.ours {
            Some(wanted) => {
                for (name, value) in wanted {
                    let value = match value {
                        serde_json::Value::Null => None,
                        serde_json::Value::String(text) => Some(text.clone()),
                        other => Some(other.to_string()),
                    };
                    let found = ours.get(name).cloned();
                    if found != value {
                        let (value, found) = (text(value.as_ref()), text(found.as_ref()));
                        own.push(format!("    {name}: ours must be {value}, is {found}"));
                    }
                }
                if wanted.iter().all(|(name, _)| envoy.get(name) == ours.get(name)) {
                    own.push("    `ours` says nothing that Envoy does not do".into());
                }
            }
            None => differences(case, request, envoy, ours, &mut own),
        }
        if !own.is_empty() {
            lines.push(format!("  {}. {}", index + 1, label(request)));
            lines.append(&mut own);
        }
    }
    lines
}

fn differences(case: &Case, request: &Request, envoy: &Observation, ours: &Observation, out: &mut Vec<String>) {
    let mut names: Vec<&String> = envoy.keys().chain(ours.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let ignored = |pattern: &str| {
            name == pattern || (pattern.ends_with('.') && name.starts_with(pattern)) || {
                // `seen.*.x` stands for each try.
                pattern.strip_prefix("seen.*.").is_some_and(|rest| {
                    name.strip_prefix("seen.")
                        .and_then(|name| name.split_once('.'))
                        .is_some_and(|(_, own)| own == rest || (rest.ends_with('.') && own.starts_with(rest)))
                })
            }
        };
        if NOISE.contains(&name.as_str())
            || name.ends_with("header.date")
            || case.compare.ignore.iter().any(|pattern| ignored(pattern))
        {
            continue;
        }
        let (one, other) = (envoy.get(name), ours.get(name));
        let unread = request.whole_body().is_some() && ours.get("tries").is_some_and(|tries| tries == "0");
        if unread && (name == "header.connection" || name == "end") && other.is_none() {
            // Envoy ends a connection when it answers before the request's body was read; we read it first.
            continue;
        }
        let bare = name.split_once("header.").map_or(name.as_str(), |(_, rest)| rest);
        let present =
            PRESENCE.iter().any(|known| known.strip_prefix("header.") == Some(bare)) && name.contains("header.");
        if present && one.is_some() == other.is_some() {
            let fixed = |value: Option<&String>| value.is_some_and(|value| is_made_up(bare, value));
            if bare == "server" || bare == "x-envoy-upstream-service-time" || (fixed(one) && fixed(other)) {
                continue;
            }
        }
        if bare == "x-envoy-expected-rq-timeout-ms"
            && let (Some(Ok(one)), Some(Ok(other))) =
                (one.map(|one| one.parse::<i64>()), other.map(|one| one.parse::<i64>()))
            && (one - other).abs() <= 200
        {
            // Later tries are told the time that is left.
            continue;
        }
        if name.starts_with("share.") {
            let number = |value: Option<&String>| value.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            let (one, other, all) = (number(one), number(other), request.times as f64);
            let p = (one + other) / (2.0 * all);
            // Five standard deviations of the difference of two shares: one false alarm in millions.
            if (one - other).abs() / all <= 5.0 * (2.0 * p * (1.0 - p) / all).sqrt() {
                continue;
            }
        }
        if one != other {
            out.push(format!("    {name}: Envoy {}, ours {}", text(one), text(other)));
        }
    }
}

/// A request id that a proxy made, rather than one that the client sent.
fn is_made_up(name: &str, value: &str) -> bool {
    name == "x-request-id" && value.len() == 36 && value.matches('-').count() == 4
}

fn text(value: Option<&String>) -> String {
    value.map_or("absent".into(), |value| format!("{value:?}"))
}
