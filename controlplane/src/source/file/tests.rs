//! Real directories, edited as users and Kubernetes edit them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Update;
use super::*;
use crate::model::Kind;

fn service(name: &str, port: u32) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

/// Changes in short: `+a` set, `-a` removed.
fn changes(update: &Scan) -> String {
    let name = |change: &Change| match change {
        Change::Set(object) => format!("+{}", object.key.name),
        Change::Remove(key) => format!("-{}", key.name),
    };
    update.changes.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// Findings, without the directory.
fn findings(update: &Scan, directory: &Path) -> Vec<String> {
    let prefix = format!("{}/", directory.display());
    update.findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect()
}

struct Directory {
    directory: tempfile::TempDir,
}

impl Directory {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }
    fn path(&self) -> &Path {
        self.directory.path()
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fn source(&self) -> FileSource {
        FileSource::new([self.path()]).unwrap()
    }
}

#[test]
fn files_are_found_in_order_and_changes_are_told_once() {
    let dir = Directory::new();
    dir.write("b.yaml", service("b", 80));
    dir.write("a/deep/c.yml", service("c", 80));
    dir.write(
        "d.json",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"d"},"spec":{"ports":[{"port":80}]}}"#,
    );
    dir.write("ignored.txt", service("x", 80));
    dir.write(".hidden.yaml", service("x", 80));
    dir.write(".hidden/x.yaml", service("x", 80));
    let mut source = dir.source();
    let update = source.scan();
    assert_eq!(changes(&update), "+b +c +d");
    assert_eq!(findings(&update, dir.path()), [""; 0]);
    assert_eq!(changes(&source.scan()), "");

    dir.write("b.yaml", service("b", 81) + "---\n" + &service("e", 1));
    assert_eq!(changes(&source.scan()), "+b +e");
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    dir.write("b.yaml", service("b", 81));
    assert_eq!(changes(&source.scan()), "-c -e");
}

#[test]
fn single_files_are_read_whatever_their_name() {
    let dir = Directory::new();
    dir.write("one.conf", service("a", 80));
    let mut source = FileSource::new([dir.path().join("one.conf"), dir.path().to_owned()]).unwrap();
    assert_eq!(changes(&source.scan()), "+a");
    let error = FileSource::new([dir.path().join("nothing")]).unwrap_err();
    assert!(error.to_string().contains("nothing: No such file"), "{error}");
}

#[test]
fn the_last_good_version_stays_in_force() {
    let dir = Directory::new();
    let good = service("a", 1) + "---\n" + &service("b", 1) + "---\n" + &service("c", 1);
    dir.write("x.yaml", &good);
    let mut source = dir.source();
    assert_eq!(changes(&source.scan()), "+a +b +c");

    // One is refused, one changes, one goes.
    dir.write("x.yaml", service("a", 0) + "---\n" + &service("b", 2));
    let update = source.scan();
    assert_eq!(changes(&update), "+b -c");
    assert_eq!(
        findings(&update, dir.path()),
        [
            "x.yaml:4:17: error[IST0106]: Service default/a: spec.ports[0].port: 0 is not a port; ports are 1 to 65535 (the last good version stays in force)"
        ]
    );

    // One is no YAML, but its name can be read.
    dir.write("x.yaml", service("a", 1).replace("spec: {", "spec: {{"));
    let update = source.scan();
    assert_eq!(changes(&update), "-b");
    assert_eq!(update.findings.len(), 1);
    assert!(update.findings[0].to_string().contains("Service default/a"), "{}", update.findings[0]);

    // Nothing can be read.
    dir.write("x.yaml", b"\xff\xfe");
    assert_eq!(changes(&source.scan()), "");
    dir.write("x.yaml", "}");
    assert_eq!(changes(&source.scan()), "");
    assert_eq!(source.objects().map(|object| object.key.name.to_string()).collect::<Vec<_>>(), ["a"]);

    // It is repaired.
    dir.write("x.yaml", &good);
    let update = source.scan();
    assert_eq!(changes(&update), "+b +c");
    assert_eq!(update.findings, []);
    fs::remove_file(dir.path().join("x.yaml")).unwrap();
    assert_eq!(changes(&source.scan()), "-a -b -c");
}

