//! Embeds the charts and profiles of `deploy/`, so that `meshctl install` needs no files beside itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let cli = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let deploy = cli.join("../deploy").canonicalize()?;
    let mut files = Vec::new();
    for folder in ["charts", "profiles"] {
        collect(&deploy.join(folder), &mut files)?;
    }
    files.sort();
    let mut code = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&deploy).unwrap_or(file).display().to_string();
        let _ = writeln!(code, "    ({name:?}, include_str!({:?})),", file.display().to_string());
    }
    code.push_str("]\n");
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("deploy.rs"), code)
}

/// Cargo does not look through links, so every folder is named where it really is.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.canonicalize()?.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
