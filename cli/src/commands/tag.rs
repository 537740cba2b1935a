//! `meshctl tag`: names that point to revisions, so that an upgrade moves namespaces by moving a name.
//!
//! A tag is a webhook configuration, as the chart `controlplane` makes it; the tag `default` stands for namespaces labelled
//! `istio-injection=enabled` and for objects that name no revision.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use serde::Serialize;
use serde_json::Value;

use super::install::confirm;
use crate::cluster::{Cluster, ClusterArgs, id};
use crate::install::inventory::{self, Inventory};
use crate::install::manifest::{self, REVISION_LABEL};
use crate::install::object::{Id, Object};
use crate::install::uninstall::{Tag, tags};
use crate::install::values::{DEFAULT_REVISION, Installation, Wishes};
use crate::output::{Format, GOOD, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a tag, or move it
    Set(Set),
    /// Print the webhook configuration that a tag is
    Generate(Set),
    /// Show tags, their revisions, and the namespaces that use them
    #[command(visible_alias = "ls")]
    List(List),
    /// Remove a tag
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Name of the tag
    tag: String,
    /// Revision that it points to
    #[arg(long, value_name = "NAME")]
    revision: String,
    /// Move a tag that points elsewhere
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Format
    #[arg(short, long, default_value = "table")]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Remove {
    /// Name of the tag
    tag: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Do not ask
    #[arg(short = 'y', long, alias = "skip-confirmation")]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    tag: String,
    revision: String,
    namespaces: Vec<String>,
}

/// Runs one of them.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Set(args) => set(args).await?,
        Command::Generate(args) => {
            let cluster = args.cluster.connect().await?;
            let (objects, _) = objects(&cluster, &args).await?;
            for object in objects {
                anstream::print!("---\n{}", yaml_serde::to_string(&object.body)?);
            }
        }
        Command::List(args) => list(args).await?,
        Command::Remove(args) => remove(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(args: Set) -> Result<()> {
    let cluster = args.cluster.connect().await?;
    let (objects, replaced) = objects(&cluster, &args).await?;
    for object in &objects {
        cluster.apply(&object.id, &object.body, false).await?;
    }
    if let Some(replaced) = replaced {
        cluster.delete(&replaced, false).await?;
    }
    anstream::println!(
        "{GOOD}tag {} points to revision {}{GOOD:#}; namespaces labelled {REVISION_LABEL}={} are served by it as their pods restart",
        args.tag,
        args.revision,
        args.tag
    );
    Ok(())
}

/// What makes the tag, and the injector that it replaces.
async fn objects(cluster: &Cluster, args: &Set) -> Result<(Vec<Object>, Option<Id>)> {
    let Set { tag, revision, .. } = args;
    ensure!(is_label(tag), "tag {tag}: is no name of lower-case letters, digits and dashes");
    let namespace = &args.cluster.namespace;
    let installed = inventory::all(cluster, namespace).await?;
    let injector = injector(revision, namespace);
    let Some(found) = cluster.get(&injector).await? else {
        let names: Vec<&str> = installed.iter().map(|inventory| inventory.revision.as_str()).collect();
        bail!("--revision {revision}: is not installed in namespace {namespace}; installed: {}", names.join(", "));
    };
    if let Some(there) = tags(cluster).await?.iter().find(|there| there.name == *tag)
        && there.revision != *revision
        && !args.overwrite
    {
        bail!("tag {tag} points to revision {}; --overwrite moves it", there.revision);
    }
    let replaced = replaced(args, &installed)?;
    let installation = installation(&installed, revision, namespace)?;
    let mut objects: Vec<Object> = manifest::tag(&installation, tag)?.into_iter().collect();
    if tag == DEFAULT_REVISION {
        objects.extend(manifest::default_validator(namespace, revision)?);
    }
    for object in &mut objects {
        trust(&mut object.body, &found);
    }
    Ok((objects, replaced))
}

/// A tag named as a revision would inject pods twice, so the revision's own injector goes, and only for `default` that makes sense.
fn replaced(args: &Set, installed: &[Inventory]) -> Result<Option<Id>> {
    let Set { tag, revision, .. } = args;
    if !installed.iter().any(|inventory| inventory.revision == *tag) {
        return Ok(None);
    }
    ensure!(tag == DEFAULT_REVISION, "tag {tag}: is the name of a revision that is installed; choose another name");
    ensure!(tag != revision, "tag {tag}: revision {revision} is the default one by itself and needs no tag");
    ensure!(
        args.overwrite,
        "tag {tag}: revision {DEFAULT_REVISION} serves namespaces labelled istio-injection=enabled now; --overwrite gives them to {revision}"
    );
    Ok(Some(injector(DEFAULT_REVISION, &args.cluster.namespace)))
}

/// The webhook configuration by which a revision injects.
fn injector(revision: &str, namespace: &str) -> Id {
    let elsewhere =
        if namespace == mesh_proto::names::ROOT_NAMESPACE { String::new() } else { format!("-{namespace}") };
    let name = format!("istio-sidecar-injector{}{elsewhere}", manifest::suffix(revision));
    id("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", None, &name)
}

/// The values that the revision was installed with; those of its chart, if another tool installed it.
fn installation(installed: &[Inventory], revision: &str, namespace: &str) -> Result<Installation> {
    let said = installed.iter().find(|inventory| inventory.revision == revision);
    let wishes = Wishes { revision: (revision != DEFAULT_REVISION).then(|| revision.to_owned()), ..Wishes::default() };
    wishes.installation(said.map_or(&Value::Null, |inventory| &inventory.said), namespace)
}

/// Copies the CA bundle of the revision's own webhooks; the control plane keeps it up to date from then on.
fn trust(body: &mut Value, injector: &DynamicObject) {
    let Some(bundle) = injector.data.pointer("/webhooks/0/clientConfig/caBundle").cloned() else { return };
    for webhook in body.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        webhook["clientConfig"]["caBundle"] = bundle.clone();
    }
}

