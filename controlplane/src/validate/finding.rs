//! What is wrong with an object, where it stands, and what to do.

use std::fmt;

use crate::model::{Key, Origin};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know; nothing is wrong.
    Info,
    /// The object is in force, but a part of it has no effect or will surprise.
    Warning,
    /// Something does not work. Of [`super::object`]: the object is kept out, and the last good version of it stays in force.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A judgement over an object, or over a text that should have been one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Code of Istio's analyzers where one fits, such as `IST0106`.
    pub code: Option<&'static str>,
    /// The object, if the text told which.
    pub key: Option<Key>,
    /// Where: of the field if it is known, else of the object.
    pub origin: Origin,
    /// Path of the field; in Istio's kinds from `spec` on, such as `http[0].route[1].weight`.
    pub field: Option<String>,
    /// What is wrong, and after a semicolon what to do.
    pub message: String,
}

impl Finding {
    /// The object, the field and the message, for readers who know where it stands and how bad it is.
    pub fn statement(&self) -> String {
        let key = self.key.as_ref().map(|key| format!("{key}: "));
        let field = self.field.as_ref().map(|field| format!("{field}: "));
        format!("{}{}{}", key.unwrap_or_default(), field.unwrap_or_default(), self.message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.severity)?;
        if let Some(code) = self.code {
            write!(f, "[{code}]")?;
        }
        write!(f, ": {}", self.statement())
    }
}

/// Codes of Istio's analyzers (CL16).
pub mod code {
    /// A field or object that is on its way out.
    pub const DEPRECATED: &str = "IST0002";
    /// Something that is referred to does not exist.
    pub const NOT_FOUND: &str = "IST0101";
    /// The object breaks its schema or its kind's rules.
    pub const SCHEMA: &str = "IST0106";
    /// Two VirtualServices have the same host for sidecars.
    pub const CONFLICTING_HOSTS: &str = "IST0109";
    /// The service has several ports and the destination does not say which.
    pub const PORT_REQUIRED: &str = "IST0112";
    /// A rule comes after one that matches everything.
    pub const UNREACHABLE_RULE: &str = "IST0130";
}
