//! From the text of a file to objects and findings, document by document, each judged by [`crate::validate`] and each finding with its line.
//!
//! The text is cut at `---` before anything is parsed, so that one document that is no YAML disturbs no other.

use std::cell::Cell;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::{crd, kube};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::kinds::{Known, cluster_wide, is_of_mesh, known};
use super::locate::locate;
use super::reduce::{recorded, reduce};
use super::typed;
use crate::model::{Key, Kind, Meta, Name, Object, Origin, Spec};
use crate::validate::{self, Finding, Severity, code};

/// The largest file that is read, in bytes.
pub(super) const MOST_BYTES: usize = 10 << 20;

/// How much text of a file may be read again to find the places of fields, in bytes. Beyond, a finding stands at its object.
const LOCATE_BYTES: usize = 64 << 20;

/// What some editors put before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What a document became.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An object that may come into force.
    Object(Arc<Object>),
    /// Refused, or no YAML. The key, as far as the text tells it.
    Broken(Option<Key>),
    /// Empty, or no business of the mesh's.
    Nothing,
}

/// A document of a file, or an item of a `kind: List`.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What it became.
    pub outcome: Outcome,
    /// What was found.
    pub findings: Vec<Finding>,
    place: Place,
}

/// Where a document stands in its file.
#[derive(Debug, Clone, PartialEq, Default)]
struct Place {
    bytes: Range<usize>,
    /// Line of the first byte, from 1.
    line: u32,
    /// Path of the item if the text holds a list that could not be cut.
    prefix: String,
    /// The text begins with this many spaces and the `-` of a list.
    dash: Option<usize>,
}

impl Place {
    /// Line and column of a field.
    fn find(&self, text: &str, field: &str) -> Option<(u32, u32)> {
        let part = text.get(self.bytes.clone())?;
        let path = match (self.prefix.as_str(), field) {
            ("", field) => field.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, field) => format!("{prefix}.{field}"),
        };
        let found = match self.dash {
            None => locate(part, &path),
            Some(dash) => {
                let mut part = part.to_owned();
                part.replace_range(dash..=dash, " ");
                locate(&part, &path)
            }
        };
        found.map(|(line, column)| (line + self.line - 1, column))
    }
}

impl Document {
    /// Moves a finding over this document's object from the object's place to its field's.
    pub(super) fn place_finding(&self, text: &str, finding: &mut Finding) {
        let Some(kind) = finding.key.as_ref().map(|key| key.kind) else { return };
        let field = full_path(kind, finding.field.as_deref().unwrap_or_default());
        if let Some((line, column)) = self.place.find(text, &field) {
            finding.origin.line = line;
            finding.origin.column = column;
        }
    }
}

/// Path of a finding's field from the top of its object.
pub(crate) fn full_path(kind: Kind, field: &str) -> String {
    let first = field.split(['.', '[']).next().unwrap_or_default();
    if !is_of_mesh(kind) || matches!(first, "metadata" | "apiVersion" | "kind" | "status") {
        field.to_owned()
    } else if field.is_empty() {
        String::new()
    } else {
        format!("spec.{field}")
    }
}

/// Reads a file: every document of it, in order, judged by itself. `file` is what findings and origins name.
pub fn read(file: Option<&Arc<PathBuf>>, bytes: &[u8]) -> Vec<Document> {
    let whole = |line: u32, message: String| {
        let origin = Origin { file: file.cloned(), line, column: 1 };
        let finding = Finding { severity: Severity::Error, code: None, key: None, origin, field: None, message };
        vec![Document { outcome: Outcome::Broken(None), findings: vec![finding], place: Place::default() }]
    };
    if bytes.len() > MOST_BYTES {
        return whole(1, format!("the file has {} bytes; the most is {MOST_BYTES}, so split it", bytes.len()));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            return whole(
                u32::try_from(line).unwrap_or(u32::MAX),
                "the file is not UTF-8; save it as UTF-8".to_owned(),
            );
        }
    };
    let reader = Reader { file, text, budget: Cell::new(LOCATE_BYTES) };
    split(text).into_iter().flat_map(|place| reader.document(place)).collect()
}

/// Reads an object of an API server, judged as one of a file is. `tree` must be without nulls, as [`typed::tree`] makes it.
pub(crate) fn judge(tree: Value) -> (Outcome, Vec<Finding>) {
    let (place, origin) = (Place::default(), Origin::default());
    let mut judge = Judge { reader: None, place, origin, key: None, findings: Vec::new() };
    let outcome = judge.outcome(tree);
    (outcome, judge.findings)
}

