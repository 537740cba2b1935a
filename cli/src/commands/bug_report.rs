//! `meshctl bug-report`: an archive of everything that helps others to see what is wrong with a mesh.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::bug_report::archive::Archive;
use crate::bug_report::{Piece, objects, programs};
use crate::cluster::{Cluster, ClusterArgs};
use crate::output::{GOOD, NOTE};
use crate::pods;

/// Parts that are read at a time.
const AT_A_TIME: usize = 8;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespaces to tell of, beside the control plane's [default: all that have proxies]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    include: Vec<String>,
    /// Namespaces to leave out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Logs of this last time, such as 30m or 1h30m [default: all that is kept]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<SignedDuration>,
    /// Where to write the archive
    #[arg(short, long, default_value = "bug-report.tgz", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let time: SignedDuration = text.parse().map_err(|_| "write it as 45s, 30m or 1h30m".to_owned())?;
    if time.as_secs() < 1 { Err("it is too short; a second is the least".to_owned()) } else { Ok(time) }
}

/// Collects and writes. What cannot be read is named, and is no failure.
pub async fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.connect().await?;
    let root = &args.cluster.namespace;
    let time = Timestamp::now();
    let mut archive = Archive::create(&args.output, time)?;
    let (pods, mut wanted) = workloads(&cluster, &args).await?;
    wanted.insert(root.clone());
    let (planes, proxies) = parts(&pods, &wanted, root);
    anstream::eprintln!(
        "reading {} namespaces, {} control planes and {} proxies",
        wanted.len(),
        planes.len(),
        proxies.len()
    );
    let since = args.duration.map(|time| time.as_secs());
    let mut tasks: Vec<BoxFuture<'_, Vec<Piece>>> = vec![Box::pin(objects::of_cluster(&cluster, root))];
    for namespace in &wanted {
        tasks.push(Box::pin(objects::of_namespace(&cluster, namespace, root)));
    }
    for pod in &planes {
        tasks.push(Box::pin(programs::of_control_plane(&cluster, pod, since)));
    }
    for pod in &proxies {
        tasks.push(Box::pin(programs::of_proxy(&cluster, pod, since)));
    }
    let mut read = stream::iter(tasks).buffer_unordered(AT_A_TIME);
    while let Some(pieces) = read.next().await {
        pieces.into_iter().try_for_each(|piece| archive.add(piece))?;
    }
    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let about = format!(
        "Bug report of {time:.0}, by meshctl {}\ncluster: {}\nnamespaces: {}\n\nIt holds no data of Secrets, and of applications no environment. \
         Logs and arguments of programs are as they are.",
        env!("CARGO_PKG_VERSION"),
        cluster.address,
        names.join(", "),
    );
    let (files, missing) = archive.finish(&about)?;
    for line in &missing {
        anstream::eprintln!("{NOTE}missing{NOTE:#} {line}");
    }
    let path = args.output.display();
    anstream::println!("{GOOD}✔{GOOD:#} {files} files in {path}; look through it before you hand it on");
    Ok(ExitCode::SUCCESS)
}

/// The pods of the namespaces that are asked for, and these namespaces.
async fn workloads(cluster: &Cluster, args: &Args) -> Result<(Vec<Pod>, BTreeSet<String>)> {
    let (mut found, mut wanted) = (Vec::new(), BTreeSet::new());
    if args.include.is_empty() {
        found = pods::list(cluster, None, "").await?;
        wanted = found.iter().filter(|pod| pods::proxy(pod).is_some()).map(|pod| pods::name(pod).namespace).collect();
    } else {
        wanted.extend(args.include.iter().cloned());
        for namespace in wanted.iter().chain([&args.cluster.namespace]).collect::<BTreeSet<_>>() {
            found.extend(pods::list(cluster, Some(namespace), "").await?);
        }
    }
    if args.exclude.contains(&args.cluster.namespace) {
        bail!("--exclude {}: the control plane's namespace is always told of", args.cluster.namespace);
    }
    wanted.retain(|namespace| !args.exclude.contains(namespace));
    Ok((found, wanted))
}

/// The control planes and the proxies among pods; those that do not run have logs at least.
fn parts<'a>(pods: &'a [Pod], wanted: &BTreeSet<String>, root: &str) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let is_plane = |pod: &&&Pod| {
        let labels = pod.metadata.labels.as_ref();
        pods::name(pod).namespace == root
            && labels.and_then(|labels| labels.get("app")).is_some_and(|app| app == "istiod")
    };
    let planes = pods.iter().filter(|pod| is_plane(&pod)).collect();
    let proxies =
        pods.iter().filter(|pod| pods::proxy(pod).is_some() && wanted.contains(&pods::name(pod).namespace)).collect();
    (planes, proxies)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in
            [("45s", Some(45)), ("30m", Some(1800)), ("1h30m", Some(5400)), ("0s", None), ("soon", None)]
        {
            assert_eq!(duration(text).ok().map(|time| time.as_secs()), seconds, "{text}");
        }
    }

    #[test]
    fn control_planes_and_proxies_are_told_apart() {
        let pod = |name: &str, namespace: &str, app: &str, container: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
                "spec": {"containers": [{"name": container}]}}))
            .unwrap()
        };
        let pods = [
            pod("plane", "istio-system", "istiod", "discovery"),
            pod("gateway", "istio-system", "gateway", "istio-proxy"),
            pod("web", "shop", "web", "istio-proxy"),
            pod("fake", "shop", "istiod", "web"),
            pod("other", "bank", "web", "istio-proxy"),
        ];
        let wanted = ["istio-system".to_owned(), "shop".to_owned()].into();
        let names = |pods: Vec<&Pod>| pods.into_iter().map(|pod| pods::name(pod).name).collect::<Vec<_>>();
        let (planes, proxies) = parts(&pods, &wanted, "istio-system");
        assert_eq!(
            (names(planes), names(proxies)),
            (vec!["plane".to_owned()], vec!["gateway".to_owned(), "web".to_owned()])
        );
    }
}
