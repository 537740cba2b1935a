//! Scalars with the leniency of protobuf's JSON mapping: numbers as strings, durations as text, null as unset.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration as protobuf (`1.5s`) and Go (`1h2m3.5s`, `300ms`) write it. Never negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub StdDuration);

impl Duration {
    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// Milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(StdDuration::from_millis(milliseconds))
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration; write a number with a unit, such as 1.5s, 300ms or 1h30m")]
pub struct DurationError(String);

const UNITS: &[(&str, f64)] =
    &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DurationError(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let value: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(wrong)?;
            seconds += value * scale;
            rest = &rest[letters..];
        }
        // Nanoseconds are the finest unit of protobuf's Duration; rounding there undoes binary fractions such as 0.3.
        let nanoseconds = (seconds * 1e9).round();
        if !(0.0..=3.2e20).contains(&nanoseconds) {
            return Err(wrong());
        }
        Ok(Self(StdDuration::new((nanoseconds / 1e9) as u64, (nanoseconds % 1e9) as u32)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            nanoseconds => {
                let fraction = format!("{nanoseconds:09}");
                write!(f, "{}.{}s", self.0.as_secs(), fraction.trim_end_matches('0'))
            }
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 1.5s")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Duration, E> {
                if value == 0 { Ok(Duration::default()) } else { Err(E::custom(DurationError(value.to_string()))) }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Duration, E> {
                if value == 0 { Ok(Duration::default()) } else { Err(E::custom(DurationError(value.to_string()))) }
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// A percentage of 0 to 100 (`istio.networking.v1alpha3.Percent`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Percent {
    /// The number.
    pub value: f64,
}

/// Integers that YAML may hold as a number, a whole float or a string of digits.
pub trait Number: Sized {
    /// Converts when the value fits.
    fn from_i128(value: i128) -> Option<Self>;
    /// For messages: `a number of 0 to 4294967295`.
    const RANGE: &'static str;
}

macro_rules! numbers {
    ($($name:ty => $range:literal),*) => {$(
        impl Number for $name {
            fn from_i128(value: i128) -> Option<Self> { value.try_into().ok() }
            const RANGE: &'static str = $range;
        }
    )*};
}
numbers!(u32 => "a whole number of 0 to 4294967295", i32 => "a whole number of 32 bits", u64 => "a whole number, not negative", i64 => "a whole number");

struct NumberVisitor<N>(std::marker::PhantomData<N>);

impl<'de, N: Number> Visitor<'de> for NumberVisitor<N> {
    type Value = Option<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(N::RANGE)
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        N::from_i128(value.into()).map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        N::from_i128(value.into()).map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        let whole = value.fract() == 0.0 && value.abs() < 1e18;
        let number = if whole { N::from_i128(value as i128) } else { None };
        number.map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let number = text.trim().parse::<i128>().ok().and_then(N::from_i128);
        number.map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A number; null is 0.
pub fn number<'de, D: Deserializer<'de>, N: Number + Default>(deserializer: D) -> Result<N, D::Error> {
    deserializer.deserialize_any(NumberVisitor(std::marker::PhantomData)).map(Option::unwrap_or_default)
}

/// A number that may be absent or null.
pub fn optional_number<'de, D: Deserializer<'de>, N: Number>(deserializer: D) -> Result<Option<N>, D::Error> {
    deserializer.deserialize_any(NumberVisitor(std::marker::PhantomData))
}

/// A list of numbers.
pub fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    struct One(u32);
    impl<'de> Deserialize<'de> for One {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            number(deserializer).map(One)
        }
    }
    Ok(Option::<Vec<One>>::deserialize(deserializer)?.unwrap_or_default().into_iter().map(|one| one.0).collect())
}

/// A map whose values are numbers, such as ports by name.
pub fn number_map<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<std::collections::BTreeMap<String, u32>, D::Error> {
    struct One(u32);
    impl<'de> Deserialize<'de> for One {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            number(deserializer).map(One)
        }
    }
    let map = Option::<std::collections::BTreeMap<String, One>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(map.into_iter().map(|(key, one)| (key, one.0)).collect())
}

/// Bytes in base64, as protobuf's JSON mapping writes them.
pub mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes base64.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        STANDARD.decode(text.trim()).map(Some).map_err(|error| serde::de::Error::custom(format!("not base64: {error}")))
    }
}