/// Cuts a text at the markers of documents. They stand at the start of a line and nowhere else, even inside of block texts.
fn split(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    let mut position = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
    let mut start = (position, 1);
    let mut close = |from: (usize, u32), to: usize| {
        if text[from.0..to]
            .lines()
            .any(|line| !matches!(line.trim_start().as_bytes().first(), None | Some(b'#' | b'%')))
        {
            places.push(Place { bytes: from.0..to, line: from.1, ..Place::default() });
        }
    };
    for (line, each) in (1..).zip(text[position..].split_inclusive('\n')) {
        let marker = |mark: &str| {
            each.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        };
        if marker("---") {
            close(start, position);
            start = (position, line);
        } else if marker("...") {
            close(start, position);
            start = (position + each.len(), line + 1);
        }
        position += each.len();
    }
    close(start, text.len());
    places
}

struct Reader<'t> {
    file: Option<&'t Arc<PathBuf>>,
    text: &'t str,
    budget: Cell<usize>,
}

/// Findings over one object while it is read.
struct Judge<'r, 't> {
    /// The text; absent for an object of an API server, which has no lines.
    reader: Option<&'r Reader<'t>>,
    place: Place,
    /// Of the object.
    origin: Origin,
    key: Option<Key>,
    findings: Vec<Finding>,
}

impl<'t> Reader<'t> {
    fn document(&self, place: Place) -> Vec<Document> {
        let part = &self.text[place.bytes.clone()];
        let tree = match typed::tree(part) {
            Ok(tree) => tree,
            Err(error) => return vec![self.no_yaml(place, &error)],
        };
        match tree {
            Value::Null => Vec::new(),
            Value::Object(mut map) if is_list(&map) => {
                let Some(Value::Array(items)) = map.remove("items") else { return Vec::new() };
                let places = self.items(&place, items.len());
                items.into_iter().zip(places).map(|(item, place)| self.object(place, item)).collect()
            }
            tree => vec![self.object(place, tree)],
        }
    }

    fn no_yaml(&self, place: Place, error: &typed::SyntaxError) -> Document {
        let part = &self.text[place.bytes.clone()];
        let (line, column) = error.at.unwrap_or((1, 1));
        let mut message = shift_lines(&error.message, place.line - 1);
        let at_line = usize::try_from(line).ok().and_then(|line| part.lines().nth(line - 1)).unwrap_or_default();
        if at_line.bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'-')).any(|byte| byte == b'\t') {
            message.push_str("; tabs cannot indent YAML, use spaces");
        } else if message.contains("<document start>") {
            message.push_str("; separate documents by a line `---`");
        }
        let key = lenient_key(part);
        let origin = Origin { file: self.file.cloned(), line: line + place.line - 1, column };
        let finding = Finding { severity: Severity::Error, code: None, key: key.clone(), origin, field: None, message };
        Document { outcome: Outcome::Broken(key), findings: vec![finding], place }
    }

    /// Places of the items of a list. Where the list is in block style its text is cut, so that each item's fields are found in its own.
    fn items(&self, list: &Place, count: usize) -> Vec<Place> {
        let whole = |index: usize| Place { prefix: format!("items[{index}]"), ..list.clone() };
        let part = &self.text[list.bytes.clone()];
        let first = locate(part, "items[0]").and_then(|(line, column)| {
            let dash = usize::try_from(column).ok()?.checked_sub(3)?;
            Some((usize::try_from(line).ok()?, dash))
        });
        let Some((first, dash)) = first else { return (0..count).map(whole).collect() };
        let mut places: Vec<Place> = Vec::new();
        let mut position = list.bytes.start;
        let mut end = list.bytes.end;
        for (index, line) in part.split_inclusive('\n').enumerate() {
            if index + 1 >= first {
                let indent = line.len() - line.trim_start_matches(' ').len();
                let item = indent == dash && line[indent..].starts_with("- ");
                if item {
                    let line = list.line + u32::try_from(index).unwrap_or(u32::MAX);
                    places.push(Place { bytes: position..position, line, prefix: String::new(), dash: Some(dash) });
                } else if indent <= dash && !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                    end = position;
                    break;
                }
            }
            position += line.len();
        }
        if places.len() != count {
            return (0..count).map(whole).collect();
        }
        for place in places.iter_mut().rev() {
            place.bytes.end = end;
            end = place.bytes.start;
        }
        places
    }

    fn object(&self, place: Place, tree: Value) -> Document {
        let (line, column) = self.find(&place, "").unwrap_or((place.line, 1));
        let origin = Origin { file: self.file.cloned(), line, column };
        let mut judge = Judge { reader: Some(self), place, origin, key: None, findings: Vec::new() };
        let outcome = judge.outcome(tree);
        judge.findings.sort_by_key(|finding| (finding.origin.line, finding.origin.column));
        Document { outcome, findings: judge.findings, place: judge.place }
    }

    /// Where a field stands, while there is text left to read for it.
    fn find(&self, place: &Place, path: &str) -> Option<(u32, u32)> {
        let left = self.budget.get().checked_sub(place.bytes.len())?;
        self.budget.set(left);
        place.find(self.text, path)
    }
}

