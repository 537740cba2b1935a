//! `status` of Istio's kinds: what controllers say of an object. Source: <https://istio.io/latest/docs/reference/config/meta/v1alpha1/istio-status/>.

use super::scalar::optional_number;

message! {
    /// What controllers say of an object.
    pub struct IstioStatus {
        /// State of the object.
        pub conditions: Vec<StatusCondition>,
        /// What analysis found.
        pub validation_messages: Vec<ValidationMessage>,
        /// Generation of the object that this is about; protobuf's JSON writes it as a text.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_number")]
        pub observed_generation: Option<i64>,
    }

    /// Status of a ServiceEntry.
    pub struct ServiceEntryStatus {
        /// State of the object.
        pub conditions: Vec<StatusCondition>,
        /// What analysis found.
        pub validation_messages: Vec<ValidationMessage>,
        /// Generation of the object that this is about; protobuf's JSON writes it as a text.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_number")]
        pub observed_generation: Option<i64>,
        /// Addresses that the mesh gave to hosts without.
        pub addresses: Vec<ServiceEntryAddress>,
    }

    /// An address that the mesh gave to a host.
    pub struct ServiceEntryAddress {
        /// IP address.
        pub value: String,
        /// Host of the ServiceEntry.
        pub host: String,
    }

    /// State of an object in one respect.
    pub struct StatusCondition {
        /// In which respect, such as `Reconciled`.
        #[serde(rename = "type")]
        pub condition_type: String,
        /// True, False or Unknown.
        pub status: String,
        /// Time of the last check, RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub last_probe_time: Option<String>,
        /// Time of the last change of `status`, RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub last_transition_time: Option<String>,
        /// One word that says why.
        pub reason: String,
        /// For people.
        pub message: String,
        /// Generation of the object that this is about.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_number")]
        pub observed_generation: Option<i64>,
    }

    /// A finding of analysis.
    pub struct ValidationMessage {
        /// What kind of finding.
        #[serde(rename = "type")]
        pub message_type: MessageType,
        /// How bad.
        pub level: Level,
        /// Page about it.
        pub documentation_url: String,
    }

    /// A kind of finding.
    pub struct MessageType {
        /// For people.
        pub name: String,
        /// Such as `IST0101`.
        pub code: String,
    }
}

choice! {
    /// How bad a finding is.
    pub enum Level {
        /// Not known.
        #[default]
        Unknown,
        /// Something does not work.
        Error,
        /// Something may surprise.
        Warning,
        /// Good to know.
        Info,
    }
}
