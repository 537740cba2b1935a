//! A mesh on a real cluster, as the README's section on Kubernetes has it: installed by meshctl, an application that knows nothing of it,
//! steered, secured, kept up while everything under it changes, and removed.
//!
//! `cargo xtask e2e` makes the cluster and runs this; the steps build on one another and run in their order. Names as arguments run
//! only the steps whose names hold one of them, on a cluster where the steps before have run.

mod capture;
mod cluster;
mod gateways;
mod install;
mod lifecycle;
mod meshctl;
mod removal;
mod security;
mod traffic;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use cluster::Cluster;

/// A step: its name, and what it does.
type Step = (&'static str, for<'c> fn(&'c Cluster) -> LocalBoxFuture<'c, Result<()>>);

macro_rules! steps {
    ($($module:ident::$step:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($step)), |cluster| Box::pin($module::$step(cluster)))),*]
    };
}

const STEPS: &[Step] = steps![
    install::a_cluster_without_a_mesh_passes_the_check,
    install::the_mesh_comes_up_and_a_second_install_changes_nothing,
    traffic::an_unmodified_application_is_injected,
    traffic::visitors_reach_it_through_the_ingress_gateway,
    traffic::three_quarters_of_the_requests_go_to_v1,
    meshctl::meshctl_reads_the_cluster,
    security::plaintext_is_refused_and_nothing_is_readable_on_the_wire,
    security::a_policy_refuses_by_identity,
    gateways::visitors_come_over_tls_with_a_certificate_of_a_secret,
    gateways::what_leaves_the_mesh_leaves_by_the_egress_gateway,
    lifecycle::a_job_finishes_beside_its_sidecar,
    lifecycle::a_rolling_restart_fails_no_request,
    lifecycle::a_version_goes_and_comes_back_and_no_request_fails,
    lifecycle::a_node_is_drained_and_no_request_fails,
    lifecycle::another_revision_takes_over_and_no_request_fails,
    removal::nothing_is_left,
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match run(&wanted) {
        Ok(count) => {
            println!("\ntest result: ok. {count} passed; 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\ntest result: FAILED. {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<usize> {
    let cluster = Cluster::from_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|one| name.contains(one.as_str()));
    let mut count = 0;
    for (name, step) in STEPS.iter().filter(|(name, _)| chosen(name)) {
        println!("\ntest {name} ...");
        let started = Instant::now();
        if let Err(error) = runtime.block_on(step(&cluster)) {
            println!("test {name} ... FAILED\n{error:?}");
            cluster.tell();
            return Err(error.context(*name));
        }
        println!("test {name} ... ok ({} s)", started.elapsed().as_secs());
        count += 1;
    }
    Ok(count)
}
