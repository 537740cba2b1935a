//! An OCI image layout: a folder of blobs named by their digests, with an index that names images. The file `manifest.json` beside it is
//! what `docker load` of every age reads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tree::Tree;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const SBOM: &str = "application/vnd.cyclonedx+json";

/// An image to be added.
pub struct Image<'a> {
    /// `HUB/NAME:TAG`.
    pub reference: &'a str,
    /// What runs.
    pub entrypoint: &'a [&'a str],
    /// `UID:GID`.
    pub user: &'a str,
    /// Of the image, and annotations of its manifest.
    pub labels: Value,
    /// CycloneDX.
    pub sbom: Value,
    /// Lowest first.
    pub layers: &'a [Tree],
}

/// A layout that is being written.
pub struct Layout {
    folder: PathBuf,
    manifests: Vec<Value>,
    docker: Vec<Value>,
}

impl Layout {
    /// Begins in an empty folder; an earlier layout there is removed, anything else is not.
    pub fn create(folder: &Path) -> Result<Self> {
        let mut files = fs::read_dir(folder).into_iter().flatten();
        if files.next().is_some() {
            if !folder.join("oci-layout").is_file() {
                bail!("{} holds something that is no OCI layout; choose another folder", folder.display());
            }
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder.join("blobs/sha256")).with_context(|| folder.display().to_string())?;
        write(&folder.join("oci-layout"), &json!({"imageLayoutVersion": "1.0.0"}))?;
        Ok(Self { folder: folder.to_owned(), manifests: Vec::new(), docker: Vec::new() })
    }

    /// Adds an image and returns its manifest's digest, and how many bytes its layers have in the layout.
    pub fn add(&mut self, image: &Image<'_>) -> Result<(String, u64)> {
        // Not packed: it is an engine on this machine that reads them, and a registry's client packs them by itself.
        let layers =
            image.layers.iter().map(|layer| self.blob(LAYER, &layer.archive()?)).collect::<Result<Vec<_>>>()?;
        let unpacked: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let size = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
        let config = self.document(
            CONFIG,
            &json!({
                "architecture": architecture(),
                "os": "linux",
                // Builds of the same source are the same image.
                "created": "1970-01-01T00:00:00Z",
                "config": {
                    "Entrypoint": image.entrypoint,
                    "User": image.user,
                    "WorkingDir": "/",
                    "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
                    "Labels": image.labels,
                },
                "rootfs": {"type": "layers", "diff_ids": unpacked},
                "history": image.layers.iter().map(|_| json!({"created_by": "cargo xtask images"})).collect::<Vec<_>>(),
            }),
        )?;
        self.docker.push(json!({
            "Config": path_of(&config)?,
            "RepoTags": [image.reference],
            "Layers": layers.iter().map(path_of).collect::<Result<Vec<_>>>()?,
        }));
        let mut manifest = self.document(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, "annotations": image.labels}),
        )?;
        let subject = manifest.clone();
        manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": image.reference});
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        self.manifests.push(manifest);
        self.describe(&subject, &image.sbom)?;
        Ok((digest, size))
    }

    /// Writes the index.
    pub fn close(self) -> Result<()> {
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        write(&self.folder.join("index.json"), &index)?;
        write(&self.folder.join("manifest.json"), &json!(self.docker))
    }

    /// Adds a bill of materials that refers to an image, as registries keep it.
    fn describe(&mut self, subject: &Value, sbom: &Value) -> Result<()> {
        let (config, layer) = (self.document(EMPTY, &json!({}))?, self.document(SBOM, sbom)?);
        let mut manifest = self.document(
            MANIFEST,
            &json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SBOM, "config": config, "layers": [layer],
                "subject": subject,
            }),
        )?;
        manifest["artifactType"] = json!(SBOM);
        self.manifests.push(manifest);
        Ok(())
    }

    fn document(&self, media: &str, document: &Value) -> Result<Value> {
        self.blob(media, document.to_string().as_bytes())
    }

    /// Writes a blob and returns its descriptor.
    fn blob(&self, media: &str, content: &[u8]) -> Result<Value> {
        let descriptor = json!({"mediaType": media, "digest": digest(content), "size": content.len()});
        fs::write(self.folder.join(path_of(&descriptor)?), content)?;
        Ok(descriptor)
    }
}

/// `sha256:…`
pub fn digest(content: &[u8]) -> String {
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

fn path_of(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

/// Go's name of this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn write(path: &Path, document: &Value) -> Result<()> {
    fs::write(path, document.to_string()).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> Result<String> {
        let mut tree = Tree::default();
        tree.file("usr/local/bin/mesh-proxy", 0o755, b"program".to_vec());
        let mut layout = Layout::create(folder)?;
        let image = Image {
            reference: "ferromesh/proxy:1",
            entrypoint: &["/usr/local/bin/mesh-proxy"],
            user: "1337:1337",
            labels: json!({"org.opencontainers.image.title": "mesh-proxy"}),
            sbom: json!({"bomFormat": "CycloneDX"}),
            layers: &[tree],
        };
        let (digest, _) = layout.add(&image)?;
        layout.close()?;
        Ok(digest)
    }

    /// Every descriptor names a blob that has its digest and size.
    fn follow(folder: &Path, descriptor: &Value) -> Result<Value> {
        let content = fs::read(folder.join(path_of(descriptor)?))?;
        assert_eq!(descriptor["digest"], digest(&content));
        assert_eq!(descriptor["size"], content.len());
        Ok(serde_json::from_slice(&content).unwrap_or_default())
    }

    #[test]
    fn a_layout_holds_together_and_is_the_same_each_time() -> Result<()> {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let first = written(one.path())?;
        assert_eq!(first, written(two.path())?);
        // Over an earlier one.
        assert_eq!(first, written(one.path())?);
        let index: Value = serde_json::from_slice(&fs::read(one.path().join("index.json"))?)?;
        let [image, sbom] = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("an image and its bill: {index}")
        };
        assert_eq!(image["annotations"]["org.opencontainers.image.ref.name"], "ferromesh/proxy:1");
        let manifest = follow(one.path(), image)?;
        let config = follow(one.path(), &manifest["config"])?;
        assert_eq!(config["config"]["User"], "1337:1337");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(1));
        follow(one.path(), &manifest["layers"][0])?;
        let bill = follow(one.path(), sbom)?;
        assert_eq!(bill["subject"]["digest"], image["digest"]);
        assert_eq!(follow(one.path(), &bill["layers"][0])?["bomFormat"], "CycloneDX");
        let docker: Value = serde_json::from_slice(&fs::read(one.path().join("manifest.json"))?)?;
        assert_eq!(docker[0]["RepoTags"], json!(["ferromesh/proxy:1"]));
        Ok(())
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("thesis.txt"), "")?;
        assert!(Layout::create(folder.path()).is_err());
        assert!(folder.path().join("thesis.txt").exists());
        Ok(())
    }
}
