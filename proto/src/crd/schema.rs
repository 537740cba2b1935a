//! Schemas of the types whose serde is written by hand, for `deploy/crds`; those of all others are derived.
//!
//! They are what the API server of Kubernetes takes. Numbers as texts and other liberties of protobuf's JSON mapping that files may
//! take are not among them, as in Istio.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Duration, StringMatch};

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-kubernetes-validations": [{
                "rule": "duration(self) >= duration('0s')",
                "message": "must be a duration that is not negative, such as 1.5s, 300ms or 1h30m",
            }],
        })
    }
}

impl JsonSchema for StringMatch {
    fn schema_name() -> Cow<'static, str> {
        "StringMatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One of exact, prefix, regex; none matches any value.",
            "type": "object",
            "properties": {
                "exact": {"type": "string", "description": "Equal."},
                "prefix": {"type": "string", "description": "Begins with."},
                "regex": {"type": "string", "description": "Matches as a whole, RE2 syntax."},
            },
        })
    }
}
