//! Answers the API server's question whether an object may be stored (VW1), with the messages that `meshctl validate` has for it in a file.
//!
//! A pure function from a review to a review; the webhook's server calls it at [`PATH`], and [`configuration`] tells the API server when
//! to ask. What is stored is judged again by the source that watches it, because objects come in while no control plane answers, too.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    RuleWithOperations, ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::response::{Status, StatusCause, StatusDetails};
use kube::core::{DynamicObject, ObjectMeta};
use mesh_proto::crd::KINDS;
use mesh_proto::names::label;
use serde_json::Value;

use super::{Finding, Severity, refused};
use crate::source::{full_path, judge, typed};

/// Where the webhook's server answers reviews.
pub const PATH: &str = "/validate";

/// Its control plane also judges objects that name no revision.
pub use crate::own::DEFAULT_REVISION;

/// The most letters of a warning: more would be cut by the API server.
const WARNING: usize = 256;

/// The most letters of an error, which may quote a value.
const ERROR: usize = 1024;

/// The most errors, and warnings, that one answer tells.
const MOST: usize = 20;

/// What reviews depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Revision of this control plane; [`DEFAULT_REVISION`] if it has no other.
    pub revision: String,
}

/// Why a body cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The body is something else.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It holds no question.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Answers an `AdmissionReview` in JSON with one in JSON.
///
/// # Errors
/// If the body holds no question; the API server then does what the configuration's failure policy says.
pub fn review(body: &[u8], settings: &Settings) -> Result<Vec<u8>, ReviewError> {
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)?;
    let request: AdmissionRequest<DynamicObject> = review.try_into().map_err(|_| ReviewError::NoRequest)?;
    Ok(serde_json::to_vec(&answer(request, settings).into_review())?)
}

fn answer(request: AdmissionRequest<DynamicObject>, settings: &Settings) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(&request);
    let Some(object) = object_to_judge(request, settings) else { return response };
    let types = object.types.clone().unwrap_or_default();
    let findings = match tree(object) {
        Ok(tree) => judge(tree).1,
        // Objects are made of JSON, so this needs a number that JSON does not have.
        Err(error) => return response.deny(error),
    };
    let warnings: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning)
        .take(MOST)
        .map(|finding| one_line(&finding.statement(), WARNING))
        .collect();
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    if refused(&findings) {
        response.allowed = false;
        response.result = refusal(&types.kind, &types.api_version, &findings);
    }
    response
}

/// The object in question, if it is new or changed, and of this control plane's revision. One that is on its way out may always go,
/// even if it could not come in today: its finalizers are taken off by updates.
fn object_to_judge(request: AdmissionRequest<DynamicObject>, settings: &Settings) -> Option<DynamicObject> {
    if !matches!(request.operation, Operation::Create | Operation::Update) || request.sub_resource.is_some() {
        return None;
    }
    let mut object = request.object?;
    let ObjectMeta { labels, namespace, deletion_timestamp, .. } = &mut object.metadata;
    let revision = labels.as_ref().and_then(|labels| labels.get(label::REVISION));
    if deletion_timestamp.is_some() || revision.is_some_and(|revision| *revision != settings.revision) {
        return None;
    }
    if namespace.is_none() {
        *namespace = request.namespace;
    }
    Some(object)
}

fn tree(object: DynamicObject) -> Result<Value, serde_json::Error> {
    let mut tree = serde_json::to_value(object)?;
    typed::drop_nulls(&mut tree);
    Ok(tree)
}

