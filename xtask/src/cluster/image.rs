//! The nodes' image, made without any registry: Debian with systemd, containerd and CNI plugins, kind's own files from its Go module, and
//! the parts, of which the control plane's are images in containerd's store.
//!
//! The image is named after all that it is made of, this file included, so a change makes another.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{cache, key, lock, parts, recipes, text};
use crate::ci::tools;
use crate::process;

/// What a node of Debian needs. Not of Debian 13: its systemd refuses the first version of cgroups, which some machines have.
const DEBIAN: &str = "bookworm";
const PACKAGES: &str = "systemd,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,bash,\
                        ca-certificates,curl,jq,procps,hostname,socat,containerd,runc,containernetworking-plugins,catatonit";
/// Where kubeadm is told to find the control plane's images.
pub const REPOSITORY: &str = "localhost/kube";
/// The tag of the pause image; nobody but us reads it.
const PAUSE: &str = "3.10.1";
/// Parts that are images of their own.
const CONTROL_PLANE: &[&str] = &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// Makes the image, unless the engine has it, and returns its name. Needs a Docker engine and, to make it, root.
pub fn build() -> Result<String> {
    let _alone = lock("image")?;
    let version = parts::kubernetes()?;
    let image = format!("localhost/kind-node:{version}-{}", made_of()?);
    if process::output("docker", &["image", "inspect", &image]).is_ok() {
        return Ok(image);
    }
    parts::build(parts::ALL)?;
    let debian = debian()?;
    println!("making {image}");
    let work = tempfile::Builder::new().prefix("node-").tempdir_in(cache())?;
    let root = work.path().join("root");
    process::run("cp", &["-a", &text(&debian), &text(&root)])?;
    fill(&root, &version)?;
    let images = control_plane(work.path(), &root, &version)?;
    commit(&image, &root, &images)?;
    Ok(image)
}

