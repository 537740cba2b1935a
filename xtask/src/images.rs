//! `cargo xtask images`: container images of the programs, as an OCI layout, and in the Docker engine if one answers.
//!
//! No base image, so no registry: [`tree`] takes a program, the shared libraries it is linked to and what else it needs from this
//! machine, [`layout`] writes that down, [`sbom`] says what is in it. The same input gives the same digests.

mod layout;
mod sbom;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::ci::tools;
use crate::process;
use layout::{Image, Layout};
use tree::Tree;

/// Arguments of `images`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these: proxy, gateway, controlplane, meshctl, bookinfo.
    names: Vec<String>,
    /// Cargo's profile; `dev` builds in a fraction of the time.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Images are named HUB/NAME:TAG.
    #[arg(long, default_value = "ferromesh")]
    hub: String,
    /// As above.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// The OCI layout's folder; `images` in the target folder otherwise. What it held is replaced.
    #[arg(long)]
    output: Option<PathBuf>,
}

impl Arguments {
    /// All images, in the usual place.
    pub fn all(profile: &str, hub: &str, tag: &str) -> Self {
        let [profile, hub, tag] = [profile, hub, tag].map(str::to_owned);
        Self { names: Vec::new(), profile, hub, tag, output: None }
    }
}

/// What an image is for.
struct Recipe {
    name: &'static str,
    /// The package, and its program.
    program: &'static str,
    /// What the program is told before anything that a pod adds.
    arguments: &'static [&'static str],
    description: &'static str,
    /// True if it sets up capture, which takes the kernel's tools.
    captures: bool,
    /// Whom it runs as.
    user: u32,
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "proxy",
        program: "mesh-proxy",
        arguments: &[],
        description: "The sidecar of Ferromesh, and what redirects a pod's traffic to it",
        captures: true,
        user: MESH_USER,
    },
    Recipe {
        name: "gateway",
        program: "mesh-gateway",
        arguments: &[],
        description: "The gateway of Ferromesh",
        captures: false,
        user: MESH_USER,
    },
    Recipe {
        name: "controlplane",
        program: "mesh-controlplane",
        arguments: &[],
        description: "The control plane of Ferromesh",
        captures: false,
        user: MESH_USER,
    },
    Recipe {
        name: "meshctl",
        program: "meshctl",
        arguments: &[],
        description: "The command line of Ferromesh",
        captures: false,
        user: APPLICATION_USER,
    },
    Recipe {
        name: "bookinfo",
        program: "meshctl",
        arguments: &["bookinfo"],
        description: "The application of Ferromesh's demo, which knows nothing of the mesh",
        captures: false,
        user: APPLICATION_USER,
    },
];

/// Whom programs of the mesh run as: capture lets what this user sends pass. Nobody but the redirect step needs to be root, and that says so in
/// its pod.
const MESH_USER: u32 = 1337;
/// Whom applications run as; capture must see what they send.
const APPLICATION_USER: u32 = 65_532;

