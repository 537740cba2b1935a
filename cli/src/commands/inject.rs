//! `meshctl inject -f FILE`: what the webhook would make of workloads, written to the output; for clusters without the webhook, and to look.
//!
//! The control plane's own injection is used, so that both always do the same.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mesh_controlplane::inject::Settings;
use mesh_controlplane::inject::text::inject_text;
use mesh_controlplane::validate::{Severity, mesh_config};
use mesh_proto::crd::MeshConfig;
use mesh_proto::names::ROOT_NAMESPACE;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files of YAML or JSON; `-` is the standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Settings of injection: revision, images, resources, templates
    #[arg(long, alias = "injectConfigFile", value_name = "FILE")]
    pub injection_settings: Option<PathBuf>,
    /// MeshConfig
    #[arg(long, alias = "meshConfigFile", value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
    /// Revision of the control plane, over that of the settings
    #[arg(long, value_name = "NAME")]
    pub revision: Option<String>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Write here instead of to the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Injects; what became of each workload goes to the standard error.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut settings = match &args.injection_settings {
        Some(path) => Settings::from_yaml(&read(path)?).with_context(|| path.display().to_string())?,
        None => Settings::default(),
    };
    if let Some(revision) = &args.revision {
        settings.revision = revision.clone();
    }
    let mesh = match &args.mesh_config {
        Some(path) => mesh(path)?,
        None => MeshConfig::default(),
    };
    let mut text = String::new();
    for path in &args.filename {
        let input = read(path)?;
        let done =
            inject_text(&input, &args.namespace, &settings, &mesh).with_context(|| path.display().to_string())?;
        for note in done.notes {
            anstream::eprintln!("{note}");
        }
        // Files stay apart as documents do.
        if !text.is_empty() && !done.text.starts_with("---") {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str("---\n");
        }
        text.push_str(&done.text);
    }
    match &args.output {
        Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?,
        None => print!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("the standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// A MeshConfig, judged as the control plane judges it.
fn mesh(path: &Path) -> Result<MeshConfig> {
    let (mesh, findings) = match mesh_config(&read(path)?, ROOT_NAMESPACE) {
        Ok((mesh, findings)) => (Some(mesh), findings),
        Err(findings) => (None, findings),
    };
    let says = |finding: &mesh_controlplane::validate::Finding| {
        let field = finding.field.as_deref().map(|field| format!("{field}: ")).unwrap_or_default();
        format!("{}: {}: {field}{}", path.display(), finding.severity, finding.message)
    };
    for finding in findings.iter().filter(|finding| mesh.is_some() && finding.severity != Severity::Info) {
        anstream::eprintln!("{}", says(finding));
    }
    match mesh {
        Some(mesh) => Ok(mesh),
        None => bail!(findings.iter().map(says).collect::<Vec<_>>().join("\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(directory: &Path, files: &[&str]) -> Args {
        Args {
            filename: files.iter().map(|name| directory.join(name)).collect(),
            injection_settings: None,
            mesh_config: None,
            revision: None,
            namespace: "shop".to_owned(),
            output: Some(directory.join("out.yaml")),
        }
    }

    #[test]
    fn files_are_injected_by_settings_and_mesh_config() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a} # kept\n");
        write(
            "b.yaml",
            "kind: Pod\napiVersion: v1\nmetadata: {name: b}\nspec: {containers: [{name: app, image: app}]}\n",
        );
        write("injection.yaml", "proxyImage: mine:1\n");
        write("mesh.yaml", "trustDomain: example.org\n");
        let mut arguments = args(directory.path(), &["a.yaml", "b.yaml"]);
        arguments.injection_settings = Some(directory.path().join("injection.yaml"));
        arguments.mesh_config = Some(directory.path().join("mesh.yaml"));
        arguments.revision = Some("canary".to_owned());
        run(&arguments).unwrap();
        let out = std::fs::read_to_string(directory.path().join("out.yaml")).unwrap();
        assert!(out.starts_with("kind: ConfigMap\napiVersion: v1\nmetadata: {name: a} # kept\n---\n"), "{out}");
        for part in ["image: mine:1", "value: example.org", "istio.io/rev: canary", "namespaces/shop/pods/b"] {
            assert!(out.contains(part), "{part}: {out}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "kind: A\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: 1}\n");
        write("settings.yaml", "{revison: a}");
        write("mesh.yaml", "{trustDomain: [a]}");
        let error = |change: fn(&mut Args, PathBuf), file: &str| {
            let mut arguments = args(directory.path(), &["a.yaml"]);
            change(&mut arguments, directory.path().join(file));
            format!("{:#}", run(&arguments).unwrap_err())
        };
        let found = error(|_, _| {}, "");
        assert!(found.contains("a.yaml: line 2: Pod shop/a: pod: spec.containers"), "{found}");
        let found = error(|arguments, path| arguments.injection_settings = Some(path), "settings.yaml");
        assert!(found.contains("settings.yaml: injection settings: unknown field `revison`"), "{found}");
        let found = error(|arguments, path| arguments.mesh_config = Some(path), "mesh.yaml");
        assert!(found.contains("mesh.yaml: error: trustDomain"), "{found}");
        let found = error(|arguments, path| arguments.filename = vec![path], "missing.yaml");
        assert!(found.contains("missing.yaml"), "{found}");
    }
}
