//! Objects from directories and files, read anew whenever they change.
//!
//! [`FileSource::scan`] reads everything and says what differs from before, whatever the events were: a missed event costs time, never truth.
//! [`FileSource::run`] calls it when the system reports a change.

mod list;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{self, Document, Outcome};
use super::kinds::is_of_mesh;
use super::live::Live;
use crate::model::{Change, Key, Object, Origin};
use crate::own::Own;
use crate::validate::{self, Finding, Severity};

/// Why a source of files cannot work.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A path that was given cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Reading was broken off by a panic, which is a bug.
    #[error("reading the configuration was broken off: {0}")]
    Scan(#[from] tokio::task::JoinError),
}

/// What a scan found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// What changed since the scan before, to be applied as one.
    pub changes: Vec<Change>,
    /// All findings that hold now, by file and line.
    pub findings: Vec<Finding>,
}

/// A source of objects in files.
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// What is in force.
    current: BTreeMap<Key, Arc<Object>>,
    /// Whose configuration is wanted; of every control plane if absent.
    own: Option<Own>,
    /// What is in force beside the files, and under them.
    base: Live,
}

/// A file as it was read last.
#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    documents: Vec<Document>,
}

impl FileSource {
    /// A source over directories, read with all below them, and single files.
    ///
    /// # Errors
    /// A path that does not exist or cannot be read: most likely it is mistyped. Later it may come and go.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Result<Self, FileError> {
        let roots: Vec<PathBuf> = paths.into_iter().map(Into::into).collect();
        for path in &roots {
            let readable = match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => std::fs::read_dir(path).map(drop),
                Ok(_) => std::fs::File::open(path).map(drop),
                Err(error) => Err(error),
            };
            readable.map_err(|error| FileError::Path { path: path.clone(), error })?;
        }
        Ok(Self { roots, files: BTreeMap::new(), current: BTreeMap::new(), own: None, base: Live::default() })
    }

    /// Only what is for this control plane (RV1); of the rest nothing is said, either.
    #[must_use]
    pub fn of(self, own: Own) -> Self {
        Self { own: Some(own), ..self }
    }

    /// The same over a cluster's objects: those that no file names are in force, too, and what was found of them holds.
    pub fn over(self, base: Live) -> Self {
        Self { base, ..self }
    }

    /// What is in force: of each key the last good version.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.current.values()
    }

    /// Reads everything. A file or object that is broken leaves its last good version in force.
    pub fn scan(&mut self) -> Scan {
        let mut findings = self.read_files();
        let desired = self.choose(&mut findings);
        let mut changes = Vec::new();
        for (key, object) in &desired {
            if self.current.get(key) != Some(object) {
                changes.push(Change::Set(object.clone()));
            }
        }
        for key in self.current.keys().filter(|key| !desired.contains_key(key)) {
            changes.push(Change::Remove(key.clone()));
        }
        self.current = desired;
        findings.extend(self.references());
        let named: BTreeSet<&Key> = self.files.values().flat_map(|file| &file.documents).filter_map(key).collect();
        let of_base = |finding: &&Finding| finding.key.as_ref().is_none_or(|key| !named.contains(key));
        findings.extend(self.base.findings.iter().filter(of_base).cloned());
        findings.sort_by(|a, b| {
            let place = |finding: &Finding| (finding.origin.file.clone(), finding.origin.line, finding.origin.column);
            place(a).cmp(&place(b)).then(b.severity.cmp(&a.severity))
        });
        Scan { changes, findings }
    }

    /// Brings [`FileSource::files`] up to date; returns what could not be read.
    fn read_files(&mut self) -> Vec<Finding> {
        let listing = list::list(&self.roots);
        let mut before = std::mem::take(&mut self.files);
        for path in listing.files {
            let old = before.remove(&path);
            match list::read(&path, document::MOST_BYTES) {
                Ok(bytes) => {
                    let file = match old {
                        Some(old) if old.bytes == bytes => old,
                        _ => File { documents: document::read(Some(&Arc::new(path.clone())), &bytes), bytes },
                    };
                    self.files.insert(path, file);
                }
                // It went between listing and reading.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let mut documents = document::read(Some(&Arc::new(path.clone())), &[0xff]);
                    for finding in documents.iter_mut().flat_map(|document| &mut document.findings) {
                        finding.message = format!("the file cannot be read: {error}");
                    }
                    self.files.insert(path, File { bytes: vec![0xff], documents });
                }
            }
        }
        // What was known below a directory that cannot be listed now is still there, as far as anyone knows.
        for (path, file) in before {
            if listing.problems.iter().any(|(directory, _)| path.starts_with(directory)) {
                self.files.insert(path, file);
            }
        }
        let problem = |(path, error): (PathBuf, std::io::Error)| Finding {
            severity: Severity::Error,
            code: None,
            key: None,
            origin: Origin { file: Some(Arc::new(path)), line: 0, column: 0 },
            field: None,
            message: format!("the directory cannot be read: {error}; what was read before stays in force"),
        };
        listing.problems.into_iter().map(problem).collect()
    }

    /// Of all documents, those that come into force.
    fn choose(&self, findings: &mut Vec<Finding>) -> BTreeMap<Key, Arc<Object>> {
        let mut desired: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        let mut keep_rest = BTreeSet::new();
        for (path, file) in &self.files {
            for document in file.documents.iter().filter(|document| self.is_wanted(document)) {
                let mut kept = false;
                match &document.outcome {
                    Outcome::Object(object) => {
                        if let Some(first) = desired.get(&object.key) {
                            findings.push(duplicate(object, first));
                        } else {
                            desired.insert(object.key.clone(), object.clone());
                        }
                    }
                    Outcome::Broken(Some(key)) => {
                        if let Some(last) = self.current.get(key).filter(|last| stands_in(last, path)) {
                            desired.entry(key.clone()).or_insert_with(|| last.clone());
                            kept = true;
                        }
                    }
                    Outcome::Broken(None) => {
                        keep_rest.insert(path.as_path());
                    }
                    Outcome::Nothing => {}
                }
                for finding in &document.findings {
                    let mut finding = finding.clone();
                    if kept && finding.severity == Severity::Error {
                        finding.message.push_str(" (the last good version stays in force)");
                    }
                    findings.push(finding);
                }
            }
        }
        // Where a text does not tell which object it was, any of its file's objects that are not elsewhere could be it.
        for (key, object) in &self.current {
            if keep_rest.iter().any(|path| stands_in(object, path)) {
                desired.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        for (key, object) in &self.base.objects {
            desired.entry(key.clone()).or_insert_with(|| object.clone());
        }
        desired
    }

    fn is_wanted(&self, document: &Document) -> bool {
        match (&self.own, &document.outcome) {
            (Some(own), Outcome::Object(object)) => !is_of_mesh(object.key.kind) || own.reads(&object.meta.labels),
            _ => true,
        }
    }

    /// Findings over what is in force together, placed at their fields.
    fn references(&self) -> Vec<Finding> {
        let mut documents = BTreeMap::new();
        for (path, file) in &self.files {
            for document in file.documents.iter().filter(|document| self.is_wanted(document)) {
                if let Outcome::Object(object) = &document.outcome {
                    documents.entry(&object.key).or_insert((path, file, document));
                }
            }
        }
        let mut findings = validate::references(self.current.values().map(AsRef::as_ref));
        for finding in &mut findings {
            let Some(key) = &finding.key else { continue };
            let Some((path, file, document)) = documents.get(key) else { continue };
            let current = self.current.get(key).is_some_and(|object| stands_in(object, path));
            if current && let Ok(text) = std::str::from_utf8(&file.bytes) {
                document.place_finding(text, finding);
            }
        }
        findings
    }
}

/// Which object a document is about, as far as it tells.
fn key(document: &Document) -> Option<&Key> {
    match &document.outcome {
        Outcome::Object(object) => Some(&object.key),
        Outcome::Broken(key) => key.as_ref(),
        Outcome::Nothing => None,
    }
}

fn stands_in(object: &Object, path: &Path) -> bool {
    object.origin.file.as_ref().is_some_and(|file| file.as_path() == path)
}

fn duplicate(object: &Object, first: &Object) -> Finding {
    Finding {
        severity: Severity::Error,
        code: None,
        key: Some(object.key.clone()),
        origin: object.origin.clone(),
        field: None,
        message: format!(
            "is also defined at {}, which is used, because it comes first; remove one of them",
            first.origin
        ),
    }
}