#[test]
fn of_two_definitions_the_first_by_path_is_used() {
    let dir = Directory::new();
    dir.write("b.yaml", service("a", 2));
    let mut source = dir.source();
    source.scan();
    dir.write("a.yaml", "\n".to_owned() + &service("a", 1));
    let update = source.scan();
    assert_eq!(changes(&update), "+a");
    let first = dir.path().join("a.yaml").display().to_string();
    assert_eq!(
        update.findings[0]
            .to_string()
            .replace(&first, "a.yaml")
            .replace(&dir.path().join("b.yaml").display().to_string(), "b.yaml"),
        "b.yaml:1:1: error: Service default/a: is also defined at a.yaml:2:1, which is used, because it comes first; remove one of them"
    );
    // The first breaks: it stays in force all the same, and the second does not take over.
    dir.write("a.yaml", "\n".to_owned() + &service("a", 0));
    assert_eq!(changes(&source.scan()), "");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(changes(&source.scan()), "+a");
}

#[cfg(unix)]
#[test]
fn a_mounted_config_map_is_swapped_as_one() {
    use std::os::unix::fs::symlink;
    let dir = Directory::new();
    dir.write("..2026_1/a.yaml", service("a", 1));
    symlink("..2026_1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    symlink(".", dir.path().join("circle")).unwrap();
    let mut source = dir.source();
    assert_eq!(changes(&source.scan()), "+a");
    dir.write("..2026_2/a.yaml", service("a", 2));
    symlink("..2026_2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    fs::remove_dir_all(dir.path().join("..2026_1")).unwrap();
    assert_eq!(changes(&source.scan()), "+a");
}

#[test]
fn a_directory_that_is_gone_takes_nothing_with_it() {
    let dir = Directory::new();
    dir.write("root/a.yaml", service("a", 1));
    let root = dir.path().join("root");
    let mut source = FileSource::new([&root]).unwrap();
    source.scan();
    fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    let update = source.scan();
    assert_eq!(changes(&update), "");
    assert!(update.findings[0].message.starts_with("the directory cannot be read: "), "{}", update.findings[0]);
    fs::rename(dir.path().join("elsewhere"), &root).unwrap();
    let update = source.scan();
    assert_eq!((changes(&update).as_str(), update.findings.len()), ("", 0));
}

#[test]
fn a_file_that_is_too_large_is_an_error() {
    let dir = Directory::new();
    dir.write("a.yaml", vec![b'#'; document::MOST_BYTES + 5]);
    let update = dir.source().scan();
    assert!(update.findings[0].message.contains("the most is 10485760"), "{}", update.findings[0]);
}

#[test]
fn what_is_referred_to_and_missing_is_found_at_its_field() {
    let dir = Directory::new();
    dir.write("s.yaml", service("reviews", 9080));
    dir.write(
        "v.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec:\n  hosts: [reviews]\n  gateways: [mesh, edge]\n  http:\n  - route:\n    - destination: {host: reviews, subset: v1, port: {number: 80}}\n      weight: 1\n    - destination: {host: reviews.default}\n      weight: 1\n  - delegate: {name: x}\n",
    );
    dir.write(
        "w.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: w}\nspec:\n  hosts: [reviews]\n  http: [{route: [{destination: {host: reviews}}]}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: d}\nspec:\n  http: [{route: [{destination: {host: reviews}}]}]\n",
    );
    let update = dir.source().scan();
    assert_eq!(changes(&update), "+d +r +w +reviews");
    assert_eq!(
        findings(&update, dir.path()),
        [
            "v.yaml:6:20: error[IST0101]: VirtualService default/r: gateways[1]: there is no Gateway default/edge; create it, or write namespace/name of one that exists",
            "v.yaml:9:36: error[IST0101]: VirtualService default/r: http[0].route[0].destination.subset: reviews.default.svc.cluster.local has no subset v1; create a DestinationRule for the host with that subset",
            "v.yaml:9:55: error[IST0101]: VirtualService default/r: http[0].route[0].destination.port.number: reviews.default.svc.cluster.local has no port 80; its ports are 9080",
            "v.yaml:11:21: error[IST0101]: VirtualService default/r: http[0].route[1].destination.host: no Service or ServiceEntry has the host reviews.default; write reviews.default.svc.cluster.local",
            "v.yaml:13:5: error[IST0101]: VirtualService default/r: http[1].delegate: there is no VirtualService default/x; create it, or correct the name",
            "v.yaml:13:5: warning[IST0130]: VirtualService default/r: http[1]: is never reached, because http[0] has no match and so takes every request; move it before",
            "w.yaml:5:11: warning[IST0109]: VirtualService default/w: hosts[0]: reviews.default.svc.cluster.local is also a host of VirtualService default/r (v.yaml:1:1), and sidecars use the older one only; merge them, or use delegates",
            "w.yaml:11:1: warning: VirtualService default/d: hosts: has no hosts, so it is a delegate, and no VirtualService delegates to it: its routes are not in force; add `hosts: [reviews]`, or give another VirtualService a route with `delegate: {name: d, namespace: default}`",
        ]
    );
}

#[test]
fn the_samples_are_good() {
    let samples = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/samples");
    let mut routed = false;
    // Each folder is a mesh of its own.
    for mesh in std::fs::read_dir(&samples).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let mut source = FileSource::new([&mesh]).unwrap();
        let update = source.scan();
        let mut found = findings(&update, &samples);
        // Descriptions of local processes are for `meshctl local`.
        found.retain(|finding| !finding.contains(": info: "));
        assert_eq!(found, [""; 0]);
        routed |= source.objects().any(|object| object.key.kind == Kind::VirtualService);
    }
    assert!(routed);
}

/// Asks until the answer is there.
async fn eventually(deadline: Duration, receiver: &mut mpsc::Receiver<Update>, done: impl Fn(&Scan) -> bool) -> Scan {
    let end = Instant::now() + deadline;
    while let Ok(Some(update)) = tokio::time::timeout_at(end.into(), receiver.recv()).await {
        let scan = Scan { changes: update.changes, findings: update.findings.unwrap_or_default() };
        if done(&scan) {
            return scan;
        }
    }
    panic!("not within {deadline:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_are_loaded_while_it_runs() {
    let dir = Directory::new();
    dir.write("a.yaml", service("a", 1));
    let (sender, mut receiver) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let running = tokio::spawn(dir.source().run(sender, stop.clone()));
    let deadline = Duration::from_secs(20);
    eventually(deadline, &mut receiver, |update| changes(update) == "+a").await;

    // As editors do: a new file over the old one.
    dir.write(".a.yaml.swp", service("a", 2));
    fs::rename(dir.path().join(".a.yaml.swp"), dir.path().join("a.yaml")).unwrap();
    eventually(deadline, &mut receiver, |update| changes(update) == "+a").await;
    // In a directory that is new.
    dir.write("new/b.yaml", service("b", 1));
    eventually(deadline, &mut receiver, |update| changes(update) == "+b").await;
    dir.write("a.yaml", service("a", 0));
    let update = eventually(deadline, &mut receiver, |update| !update.findings.is_empty()).await;
    assert_eq!(changes(&update), "");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let update = eventually(deadline, &mut receiver, |update| changes(update) == "-a").await;
    assert_eq!(update.findings, []);

    stop.cancel();
    tokio::time::timeout(deadline, running).await.unwrap().unwrap().unwrap();
}
