//! Raw → resolved, per resource, all or nothing: a resource is taken whole or refused with the path of the field that is wrong.
//!
//! Each file turns one family of Envoy messages into the values of the stage that uses them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::xds::{envoy_type, wkt};

pub mod access_log;
pub mod authz;
pub mod cluster;
pub mod http;
pub mod listener;
pub mod matcher;
pub mod name_table;
pub mod route;
pub mod secret;
pub mod supported;
pub mod tls;

/// What decoded values refer to besides each other.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Secrets by name.
    pub secrets: Arc<crate::tls::SecretStore>,
    /// Where access logs are written.
    pub logs: crate::telemetry::access_log::Writers,
    /// What short names mean here.
    pub place: crate::dns::Place,
    /// The control plane speaks the delta form of the protocol, the only one by which virtual hosts come apart from their table.
    pub delta: bool,
}

/// Why a resource is not taken: the field's path from the resource's root, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `filter_chains[0].filters[1].typed_config.stat_prefix`; empty for the resource as a whole.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A resolved value or the reason why there is none.
pub type Decoded<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal of the value in hand; callers put the path before it with [`At::at`].
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// A refusal of a field of the value in hand.
    pub fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl std::error::Error for Refusal {}

/// Puts the path of a field before that of a refusal inside it.
pub trait At<T> {
    /// `field` is a name, `name[3]` or `name["key"]`.
    fn at(self, field: impl fmt::Display) -> Decoded<T>;
}

impl<T> At<T> for Decoded<T> {
    fn at(self, field: impl fmt::Display) -> Decoded<T> {
        self.map_err(|refusal| {
            let path = match refusal.path.as_str() {
                "" => field.to_string(),
                rest if rest.starts_with('[') => format!("{field}{rest}"),
                rest => format!("{field}.{rest}"),
            };
            Refusal { path, message: refusal.message }
        })
    }
}

/// Decodes each element of a list, with its index in the path.
pub fn each<T, U>(name: &str, list: &[T], decode: impl Fn(&T) -> Decoded<U>) -> Decoded<Vec<U>> {
    list.iter().enumerate().map(|(index, item)| decode(item).at(format_args!("{name}[{index}]"))).collect()
}

/// A message that must be there.
pub fn required<'a, T>(name: &str, value: &'a Option<T>) -> Decoded<&'a T> {
    value.as_ref().ok_or_else(|| Refusal::field(name, "is required"))
}

/// A duration, not negative.
pub fn duration(value: &wkt::Duration) -> Decoded<Duration> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Refusal::new("must be a duration that is not negative")),
    }
}

/// A duration that may be absent.
pub fn optional_duration(name: &str, value: &Option<wkt::Duration>) -> Decoded<Option<Duration>> {
    value.as_ref().map(duration).transpose().at(name)
}

/// A duration where 0 means none and absent means `default`.
pub fn limit(name: &str, value: &Option<wkt::Duration>, default: Option<Duration>) -> Decoded<Option<Duration>> {
    Ok(match optional_duration(name, value)? {
        None => default,
        Some(Duration::ZERO) => None,
        some => some,
    })
}

/// A fraction as parts of a million.
pub fn fraction(value: &envoy_type::FractionalPercent) -> Decoded<u32> {
    use envoy_type::fractional_percent::DenominatorType;
    let scale = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(Refusal::field("denominator", "unknown")),
    };
    Ok(value.numerator.saturating_mul(scale).min(1_000_000))
}

/// A string of the `istio` filter metadata.
pub fn istio_metadata(metadata: &Option<mesh_proto::xds::core::Metadata>, key: &str) -> Option<Arc<str>> {
    metadata_string(metadata, "istio", key)
}

/// A string of filter metadata.
pub fn metadata_string(
    metadata: &Option<mesh_proto::xds::core::Metadata>,
    filter: &str,
    key: &str,
) -> Option<Arc<str>> {
    let fields = &metadata.as_ref()?.filter_metadata.get(filter)?.fields;
    match fields.get(key)?.kind.as_ref()? {
        wkt::value::Kind::StringValue(text) => Some(text.as_str().into()),
        _ => None,
    }
}

/// Reads the message inside a typed config of the wanted type.
pub fn unpack<M: prost::Name + Default>(any: &wkt::Any) -> Decoded<M> {
    mesh_proto::xds::unpack(any).map_err(|error| Refusal::new(error.to_string()))
}
