//! `cargo xtask fuzz`: libFuzzer on the targets of `proxy/fuzz`, beginning with their seeds. It runs on stable Rust.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::ci::tools;
use crate::process;

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets; all of `proxy/fuzz/corpus` otherwise.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
}

/// Runs the targets one after the other; fails at the first input that breaks one.
pub fn run(arguments: &Arguments) -> Result<()> {
    tools::CXX.ensure()?;
    let known = names()?;
    if let Some(unknown) = arguments.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target is called {unknown}; there are: {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    fuzz(&chosen, arguments.seconds)
}

/// What every run of `ci` does: all targets, a few seconds each.
pub fn smoke() -> Result<()> {
    fuzz(&names()?, 5)
}

fn names() -> Result<Vec<String>> {
    let corpus = process::root().join("proxy/fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| corpus.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn fuzz(targets: &[String], seconds: u64) -> Result<()> {
    let cache = tools::cache().join("fuzz");
    let program = build()?;
    for target in targets {
        // What was found in earlier runs is kept outside the clone.
        let [found, seeds, broken] = ["corpus", "seeds", "broken"].map(|name| cache.join(name).join(target));
        if seeds.exists() {
            fs::remove_dir_all(&seeds)?;
        }
        for folder in [&found, &seeds, &broken] {
            fs::create_dir_all(folder)?;
        }
        let arguments = [
            text(&found),
            text(&seeds),
            format!("-max_total_time={seconds}"),
            format!("-artifact_prefix={}/", text(&broken)),
            "-timeout=20".to_owned(),
            "-max_len=8192".to_owned(),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        process::run_with(
            &text(&program),
            &arguments,
            &[("FERROMESH_FUZZ", target), ("FERROMESH_SEEDS", &text(&seeds))],
        )
        .with_context(|| {
            format!(
                "target {target}: the input is in {}; when it is mended, move it to proxy/fuzz/corpus/{target}",
                broken.display()
            )
        })?;
    }
    Ok(())
}

/// Only our own crates are instrumented; what they depend on is what tests use too.
fn build() -> Result<PathBuf> {
    let wrapper = text(&process::root().join("proxy/fuzz/instrument.sh"));
    let command = ["build", "--workspace", "--bin", "mesh-fuzz", "--features", "mesh-fuzz/libfuzzer"];
    process::run_with("cargo", &command, &[("RUSTC_WORKSPACE_WRAPPER", &wrapper)])?;
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| process::root().join("target"), PathBuf::from);
    Ok(process::root().join(folder).join("debug/mesh-fuzz"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
