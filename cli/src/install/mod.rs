//! `meshctl install` and its siblings: values → charts → manifest → a cluster, and back.
//!
//! [`values`] gathers what a user says ([`set`], [`operator`]), [`chart`] and [`template`] render `deploy/charts` as Helm does,
//! [`manifest`] orders the objects ([`object`]), [`apply`] brings a cluster to it ([`permissions`], [`wait`], [`progress`]),
//! [`inventory`] remembers, [`uninstall`] takes away.

pub mod apply;
pub mod chart;
pub mod inventory;
pub mod manifest;
pub mod object;
pub mod operator;
pub mod permissions;
pub mod progress;
pub mod set;
pub mod template;
pub mod uninstall;
pub mod values;
pub mod wait;
