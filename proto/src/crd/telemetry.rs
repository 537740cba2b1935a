//! Telemetry. Source: <https://istio.io/latest/docs/reference/config/telemetry/>.

use std::collections::BTreeMap;

use super::{Duration, PolicyTargetReference, WorkloadSelector};

message! {
    /// How a workload is observed.
    pub struct Telemetry {
        /// Workloads.
        pub selector: Option<WorkloadSelector>,
        /// Deprecated single target.
        pub target_ref: Option<PolicyTargetReference>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Traces.
        pub tracing: Vec<Tracing>,
        /// Metrics.
        pub metrics: Vec<Metrics>,
        /// Access logs.
        pub access_logging: Vec<AccessLogging>,
    }

    /// A provider of MeshConfig.
    pub struct ProviderRef {
        /// Name.
        pub name: String,
    }

    /// Traces.
    pub struct Tracing {
        /// Side.
        #[serde(rename = "match")]
        pub matches: Option<ModeSelector>,
        /// Providers; one at most.
        pub providers: Vec<ProviderRef>,
        /// Share of requests, percent.
        pub random_sampling_percentage: Option<f64>,
        /// No spans.
        pub disable_span_reporting: Option<bool>,
        /// Tags.
        pub custom_tags: BTreeMap<String, CustomTag>,
        /// Sample by x-request-id.
        pub use_request_id_for_trace_sampling: Option<bool>,
        /// Istio's own tags.
        pub enable_istio_tags: Option<bool>,
        /// Do not pass context on.
        pub disable_context_propagation: Option<bool>,
    }

    /// Where the value of a tag comes from: one of these.
    pub struct CustomTag {
        /// The value itself.
        pub literal: Option<Literal>,
        /// A variable of the proxy.
        pub environment: Option<NamedValue>,
        /// A header of the request.
        pub header: Option<NamedValue>,
    }

    /// A value.
    pub struct Literal {
        /// The value.
        pub value: String,
    }

    /// A variable or header.
    pub struct NamedValue {
        /// Name.
        pub name: String,
        /// Without it.
        pub default_value: String,
    }

    /// A side.
    pub struct ModeSelector {
        /// CLIENT, SERVER, CLIENT_AND_SERVER.
        pub mode: String,
    }

    /// Metrics.
    pub struct Metrics {
        /// Providers.
        pub providers: Vec<ProviderRef>,
        /// Changes.
        pub overrides: Vec<MetricsOverrides>,
        /// Of TCP metrics.
        pub reporting_interval: Option<Duration>,
    }

    /// A change of metrics.
    pub struct MetricsOverrides {
        /// Which.
        #[serde(rename = "match")]
        pub matches: Option<MetricSelector>,
        /// Off.
        pub disabled: Option<bool>,
        /// Tags.
        pub tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// Which metric.
    pub struct MetricSelector {
        /// Istio's name.
        pub metric: Option<String>,
        /// Another name.
        pub custom_metric: Option<String>,
        /// Side.
        pub mode: String,
    }

    /// A change of a tag.
    pub struct TagOverride {
        /// UPSERT or REMOVE.
        pub operation: String,
        /// CEL.
        pub value: String,
    }

    /// Access logs.
    pub struct AccessLogging {
        /// Side.
        #[serde(rename = "match")]
        pub matches: Option<ModeSelector>,
        /// Providers.
        pub providers: Vec<ProviderRef>,
        /// Off.
        pub disabled: Option<bool>,
        /// Which requests.
        pub filter: Option<LogFilter>,
    }

    /// Which requests.
    pub struct LogFilter {
        /// CEL.
        pub expression: String,
    }
}
