//! `meshctl analyze [FILE|DIR…]`: what is wrong with the configuration of a cluster, with files over it as if they had been applied.
//!
//! The control plane's own checks are used, as by `validate`; here objects may refer to what the cluster has.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use mesh_controlplane::model::Kind;
use mesh_controlplane::source::{FileSource, Live};
use mesh_controlplane::validate::{self, Severity};

use crate::cluster::ClusterArgs;
use crate::findings::{self, Finding};
use crate::live;
use crate::local::definition;
use crate::output::{BAD, Format, GOOD, NOTE};
use crate::workloads;

/// Exit code where something is found, as istioctl's.
const FOUND: u8 = 79;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders of YAML, taken as if they had been applied
    #[arg(value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Findings of this namespace [default: the kubeconfig's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Findings of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Look at the cluster, too; without it files must hold everything that they refer to
    #[arg(long, alias = "useKube", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, value_name = "BOOL")]
    use_kube: bool,
    /// Settings of the mesh are those of this revision
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Least severity that makes the command fail
    #[arg(long, alias = "failureThreshold", default_value = "error", ignore_case = true, value_name = "LEVEL")]
    failure_threshold: Level,
    /// Least severity that is shown
    #[arg(long, alias = "outputThreshold", default_value = "info", ignore_case = true, value_name = "LEVEL")]
    output_threshold: Level,
    /// Leave out findings by code, kind and NAME.NAMESPACE, in which * stands for anything: IST0109=VirtualService web.*
    #[arg(short = 'S', long, value_name = "CODE=KIND NAME")]
    suppress: Vec<Suppression>,
    /// Format
    #[arg(short, long, default_value = "log")]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A severity, as users write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn severity(self) -> Severity {
        match self {
            Self::Info => Severity::Info,
            Self::Warning => Severity::Warning,
            Self::Error => Severity::Error,
        }
    }
}

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Log,
    /// JSON for scripts
    Json,
    /// YAML
    Yaml,
}

impl From<Output> for Format {
    fn from(output: Output) -> Self {
        match output {
            Output::Log => Self::Table,
            Output::Json => Self::Json,
            Output::Yaml => Self::Yaml,
        }
    }
}

/// Looks, prints, and exits with 79 if something is found that is bad enough.
pub async fn run(args: Args) -> Result<ExitCode> {
    if !args.use_kube && args.files.is_empty() {
        bail!("there is nothing to look at: name files, or leave --use-kube=false out");
    }
    if !args.files.is_empty() && definition::files(&args.files)?.is_empty() {
        bail!("there are no files that end in .yaml, .yml or .json");
    }
    let (trees, own) = match args.use_kube {
        true => {
            let cluster = args.cluster.connect().await?;
            let more =
                [live::core("", "Pod", "pods"), live::core("discovery.k8s.io", "EndpointSlice", "endpointslices")];
            let trees = live::configuration(&cluster, &args.cluster.namespace, args.revision.as_deref(), &more).await?;
            (trees, Some(cluster.namespace))
        }
        false => (Vec::new(), None),
    };
    let scope = match args.namespace.clone().or(own) {
        Some(name) if !args.all_namespaces => Scope::One(name),
        _ => Scope::All,
    };
    let pods: Vec<Pod> = live::typed(&trees, "Pod");
    let mut source = FileSource::new(&args.files)?.over(Live::read(trees));
    let mut found = source.scan().findings;
    if args.use_kube {
        found.extend(workloads::findings(source.objects().map(AsRef::as_ref), &pods));
    }
    found.retain(|finding| {
        finding.severity >= args.output_threshold.severity()
            && scope.holds(finding)
            && !args.suppress.iter().any(|one| one.holds(finding))
    });
    let shown: Vec<Finding> = found.iter().map(Finding::from).collect();
    Format::from(args.output).print(&shown, |shown| page(shown, &scope))?;
    let bad = found.iter().any(|finding| finding.severity >= args.failure_threshold.severity());
    Ok(if bad { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// Which findings are asked for.
#[derive(Debug, PartialEq, Eq)]
enum Scope {
    All,
    One(String),
}

impl Scope {
    /// Files were named to be looked at, wherever their objects belong.
    fn holds(&self, finding: &validate::Finding) -> bool {
        let (Self::One(name), Some(key)) = (self, &finding.key) else { return true };
        let own = if key.kind == Kind::Namespace { &key.name } else { &key.namespace };
        // What belongs to no namespace concerns all.
        finding.origin.file.is_some() || own.is_empty() || **own == **name
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::One(name) => write!(f, "namespace {name}"),
        }
    }
}

fn page(shown: &[Finding], scope: &Scope) -> String {
    if shown.is_empty() {
        return format!("{GOOD}✔{GOOD:#} nothing is wrong in {scope}");
    }
    let counts = |severity| findings::count(shown, severity);
    let (errors, warnings, infos) = (counts("error"), counts("warning"), counts("info"));
    let style = if errors > 0 { BAD } else { NOTE };
    let summary = format!("{style}{errors} errors{style:#}, {warnings} warnings, {infos} notes in {scope}");
    format!("{}\n\n{summary}", findings::page(shown))
}

/// `CODE=KIND NAME.NAMESPACE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suppression {
    code: String,
    object: String,
}

impl std::str::FromStr for Suppression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (code, object) =
            text.split_once('=').ok_or("write CODE=KIND NAME.NAMESPACE, such as IST0109=VirtualService *")?;
        Ok(Self { code: code.to_owned(), object: object.to_owned() })
    }
}

