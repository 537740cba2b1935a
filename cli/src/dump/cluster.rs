//! Rows of `proxy-config cluster`: a cluster's name taken apart, its kind of discovery and its DestinationRule.

use mesh_proto::names::cluster;
use serde_json::Value;

use super::{config_object, text};

/// Headings.
pub const HEADINGS: &[&str] = &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];

/// The row of a cluster.
pub fn row(value: &Value) -> [String; 6] {
    let name = text(value, "name");
    let kind = match text(value, "type") {
        "" if super::field(value, "cluster_type").is_object() => text(super::field(value, "cluster_type"), "name"),
        "" => "STATIC",
        kind => kind,
    };
    let rule = config_object(value);
    let dash = || "-".to_owned();
    match cluster::parse(name) {
        Some(parsed) => {
            let direction = match parsed.direction {
                cluster::Direction::Inbound => "inbound",
                cluster::Direction::Outbound => "outbound",
            };
            let subset = if parsed.subset.is_empty() { dash() } else { parsed.subset.to_owned() };
            [parsed.host.to_owned(), parsed.port.to_string(), subset, direction.to_owned(), kind.to_owned(), rule]
        }
        None => [name.to_owned(), dash(), dash(), dash(), kind.to_owned(), rule],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (value, expected) in [
            (
                json!({"name": "outbound|9080|v1|reviews.default.svc.cluster.local", "type": "EDS",
                    "metadata": {"filter_metadata": {"istio": {
                        "config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"}}}}),
                "reviews.default.svc.cluster.local 9080 v1 outbound EDS reviews.default",
            ),
            (json!({"name": "inbound|9080||", "type": "STATIC"}), " 9080 - inbound STATIC "),
            (json!({"name": "PassthroughCluster", "type": "ORIGINAL_DST"}), "PassthroughCluster - - - ORIGINAL_DST "),
        ] {
            assert_eq!(row(&value).join(" "), expected);
        }
    }
}
