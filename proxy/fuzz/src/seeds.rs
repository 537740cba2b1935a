//! Where inputs begin: the files of `corpus/NAME/`, and for `xds` what the control plane makes in its golden cases.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_proto::yaml;
use mesh_proxy::xds::kind::Kind;

use crate::Target;
use crate::config::piece;

/// An input and where it is from.
pub struct Seed {
    /// A file name.
    pub name: String,
    /// The input.
    pub data: Vec<u8>,
}

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All of a target. Panics where a folder or file cannot be read.
pub fn of(target: Target) -> Vec<Seed> {
    let mut seeds: Vec<Seed> = files(&own().join("corpus").join(target.name()))
        .into_iter()
        .map(|path| Seed { name: name_of(&path), data: read(&path) })
        .collect();
    if target == Target::Xds {
        seeds.extend(golden());
    }
    seeds
}

/// One input for each golden case, of all its resources.
fn golden() -> Vec<Seed> {
    let kinds = [
        ("clusters", Kind::Cluster),
        ("endpoints", Kind::Endpoint),
        ("listeners", Kind::Listener),
        ("routes", Kind::Route),
        ("secrets", Kind::Secret),
        ("names", Kind::NameTable),
    ];
    let cases = files(&own().join("../../controlplane/tests/golden"));
    let mut seeds = Vec::new();
    for case in cases {
        let mut data = Vec::new();
        for (file, kind) in kinds {
            let path = case.join("expect").join(file).with_extension("yaml");
            if !path.exists() {
                continue;
            }
            let list: Vec<yaml_serde::Value> =
                yaml_serde::from_slice(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = kind.type_url().rsplit('/').next().unwrap_or_default();
            for one in list {
                let text = yaml_serde::to_string(&one).unwrap_or_default();
                let message = yaml::dynamic_from_yaml(name, &text);
                let message = message.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                data.extend(piece(kind, &prost::Message::encode_to_vec(&message)).unwrap_or_default());
            }
        }
        seeds.push(Seed { name: name_of(&case), data });
    }
    seeds
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}
