//! What libFuzzer calls: the target that `FERROMESH_FUZZ` names. With `FERROMESH_SEEDS` it first writes its seeds to that folder, where
//! libFuzzer looks for them. Run by `cargo xtask fuzz`.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use mesh_fuzz::{Target, seeds};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FERROMESH_FUZZ").unwrap_or_default();
        let target = Target::named(&name).unwrap_or_else(|| panic!("FERROMESH_FUZZ={name}: no such target"));
        if let Some(folder) = std::env::var_os("FERROMESH_SEEDS") {
            write_seeds(target, Path::new(&folder));
        }
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.run(data);
        }
    }
);

fn write_seeds(target: Target, folder: &Path) {
    for seed in seeds::of(target) {
        let path = folder.join(&seed.name);
        std::fs::write(&path, seed.data).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