fn is_list(map: &Map<String, Value>) -> bool {
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("List") && map.get("items").is_some_and(Value::is_array)
}

impl Judge<'_, '_> {
    fn add(&mut self, severity: Severity, code: Option<&'static str>, path: &str, message: String) {
        let mut origin = self.origin.clone();
        if !path.is_empty()
            && let Some(reader) = self.reader
            && let Some((line, column)) = reader.find(&self.place, path)
        {
            (origin.line, origin.column) = (line, column);
        }
        let istio = self.key.as_ref().is_some_and(|key| is_of_mesh(key.kind));
        let field = if istio { path.strip_prefix("spec.").unwrap_or(path) } else { path };
        let field = (!field.is_empty()).then(|| field.to_owned());
        self.findings.push(Finding { severity, code, key: self.key.clone(), origin, field, message });
    }

    fn error(&mut self, path: &str, message: impl Into<String>) -> Outcome {
        self.add(Severity::Error, Some(code::SCHEMA), path, message.into());
        Outcome::Broken(self.key.clone())
    }

    fn unknown(&mut self, prefix: &str, paths: Vec<String>) {
        // An API server drops what a kind of its own does not have; what is left is of a newer version than this one knows.
        if self.reader.is_none() && !self.key.as_ref().is_some_and(|key| is_of_mesh(key.kind)) {
            return;
        }
        for path in paths {
            let path =
                if prefix.is_empty() || path.is_empty() { format!("{prefix}{path}") } else { join(prefix, &path) };
            let message = "is not a field of this kind, so it has no effect; remove it or correct its name";
            self.add(Severity::Warning, Some(code::SCHEMA), &path, message.to_owned());
        }
    }