fn made_of() -> Result<String> {
    let mut content = vec![include_bytes!("image.rs").to_vec(), fs::read(recipes().join("runtime"))?];
    for recipe in ["kubernetes", "etcd", "coredns", "kind"] {
        content.push(fs::read(recipes().join(recipe).join("go.sum"))?);
        content.push(fs::read(recipes().join(recipe).join("go.mod"))?);
    }
    for file in ["setup.sh", "preload.sh", "default-storage.yaml"] {
        content.push(fs::read(recipes().join("node").join(file))?);
    }
    Ok(key(&content.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Debian's packages, in a folder that the next image begins with too.
fn debian() -> Result<PathBuf> {
    let folder = cache().join(format!("{DEBIAN}-{}", key(&[PACKAGES.as_bytes()])));
    if folder.exists() {
        return Ok(folder);
    }
    tools::DEBOOTSTRAP.ensure()?;
    let unfinished = folder.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let include = format!("--include={PACKAGES}");
    process::run("debootstrap", &["--variant=minbase", &include, DEBIAN, &text(&unfinished)])?;
    fs::rename(&unfinished, &folder)?;
    Ok(folder)
}

/// kind's files, the parts that run on the node itself, and Debian's settings.
fn fill(root: &Path, version: &str) -> Result<()> {
    let kind = recipes().join("kind");
    parts::go(&kind, &["mod", "download", "sigs.k8s.io/kind"])?;
    let listed =
        process::output_in(&kind, "go", &["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"], parts::ENVIRONMENT)?;
    let files = Path::new(listed.trim()).join("images/base/files");
    // The module cache is read-only, and modes would come along.
    process::run("cp", &["-r", "--no-preserve=mode", &text(&files.join("etc/.")), &text(&root.join("etc"))])?;
    for folder in ["kind/bin", "kind/manifests", "etc/kubernetes/manifests"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for script in fs::read_dir(files.join("kind/bin")).context("kind's module holds its scripts")? {
        let script = script?;
        install(&script.path(), &root.join("kind/bin").join(script.file_name()))?;
    }
    install(&files.join("usr/local/bin/entrypoint"), &root.join("usr/local/bin/entrypoint"))?;
    for part in ["kubeadm", "kubelet", "kubectl"] {
        install(&parts::folder().join(part), &root.join("usr/bin").join(part))?;
    }
    install(&recipes().join("runtime"), &root.join("usr/local/sbin/runc"))?;
    fs::write(root.join("kind/version"), version)?;
    let node = recipes().join("node");
    fs::copy(node.join("default-storage.yaml"), root.join("kind/manifests/default-storage.yaml"))?;
    for script in ["setup.sh", "preload.sh"] {
        fs::copy(node.join(script), root.join("kind").join(script))?;
    }
    let (repository, pause) = (format!("REPOSITORY={REPOSITORY}"), format!("PAUSE={PAUSE}"));
    process::run("chroot", &[&text(root), "env", &repository, &pause, "sh", "/kind/setup.sh"])
}

/// The control plane's images, one static program each, in a file that containerd can import.
fn control_plane(work: &Path, root: &Path, version: &str) -> Result<PathBuf> {
    let listed = process::output(
        &text(&parts::folder().join("kubeadm")),
        &["config", "images", "list", "--kubernetes-version", version, "--image-repository", REPOSITORY],
    )?;
    let mut images = Vec::new();
    let mut add = |name: &str, program: &Path, inside: &str, entrypoint: Option<&str>| -> Result<()> {
        let folder = work.join(name);
        install(program, &folder.join(inside))?;
        if name == "kube-proxy" {
            nft(root, &folder)?;
        }
        // Of etcd and CoreDNS kubeadm expects tags of its own; the programs are the parts.
        let tag = listed.lines().find_map(|line| line.strip_prefix(&format!("{REPOSITORY}/{name}:"))).unwrap_or(PAUSE);
        let image = format!("{REPOSITORY}/{name}:{tag}");
        import(&folder, &image, entrypoint)?;
        images.push(image);
        Ok(())
    };
    for part in CONTROL_PLANE.iter().chain(&["etcd"]) {
        add(part, &parts::folder().join(part), &format!("usr/local/bin/{part}"), None)?;
    }
    add("coredns", &parts::folder().join("coredns"), "coredns", Some(r#"["/coredns"]"#))?;
    add("pause", &root.join("usr/bin/catatonit"), "pause", Some(r#"["/pause","-P"]"#))?;
    let file = work.join("images.tar");
    let path = text(&file);
    let mut arguments = vec!["save", "-o", &path];
    arguments.extend(images.iter().map(String::as_str));
    process::run("docker", &arguments)?;
    arguments.splice(..3, ["rmi"]);
    process::output("docker", &arguments)?;
    Ok(file)
}

/// kube-proxy runs in nftables mode: it calls nft, which needs its libraries.
fn nft(root: &Path, folder: &Path) -> Result<()> {
    install(&root.join("usr/sbin/nft"), &folder.join("usr/sbin/nft"))?;
    let libraries = process::output("chroot", &[&text(root), "ldd", "/usr/sbin/nft"])?;
    for library in libraries.split_whitespace().filter_map(|word| word.strip_prefix('/')) {
        install(&root.join(library), &folder.join(library))?;
    }
    Ok(())
}

/// The node's root as an image, with the control plane's images in its store.
fn commit(image: &str, root: &Path, images: &Path) -> Result<()> {
    let base = format!("{image}-base");
    import(root, &base, None)?;
    let container = Container(format!("ferromesh-node-{}", std::process::id()));
    let name = container.0.as_str();
    process::run("docker", &["run", "-d", "--privileged", "--name", name, "--entrypoint", "sleep", &base, "infinity"])?;
    process::run("docker", &["cp", &text(images), &format!("{name}:/images.tar")])?;
    process::run("docker", &["exec", name, "sh", "/kind/preload.sh"])?;
    let entry = r#"ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]"#;
    process::run("docker", &["commit", "--change", entry, "--change", "ENV container=docker", name, image])?;
    drop(container);
    process::output("docker", &["rmi", &base]).map(|_| ())
}

/// Removed with its value, also when something failed.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        // It may not have started.
        let _ = process::output("docker", &["rm", "-f", &self.0]);
    }
}

fn import(folder: &Path, image: &str, entrypoint: Option<&str>) -> Result<()> {
    let archive = text(&folder.with_extension("tar"));
    process::output("tar", &["-C", &text(folder), "-cf", &archive, "."])?;
    let change = entrypoint.map(|entrypoint| format!("ENTRYPOINT {entrypoint}"));
    let mut arguments = vec!["import"];
    if let Some(change) = &change {
        arguments.extend(["--change", change]);
    }
    arguments.extend([&*archive, image]);
    process::run("docker", &arguments)?;
    Ok(fs::remove_file(&archive)?)
}

/// Copies a program with its folders.
fn install(from: &Path, to: &Path) -> Result<()> {
    process::output("install", &["-D", "-m755", &text(from), &text(to)]).map(|_| ())
}
