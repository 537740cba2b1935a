//! The API server's question about a pod, and the answer: pure, from the bytes of one AdmissionReview to the next (IN1).
//!
//! A pod that cannot be injected as it asks is refused with the reason. A controller that makes pods (of a Deployment, of a Job) writes
//! that reason into an event of its own object, so a refused pod is never silent.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use mesh_proto::crd::MeshConfig;
use serde_json::Value;

use super::{InjectError, Origin, Outcome, Settings, inject, patch};

/// Answers a review. `values` is what stands after `/inject` in the webhook's path.
pub fn review(body: &[u8], values: &str, settings: &Settings, mesh: &MeshConfig) -> AdmissionReview<DynamicObject> {
    match read(body) {
        Ok((request, pod)) => answer(&request, &pod, values, settings, mesh).into_review(),
        Err(error) => AdmissionResponse::invalid(format!("no AdmissionReview with a request: {error}")).into_review(),
    }
}

/// The request, and its object as it came: types know only the fields that they were made with.
fn read(body: &[u8]) -> Result<(AdmissionRequest<DynamicObject>, Value), serde_json::Error> {
    use serde::de::Error;
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)?;
    let request = review.try_into().map_err(serde_json::Error::custom)?;
    let mut whole: Value = serde_json::from_slice(body)?;
    let pod = whole.pointer_mut("/request/object").map(Value::take).unwrap_or_default();
    Ok((request, pod))
}

fn answer(
    request: &AdmissionRequest<DynamicObject>,
    pod: &Value,
    values: &str,
    settings: &Settings,
    mesh: &MeshConfig,
) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    // Only the creation of pods is asked for; anything else is the mistake of a webhook's configuration, and no harm.
    if request.kind.kind != "Pod" || request.sub_resource.is_some() || pod.is_null() {
        return response;
    }
    let namespace = request.namespace.as_deref().unwrap_or("default");
    let outcome = with_values(settings, values)
        .and_then(|settings| inject(pod, &Origin { namespace, workload: None }, &settings, mesh));
    let name = pod.pointer("/metadata/name").or_else(|| pod.pointer("/metadata/generateName"));
    let name = name.and_then(Value::as_str).unwrap_or_default();
    match outcome {
        Ok(Outcome::Skipped(reason)) => {
            tracing::info!(namespace, name, reason, "a pod is not injected");
            response
        }
        Ok(Outcome::Injected { pod: injected, warnings }) => {
            tracing::info!(namespace, name, dry_run = request.dry_run, "a pod is injected");
            response.warnings = (!warnings.is_empty()).then_some(warnings);
            match response.with_patch(patch::patch(pod, &injected)) {
                Ok(response) => response,
                Err(error) => AdmissionResponse::from(request).deny(format!("sidecar injection: {error}")),
            }
        }
        Err(error) => {
            tracing::warn!(namespace, name, %error, "a pod is refused");
            response.deny(format!("sidecar injection: {error}"))
        }
    }
}

/// Settings with the values of a webhook's path, in Istio's two forms: `/cluster/NAME/net/NAME` and `/:ENV:cluster=NAME:ENV:net=NAME`.
fn with_values(settings: &Settings, path: &str) -> Result<Settings, InjectError> {
    let path = path.trim_matches('/');
    let pairs: Vec<(&str, &str)> = match path.split_once(":ENV:") {
        Some((_, rest)) => rest.split(":ENV:").filter_map(|pair| pair.split_once('=')).collect(),
        None => {
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            parts.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default())).collect()
        }
    };
    let mut settings = settings.clone();
    for (name, value) in pairs {
        // The path may hold no slash inside of a value.
        let value = value.replace("--slash--", "/");
        match name {
            "cluster" | "ISTIO_META_CLUSTER_ID" => settings.cluster = value,
            "net" | "ISTIO_META_NETWORK" => settings.network = Some(value),
            other => {
                return Err(InjectError::Settings(format!(
                    "the webhook's path /inject/{path}: `{other}` is neither cluster nor net; correct the webhook's configuration"
                )));
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn ask(kind: &str, object: Value, values: &str) -> Value {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u1", "kind": {"group": "", "version": "v1", "kind": kind},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "shop",
                "operation": "CREATE", "userInfo": {}, "object": object, "oldObject": null, "dryRun": false,
            },
        });
        let answer = review(body.to_string().as_bytes(), values, &Settings::default(), &MeshConfig::default());
        serde_json::to_value(answer).unwrap()
    }

    fn patched(mut object: Value, answer: &Value) -> Value {
        let bytes: Vec<u8> = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
        json_patch::patch(&mut object, &serde_json::from_slice::<json_patch::Patch>(&bytes).unwrap()).unwrap();
        object
    }

    #[test]
    fn a_pod_is_answered_with_a_patch_that_keeps_what_types_do_not_know() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"},
            "spec": {"containers": [{"name": "app", "image": "app", "fieldOfTomorrow": 1}], "alsoNew": {"a": []}},
        });
        let answer = ask("Pod", pod.clone(), "/cluster/east/net/n--slash--1");
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!("u1"), &json!(true)));
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let injected = patched(pod, &answer);
        assert_eq!(injected["spec"]["containers"][0]["fieldOfTomorrow"], 1);
        assert_eq!(injected["spec"]["alsoNew"], json!({"a": []}));
        let proxy = injected["spec"]["initContainers"][1].to_string();
        assert!(proxy.contains(r#"{"name":"ISTIO_META_CLUSTER_ID","value":"east"}"#), "{proxy}");
        assert!(proxy.contains(r#"{"name":"ISTIO_META_NETWORK","value":"n/1"}"#), "{proxy}");
    }

    #[test]
    fn a_pod_that_cannot_have_what_it_asks_is_refused_with_the_reason() {
        let pod = json!({"metadata": {"annotations": {"sidecar.istio.io/proxyCPU": "x"}}, "spec": {"containers": []}});
        let answer = ask("Pod", pod.clone(), "");
        assert_eq!(answer["response"]["allowed"], false);
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("sidecar injection: annotation sidecar.istio.io/proxyCPU"), "{message}");
        let answer = ask("Pod", json!({"spec": {"containers": []}}), "/zone/a");
        assert!(
            answer["response"]["status"]["message"].as_str().unwrap().contains("`zone` is neither cluster nor net")
        );
    }

    #[test]
    fn what_is_no_pod_to_inject_is_let_through() {
        let host = json!({"spec": {"hostNetwork": true, "containers": []}});
        for (kind, object) in [("Pod", host), ("Service", json!({})), ("Pod", Value::Null)] {
            let answer = ask(kind, object, "");
            assert_eq!((&answer["response"]["allowed"], &answer["response"]["patch"]), (&json!(true), &Value::Null));
        }
        for body in
            [&b""[..], b"{}", b"{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\"}", b"\xff"]
        {
            let answer = review(body, "", &Settings::default(), &MeshConfig::default());
            assert!(!answer.response.unwrap().allowed);
        }
    }
}