    fn outcome(&mut self, tree: Value) -> Outcome {
        let Value::Object(mut tree) = tree else {
            return self.error("", "is not an object; a document has apiVersion, kind, metadata and spec");
        };
        let text = |tree: &Map<String, Value>, name: &str| {
            tree.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (api_version, kind) = (text(&tree, "apiVersion"), text(&tree, "kind"));
        for (name, value) in [("apiVersion", &api_version), ("kind", &kind)] {
            if value.is_empty() {
                return self.error(
                    name,
                    "is missing; give it, such as apiVersion: networking.istio.io/v1, kind: VirtualService",
                );
            }
        }
        let known = known(&api_version, &kind);
        if let Known::Istio(kind) | Known::Kubernetes(kind) | Known::Version(kind, _) = &known {
            self.key = key_of(*kind, &tree);
        }
        match known {
            Known::Other => {
                self.add(Severity::Info, None, "kind", format!("{kind} ({api_version}) is not read by the mesh"));
                Outcome::Nothing
            }
            Known::Missing(advice) => {
                let message = format!("{kind} ({api_version}) is not supported yet; {advice}");
                self.add(Severity::Error, Some(code::SCHEMA), "kind", message);
                Outcome::Nothing
            }
            Known::Version(_, versions) => {
                let message = format!("`{api_version}` is not served; write {}", versions.join(", "));
                self.error("apiVersion", message)
            }
            Known::Kubernetes(kind) => match self.metadata(&tree) {
                None => Outcome::Broken(self.key.clone()),
                Some(meta) => match self.kubernetes(kind, tree) {
                    Some(spec) => self.finish(meta, spec, Vec::new()),
                    None => Outcome::Broken(self.key.clone()),
                },
            },
            Known::Istio(kind) => {
                let others = tree
                    .keys()
                    .filter(|key| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status"));
                let others = others.cloned().collect();
                self.unknown("", others);
                let Some(meta) = self.metadata(&tree) else { return Outcome::Broken(self.key.clone()) };
                let recorded = recorded(kind, tree.get("status"));
                let spec = tree.remove("spec").unwrap_or_else(|| Map::new().into());
                match self.istio(kind, spec) {
                    Some(spec) => self.finish(meta, spec, recorded),
                    None => Outcome::Broken(self.key.clone()),
                }
            }
        }
    }

    /// Judges the object that was read.
    fn finish(&mut self, meta: Meta, spec: Spec, recorded: Vec<(Name, IpAddr)>) -> Outcome {
        let Some(key) = self.key.clone() else { return Outcome::Broken(None) };
        let (meta, spec) = reduce(key.kind, meta, spec);
        let object = Object { key, meta, origin: self.origin.clone(), spec, recorded };
        let findings = validate::object(&object);
        let refused = validate::refused(&findings);
        for finding in findings {
            let known = validate::is_suppressed(&object.meta.annotations, finding.code);
            if known && finding.severity != Severity::Error {
                continue;
            }
            let path = full_path(object.key.kind, finding.field.as_deref().unwrap_or_default());
            self.add(finding.severity, finding.code, &path, finding.message);
        }
        if refused { Outcome::Broken(Some(object.key)) } else { Outcome::Object(Arc::new(object)) }
    }

    /// Name, namespace and the rest of the metadata.
    fn metadata(&mut self, tree: &Map<String, Value>) -> Option<Meta> {
        let value = tree.get("metadata").cloned().unwrap_or_else(|| Map::new().into());
        let metadata = match typed::read::<kube::ObjectMeta>(value) {
            Ok(read) => {
                self.unknown("metadata", read.unknown);
                read.value
            }
            Err(error) => {
                self.error(&join("metadata", &error.path), error.message);
                return None;
            }
        };
        let name = metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            let reason =
                if metadata.generate_name.is_some() { "generateName is for API servers" } else { "is missing" };
            self.error("metadata.name", format!("{reason}; give metadata.name"));
            return None;
        }
        for (path, text) in
            [("metadata.name", name), ("metadata.namespace", metadata.namespace.as_deref().unwrap_or("a"))]
        {
            if !is_name(text) {
                self.error(path, format!("`{text}` is not a name; use small letters, digits, `-` and `.`"));
                return None;
            }
        }
        Some(Meta {
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            generation: metadata.generation.unwrap_or(0),
        })
    }

    /// Reads a type below `prefix`.
    fn typed<T: DeserializeOwned>(&mut self, prefix: &str, tree: Value) -> Option<T> {
        match typed::read(tree) {
            Ok(read) => {
                self.unknown(prefix, read.unknown);
                Some(read.value)
            }
            Err(error) => {
                // Messages quote the value, and a secret's has no business in a log.
                let secret = self.key.as_ref().is_some_and(|key| key.kind == Kind::Secret);
                let message = if secret {
                    "cannot be read; values of data are base64, those of stringData text".to_owned()
                } else {
                    error.message
                };
                self.error(&join(prefix, &error.path), message);
                None
            }
        }
    }

    fn istio(&mut self, kind: Kind, spec: Value) -> Option<Spec> {
        macro_rules! read {
            ($($kind:ident),*) => {
                match kind {
                    $(Kind::$kind => self.typed::<crd::$kind>("spec", spec).map(Spec::$kind),)*
                    Kind::WorkloadEntry => self.typed::<crd::WorkloadEntry>("spec", spec).map(Spec::WorkloadEntry),
                    Kind::WorkloadGroup => self.typed::<crd::WorkloadGroup>("spec", spec).map(Spec::WorkloadGroup),
                    _ => None,
                }
            };
        }
        read!(
            VirtualService,
            DestinationRule,
            Gateway,
            ServiceEntry,
            Sidecar,
            EnvoyFilter,
            ProxyConfig,
            PeerAuthentication,
            RequestAuthentication,
            AuthorizationPolicy,
            Telemetry,
            WasmPlugin,
            TrafficExtension
        )
    }

    fn kubernetes(&mut self, kind: Kind, mut tree: Map<String, Value>) -> Option<Spec> {
        // Its fields were reported already.
        let metadata = tree.remove("metadata");
        let whole = |mut tree: Map<String, Value>| {
            tree.insert("metadata".to_owned(), metadata.unwrap_or_else(|| Map::new().into()));
            Value::Object(tree)
        };
        let unknown_metadata = self.findings.len();
        let spec = match kind {
            Kind::Service => self.typed("", whole(tree)).map(Spec::Service),
            Kind::EndpointSlice => self.typed("", whole(tree)).map(Spec::EndpointSlice),
            Kind::Pod => self.typed("", whole(tree)).map(Spec::Pod),
            Kind::Node => self.typed("", whole(tree)).map(Spec::Node),
            Kind::Namespace => self.typed("", whole(tree)).map(Spec::Namespace),
            Kind::ConfigMap => self.typed("", whole(tree)).map(Spec::ConfigMap),
            Kind::Ingress => self.typed("", whole(tree)).map(Spec::Ingress),
            Kind::IngressClass => self.typed("", whole(tree)).map(Spec::IngressClass),
            Kind::Secret => self.typed::<kube::Secret>("", whole(tree)).map(|mut secret| {
                // As an API server does: stringData is another way to write data.
                let texts = secret.string_data.take().unwrap_or_default();
                let data = secret.data.get_or_insert_default();
                data.extend(texts.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))));
                Spec::Secret(secret)
            }),
            _ => None,
        };
        let mut index = 0;
        self.findings.retain(|finding| {
            index += 1;
            let again = finding.severity == Severity::Warning
                && finding.field.as_deref().is_some_and(|field| field.starts_with("metadata."));
            index <= unknown_metadata || !again
        });
        spec
    }
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// A name of an object or namespace (RFC 1123), which may stand in names of clusters and in paths.
fn is_name(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        && edge(name.bytes().next())
        && edge(name.bytes().last())
}

