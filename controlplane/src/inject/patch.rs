//! What injection changed, as a JSON patch (RFC 6902) for the API server.

use json_patch::Patch;
use serde_json::Value;

/// The steps from the pod as it came to the pod as it shall be.
pub fn patch(before: &Value, after: &Value) -> Patch {
    json_patch::diff(before, after)
}
