//! Which files there are.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The deepest directory below a root.
const MOST_DEPTH: usize = 32;

/// What was found below the roots.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files, in order of their paths.
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories that cannot be read.
    pub(super) problems: Vec<(PathBuf, io::Error)>,
}

/// Lists the YAML and JSON files of directories, and the roots that are files themselves.
///
/// Names that begin with a dot are left out. That is also what makes a mounted ConfigMap right: its files are links through `..data`, which is
/// swapped as a whole, and only the links are read.
pub(super) fn list(roots: &[PathBuf]) -> Listing {
    let mut listing = Listing::default();
    let mut seen = BTreeSet::new();
    for root in roots {
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => walk(root, 0, &mut seen, &mut listing),
            Ok(_) => {
                add(root, &mut seen, &mut listing);
            }
            // A file is deleted; a directory is rather not mounted at the moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_config(root) => {}
            Err(error) => listing.problems.push((root.clone(), error)),
        }
    }
    listing
}

/// Reads a file, a byte more than the limit at most, so that who looks at it sees that it is too large.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn walk(directory: &Path, depth: usize, seen: &mut BTreeSet<PathBuf>, listing: &mut Listing) {
    let real = match fs::canonicalize(directory) {
        Ok(real) => real,
        Err(error) => return listing.problems.push((directory.to_owned(), error)),
    };
    // Links can make circles, and roots can lie in each other.
    if depth > MOST_DEPTH || !seen.insert(real) {
        return;
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return listing.problems.push((directory.to_owned(), error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
            Ok(entry) => paths.push(entry.path()),
            Err(error) => return listing.problems.push((directory.to_owned(), error)),
        }
    }
    paths.sort();
    for path in paths {
        // A link whose target is gone counts as deleted.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(&path, depth + 1, seen, listing);
        } else if metadata.is_file() && is_config(&path) {
            add(&path, seen, listing);
        }
    }
}

fn add(path: &Path, seen: &mut BTreeSet<PathBuf>, listing: &mut Listing) {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if seen.insert(real) {
        listing.files.insert(path.to_owned());
    }
}

fn is_config(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    matches!(extension, "yaml" | "yml" | "json")
}
