//! The Kubernetes objects that the mesh reads, by short paths. Types only: who watches them is a source's business.

pub use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServicePort, ServiceSpec};
pub use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
pub use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta, Time};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