/// What a client is told: every error in the message, and as a list for programs.
fn refusal(kind: &str, api_version: &str, findings: &[Finding]) -> Status {
    let errors: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let mut lines: Vec<String> =
        errors.iter().take(MOST).map(|finding| one_line(&finding.statement(), ERROR)).collect();
    if errors.len() > MOST {
        lines.push(format!("and {} more", errors.len() - MOST));
    }
    let causes = errors.iter().take(MOST).map(|finding| {
        let field = finding.field.as_deref().unwrap_or_default();
        let field = match &finding.key {
            Some(_) if field.is_empty() => "spec".to_owned(),
            Some(key) => full_path(key.kind, field),
            None => field.to_owned(),
        };
        StatusCause { reason: "FieldValueInvalid".to_owned(), message: one_line(&finding.message, ERROR), field }
    });
    let name = errors.iter().find_map(|finding| finding.key.as_ref()).map(|key| key.name.to_string());
    let details = StatusDetails {
        name: one_line(&name.unwrap_or_default(), WARNING),
        group: api_version.split_once('/').map(|(group, _)| group.to_owned()).unwrap_or_default(),
        kind: kind.to_owned(),
        causes: causes.collect(),
        uid: String::new(),
        retry_after_seconds: 0,
    };
    Status::failure(&lines.join("\n"), "Invalid").with_code(422).with_details(details)
}

/// A text of at most so many letters, which may stand in the header by which warnings travel.
fn one_line(text: &str, most: usize) -> String {
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    match text.chars().nth(most) {
        None => plain.collect(),
        Some(_) => plain.take(most - 1).chain(['…']).collect(),
    }
}

/// Where the API server finds the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// A Service in the cluster, at its port 443.
    Service {
        /// Name.
        name: String,
        /// Namespace.
        namespace: String,
    },
    /// A URL that begins with `https://` and ends before the path.
    Url(String),
}

/// What tells the API server to ask: for every kind of Istio's, of this revision, and of none where this is the default revision.
/// `ca_bundle` holds the roots, in PEM, that the server's certificate is verified against.
pub fn configuration(
    settings: &Settings,
    namespace: &str,
    server: &Server,
    ca_bundle: &[u8],
) -> ValidatingWebhookConfiguration {
    let revision = &settings.revision;
    let default = revision == DEFAULT_REVISION;
    let name = if default {
        format!("istio-validator-{namespace}")
    } else {
        format!("istio-validator-{revision}-{namespace}")
    };
    let requirement = |operator: &str, values: Option<Vec<String>>| LabelSelectorRequirement {
        key: label::REVISION.to_owned(),
        operator: operator.to_owned(),
        values,
    };
    let mut webhooks =
        vec![webhook("rev.validation.istio.io", requirement("In", Some(vec![revision.clone()])), server, ca_bundle)];
    if default {
        webhooks.push(webhook("validation.istio.io", requirement("DoesNotExist", None), server, ca_bundle));
    }
    let labels =
        BTreeMap::from([("app".to_owned(), "istiod".to_owned()), (label::REVISION.to_owned(), revision.clone())]);
    let metadata = ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() };
    ValidatingWebhookConfiguration { metadata, webhooks: Some(webhooks) }
}

fn webhook(name: &str, of: LabelSelectorRequirement, server: &Server, ca_bundle: &[u8]) -> ValidatingWebhook {
    let mut client_config =
        WebhookClientConfig { ca_bundle: Some(ByteString(ca_bundle.to_vec())), ..WebhookClientConfig::default() };
    match server {
        Server::Service { name, namespace } => {
            client_config.service = Some(ServiceReference {
                name: name.clone(),
                namespace: namespace.clone(),
                path: Some(PATH.to_owned()),
                port: Some(443),
            });
        }
        Server::Url(url) => client_config.url = Some(format!("{url}{PATH}")),
    }
    let selector = LabelSelector { match_expressions: Some(vec![of]), ..LabelSelector::default() };
    ValidatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config,
        failure_policy: Some("Fail".to_owned()),
        object_selector: Some(selector),
        rules: Some(rules()),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(10),
        ..ValidatingWebhook::default()
    }
}

/// One rule for each API group.
fn rules() -> Vec<RuleWithOperations> {
    let mut groups: BTreeMap<&str, RuleWithOperations> = BTreeMap::new();
    for info in KINDS {
        let rule = groups.entry(info.group).or_insert_with(|| RuleWithOperations {
            api_groups: Some(vec![info.group.to_owned()]),
            api_versions: Some(vec!["*".to_owned()]),
            operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
            scope: Some("Namespaced".to_owned()),
            resources: Some(Vec::new()),
        });
        rule.resources.get_or_insert_default().push(info.plural.to_owned());
    }
    groups.into_values().collect()
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