/// Builds the programs and their images; returns the names of the images.
pub fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let chosen = choose(&arguments.names)?;
    let packages: Vec<&str> = chosen.iter().flat_map(|recipe| ["-p", recipe.program]).collect();
    process::run("cargo", &[&["build", "--bins", "--profile", &arguments.profile], &packages[..]].concat())?;
    let target = process::target();
    // The profile `dev` builds into a folder of another name.
    let built = target.join(if arguments.profile == "dev" { "debug" } else { &arguments.profile });
    let folder = arguments.output.clone().unwrap_or_else(|| target.join("images"));
    let packages = sbom::Packages::read()?;
    let revision = process::output("git", &["rev-parse", "HEAD"]).map(|text| text.trim().to_owned()).ok();
    let mut layout = Layout::create(&folder)?;
    let mut made = Vec::new();
    for recipe in chosen {
        let program = built.join(recipe.program);
        let reference = format!("{}/{}:{}", arguments.hub, recipe.name, arguments.tag);
        let (base, own) = (base(&program, recipe)?, own(recipe, &program)?);
        let path = format!("/usr/local/bin/{}", recipe.program);
        let mut labels = json!({
            "org.opencontainers.image.title": format!("ferromesh-{}", recipe.name),
            "org.opencontainers.image.description": recipe.description,
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "Apache-2.0",
        });
        if let Some(revision) = &revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        let image = Image {
            reference: &reference,
            entrypoint: &[&[&*path], recipe.arguments].concat(),
            user: &format!("{0}:{0}", recipe.user),
            labels,
            sbom: sbom::document(recipe.program, &packages, &base)?,
            layers: &[base, own],
        };
        let (digest, size) = layout.add(&image)?;
        println!("{reference}  {digest}  {:.1} MiB", size as f64 / f64::from(1 << 20));
        made.push(reference);
    }
    layout.close()?;
    println!("OCI layout in {}", folder.display());
    load(&folder)?;
    Ok(made)
}

fn choose(names: &[String]) -> Result<Vec<&'static Recipe>> {
    if let Some(unknown) = names.iter().find(|name| !RECIPES.iter().any(|recipe| recipe.name == *name)) {
        let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        bail!("no image is called {unknown}; there are: {}", known.join(", "));
    }
    Ok(RECIPES.iter().filter(|recipe| names.is_empty() || names.iter().any(|name| name == recipe.name)).collect())
}

/// What stays the same while the program changes, in a layer of its own.
fn base(program: &Path, recipe: &Recipe) -> Result<Tree> {
    let user = recipe.user;
    let mut tree = Tree::default();
    tree.file("etc/passwd", 0o644, format!("root:x:0:0::/:/none\nuser:x:{user}:{user}::/:/none\n").into_bytes());
    tree.file("etc/group", 0o644, format!("root:x:0:\nuser:x:{user}:\n").into_bytes());
    tree.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    let authorities = "etc/ssl/certs/ca-certificates.crt";
    let bundle = Path::new("/").join(authorities);
    let read = fs::read(&bundle).with_context(|| format!("{} (Debian package ca-certificates)", bundle.display()))?;
    tree.file(authorities, 0o644, read);
    tree.folder("tmp", 0o1777);
    tree.libraries(program)?;
    if recipe.captures {
        for tool in [tools::NFT, tools::IPTABLES] {
            tool.ensure()?;
        }
        // Addresses of IPv6 that answers to capture need.
        tools::IP.ensure()?;
        tree.program(&tree::find("ip")?, "usr/sbin/ip")?;
        tree.program(&tree::find("nft")?, "usr/sbin/nft")?;
        tree.iptables()?;
    }
    Ok(tree)
}

/// The program, without what only a debugger reads.
fn own(recipe: &Recipe, program: &Path) -> Result<Tree> {
    let stripped = tempfile::NamedTempFile::new()?;
    let (from, to) = (program.to_string_lossy(), stripped.path().to_string_lossy());
    process::output("strip", &["--strip-debug", "-o", &to, &from]).context("strip (Debian package binutils)")?;
    let mut tree = Tree::default();
    tree.file(&format!("usr/local/bin/{}", recipe.program), 0o755, fs::read(stripped.path())?);
    Ok(tree)
}

/// Gives the layout to the Docker engine, if there is one.
fn load(folder: &Path) -> Result<()> {
    if !process::exists("docker") || process::output("docker", &["version"]).is_err() {
        println!("no Docker engine answers, so the images are in the layout alone");
        return Ok(());
    }
    let archive = tempfile::NamedTempFile::new()?;
    let (folder, archive) = (folder.to_string_lossy(), archive.path().to_string_lossy());
    process::output("tar", &["-C", &folder, "-cf", &archive, "."])?;
    process::run("docker", &["load", "-i", &archive])
}
