//! Writes the CustomResourceDefinitions of Istio's kinds, made from the types of [`mesh_proto::crd`], into the folder that is named:
//! `cargo xtask codegen` runs it and guards what it wrote into `deploy/crds`.
//!
//! [`kinds`] says what kinds there are, [`structural`] turns the schemas that the types describe into those that an API server takes,
//! and [`rules`] is the table of what their values must hold.

mod kinds;
mod rules;
mod structural;

use std::error::Error;
use std::path::PathBuf;

const HEADER: &str =
    "# Made from proto/src/crd by `cargo xtask codegen`; change the types, or the rules in proto/examples/crds.\n";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("name the folder to write to")?);
    std::fs::create_dir_all(&folder)?;
    let mut used = rules::Used::default();
    for (name, definition) in kinds::definitions(&mut used)? {
        std::fs::write(
            folder.join(format!("{name}.yaml")),
            format!("{HEADER}{}", yaml_serde::to_string(&definition)?),
        )?;
    }
    let unused = used.missing();
    if !unused.is_empty() {
        return Err(format!("rules of fields or types that do not exist: {}", unused.join(", ")).into());
    }
    Ok(())
}
