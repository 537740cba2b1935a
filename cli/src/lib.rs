//! `meshctl`: every command of the mesh's command line, and the whole mesh on one machine (`demo`, `local`).
//!
//! [`cli`] reads the command line, [`commands`] has one file a command, [`local`] and [`demo`] run meshes in this process, [`install`] brings one
//! into a [`cluster`] and [`check`] looks at it there. [`reach`] says which mesh is asked, [`pods`] finds its parts and [`forward`] reaches
//! them, [`live`] reads its objects, which [`describe`], [`workloads`] and [`findings`] put into words and [`bug_report`]
//! collects;
//! [`dump`] and [`metrics`] read what proxies tell of themselves, [`output`] prints.

pub mod bug_report;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod demo;
pub mod describe;
pub mod dump;
pub mod findings;
pub mod forward;
pub mod http_client;
pub mod install;
pub mod live;
pub mod local;
pub mod metrics;
pub mod output;
pub mod pods;
pub mod reach;
pub mod workloads;
