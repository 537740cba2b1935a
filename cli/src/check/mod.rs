//! `meshctl check`: what would keep a mesh from being installed, or keeps an installed one from being well.
//!
//! [`before`] looks at a cluster without a mesh, [`after`] at one with; [`certificates`] and [`definitions`] judge what both may find. Every
//! finding says what to do.

pub mod after;
pub mod before;
pub mod certificates;
pub mod definitions;

use std::fmt;

use serde::Serialize;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Ok,
    /// Works, but not for long, or not everything.
    Warning,
    /// Does not work.
    Error,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What was found at one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// What was looked at.
    pub subject: String,
    /// What was found, and what to do.
    pub message: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { weight: Weight::Ok, subject: subject.to_string(), message: message.to_string() }
    }

    /// Needs attention.
    pub fn warning(subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { weight: Weight::Warning, ..Self::ok(subject, message) }
    }

    /// Does not work.
    pub fn error(subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { weight: Weight::Error, ..Self::ok(subject, message) }
    }
}