impl Suppression {
    fn holds(&self, finding: &validate::Finding) -> bool {
        let Some(key) = &finding.key else { return false };
        let object = match &*key.namespace {
            "" => format!("{:?} {}", key.kind, key.name),
            namespace => format!("{:?} {}.{namespace}", key.kind, key.name),
        };
        finding.code == Some(&self.code) && matches(&self.object, &object)
    }
}

/// True if the pattern, in which `*` stands for any text, is the whole text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_controlplane::model::{Key, Origin};
    use serde_json::json;

    use super::*;

    fn finding(kind: Kind, namespace: &str, name: &str, code: &'static str, file: Option<&str>) -> validate::Finding {
        validate::Finding {
            severity: Severity::Warning,
            code: Some(code),
            key: Some(Key { kind, namespace: namespace.into(), name: name.into() }),
            origin: Origin { file: file.map(|file| PathBuf::from(file).into()), line: 0, column: 0 },
            field: None,
            message: "wrong".to_owned(),
        }
    }

    #[test]
    fn findings_are_left_out_by_code_and_object() {
        let finding = finding(Kind::VirtualService, "shop", "web", "IST0109", None);
        for (suppression, expected) in [
            ("IST0109=VirtualService web.shop", true),
            ("IST0109=VirtualService *.shop", true),
            ("IST0109=*", true),
            ("IST0109=Virtual*.sh*p", true),
            ("IST0101=VirtualService web.shop", false),
            ("IST0109=VirtualService web", false),
            ("IST0109=DestinationRule *", false),
        ] {
            let suppression: Suppression = suppression.parse().unwrap();
            assert_eq!(suppression.holds(&finding), expected, "{suppression:?}");
        }
        assert!("IST0109".parse::<Suppression>().is_err());
    }

    #[test]
    fn a_namespace_has_its_findings_and_those_of_files_and_of_the_cluster() {
        let scope = Scope::One("shop".to_owned());
        for (namespace, file, expected) in
            [("shop", None, true), ("bank", None, false), ("bank", Some("a.yaml"), true), ("", None, true)]
        {
            assert_eq!(scope.holds(&finding(Kind::Service, namespace, "a", "IST0106", file)), expected);
            assert!(Scope::All.holds(&finding(Kind::Service, namespace, "a", "IST0106", file)));
        }
    }

    #[test]
    fn objects_of_a_cluster_and_of_files_are_judged_together() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "labels": null},
            "spec": {"ports": [{"name": "http", "port": 80}]}});
        let route = |host: &str| {
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": host}}]}]}})
        };
        let live = || Live::read([service.clone(), route("gone")]);
        let scan = |paths: &[PathBuf]| FileSource::new(paths).unwrap().over(live()).scan().findings;
        let found: Vec<Finding> = scan(&[]).iter().map(Finding::from).collect();
        let page = anstream::adapter::strip_str(&page(&found, &Scope::All)).to_string();
        assert!(page.contains("VirtualService shop/web: http[0].route[0].destination.host: no Service"), "{page}");
        assert!(
            page.contains("--> in cluster") && page.ends_with("1 errors, 0 warnings, 0 notes in all namespaces"),
            "{page}"
        );
        // The file mends it, and refers to the Service of the cluster.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        std::fs::write(&file, route("web").to_string()).unwrap();
        assert_eq!(scan(std::slice::from_ref(&file)), []);
        std::fs::write(&file, route("other").to_string()).unwrap();
        let found = scan(std::slice::from_ref(&file));
        assert!(found.len() == 1 && found[0].origin.file.is_some() && found[0].message.contains("other"), "{found:?}");
    }
}