fn is_label(text: &str) -> bool {
    let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(good) && !text.starts_with('-') && !text.ends_with('-')
}

async fn list(args: List) -> Result<()> {
    let cluster = args.cluster.connect().await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespaces = namespaces.list(&ListParams::default()).await;
    let namespaces = namespaces.map_err(|error| cluster.explain("list", "namespaces", error))?.items;
    let rows: Vec<Row> = tags(&cluster)
        .await?
        .into_iter()
        .map(|Tag { name, revision, .. }| Row { namespaces: users(&namespaces, &name), tag: name, revision })
        .collect();
    args.output.print(&rows, |rows| {
        let rows = rows.iter().map(|row| [row.tag.clone(), row.revision.clone(), row.namespaces.join(",")]);
        table(&["TAG", "REVISION", "NAMESPACES"], rows)
    })
}

/// The namespaces whose labels name a tag.
fn users(namespaces: &[Namespace], tag: &str) -> Vec<String> {
    let uses = |namespace: &&Namespace| {
        let label = |name: &str| namespace.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        match label("istio-injection") {
            Some(value) => tag == DEFAULT_REVISION && value == "enabled",
            None => label(REVISION_LABEL).is_some_and(|value| value == tag),
        }
    };
    namespaces.iter().filter(uses).filter_map(|namespace| namespace.metadata.name.clone()).collect()
}

async fn remove(args: Remove) -> Result<()> {
    let cluster = args.cluster.connect().await?;
    let Some(tag) = tags(&cluster).await?.into_iter().find(|tag| tag.name == args.tag) else {
        bail!("there is no tag {}; `meshctl tag list` shows those that there are", args.tag);
    };
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespaces = namespaces.list(&ListParams::default()).await;
    let users = users(&namespaces.map_err(|error| cluster.explain("list", "namespaces", error))?.items, &tag.name);
    if !users.is_empty() {
        let question = format!(
            "Namespaces {} use tag {}; their new pods will have no proxy. Remove it?",
            users.join(", "),
            tag.name
        );
        confirm(&question, args.yes)?;
    }
    cluster.delete(&tag.id, false).await?;
    anstream::println!("{GOOD}tag {} is removed{GOOD:#}", tag.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_use_a_tag_by_either_label() {
        let namespace = |name: &str, labels: Value| -> Namespace {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
        };
        let all = [
            namespace("a", json!({"istio-injection": "enabled"})),
            namespace("b", json!({"istio.io/rev": "prod"})),
            namespace("c", json!({"istio.io/rev": "default"})),
            namespace("d", json!({"istio.io/rev": "prod", "istio-injection": "disabled"})),
        ];
        assert_eq!(users(&all, "default"), ["a", "c"]);
        assert_eq!(users(&all, "prod"), ["b"]);
    }

    #[test]
    fn names_are_labels() {
        for (name, good) in
            [("prod", true), ("1-24", true), ("", false), ("-a", false), ("Prod", false), ("a.b", false)]
        {
            assert_eq!(is_label(name), good, "{name}");
        }
        assert_eq!(injector("canary", "mesh").name, "istio-sidecar-injector-canary-mesh");
    }
}