/// The key that a tree names, even if the rest of it is wrong.
fn key_of(kind: Kind, tree: &Map<String, Value>) -> Option<Key> {
    let metadata = tree.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let namespace = metadata.get("namespace").and_then(Value::as_str);
    Some(make_key(kind, name, namespace))
}

fn make_key(kind: Kind, name: &str, namespace: Option<&str>) -> Key {
    let namespace = if cluster_wide(kind) { "" } else { namespace.unwrap_or(DEFAULT_NAMESPACE) };
    Key { kind, namespace: namespace.into(), name: name.into() }
}

/// The key of a text that is no YAML, if it is in the usual block style up to there. Only used to keep an object that is in force.
fn lenient_key(text: &str) -> Option<Key> {
    let value = |line: &str, name: &str| -> Option<String> {
        let rest = line.trim_start().strip_prefix(name)?.strip_prefix(':')?;
        let plain = rest.split(" #").next()?.trim().trim_matches(['"', '\'']);
        Some(plain.to_owned())
    };
    let (mut api_version, mut kind, mut name, mut namespace) = (None, None, None, None);
    let mut in_metadata = false;
    let mut indent = None;
    for line in text.lines() {
        if !line.starts_with([' ', '\t', '#', '-']) && !line.is_empty() {
            api_version = api_version.or(value(line, "apiVersion"));
            kind = kind.or(value(line, "kind"));
            in_metadata = line.starts_with("metadata:");
            if let Some(flow) = line.strip_prefix("metadata:").and_then(|rest| rest.trim().strip_prefix('{')) {
                for field in flow.trim_end_matches('}').split(',') {
                    name = name.or(value(field, "name"));
                    namespace = namespace.or(value(field, "namespace"));
                }
            }
        } else if in_metadata && !line.trim().is_empty() {
            let width = line.len() - line.trim_start().len();
            if *indent.get_or_insert(width) == width {
                name = name.or(value(line, "name"));
                namespace = namespace.or(value(line, "namespace"));
            }
        }
    }
    let (Known::Istio(kind) | Known::Kubernetes(kind) | Known::Version(kind, _)) = known(&api_version?, &kind?) else {
        return None;
    };
    let name = name.filter(|name| is_name(name))?;
    Some(make_key(kind, &name, namespace.as_deref()))
}

/// Makes lines of a document lines of its file, in a message such as `while parsing a block mapping at line 2 column 3`.
fn shift_lines(message: &str, by: u32) -> String {
    let mut shifted = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once("at line ") {
        let digits = after.find(|byte: char| !byte.is_ascii_digit()).unwrap_or(after.len());
        shifted.push_str(before);
        shifted.push_str("at line ");
        match after[..digits].parse::<u32>() {
            Ok(line) => shifted.push_str(&(line + by).to_string()),
            Err(_) => shifted.push_str(&after[..digits]),
        }
        rest = &after[digits..];
    }
    shifted + rest
}
