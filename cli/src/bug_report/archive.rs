//! The archive: pieces one after another into a `.tar.gz` that appears whole or not at all, and a page that says what is missing.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tempfile::NamedTempFile;

use super::Piece;

/// Folder inside the archive.
const FOLDER: &str = "bug-report";

/// An archive that is written.
pub struct Archive {
    tar: tar::Builder<GzEncoder<NamedTempFile>>,
    target: PathBuf,
    time: Timestamp,
    files: usize,
    missing: Vec<String>,
}

impl Archive {
    /// Begins one that will stand at `target`, readable by its user alone.
    pub fn create(target: &Path, time: Timestamp) -> Result<Self> {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { tar, target: target.to_owned(), time, files: 0, missing: Vec::new() })
    }

    /// Writes a piece, or notes why it is missing.
    pub fn add(&mut self, piece: Piece) -> Result<()> {
        match piece.content {
            Ok(content) => self.write(&piece.path, &content),
            Err(error) => {
                self.missing.push(format!("{}: {error:#}", piece.path));
                Ok(())
            }
        }
    }

    /// Ends it with `README.txt`: `about`, and what is missing. Returns the number of files, and what is missing.
    pub fn finish(mut self, about: &str) -> Result<(usize, Vec<String>)> {
        self.missing.sort();
        let mut page = format!("{about}\n");
        if self.missing.is_empty() {
            page.push_str("\nEverything that was asked for could be read.\n");
        } else {
            page.push_str("\nWhat could not be read:\n");
        }
        for line in &self.missing {
            let _ = writeln!(page, "- {line}");
        }
        self.write("README.txt", page.as_bytes())?;
        let file = self.tar.into_inner().and_then(GzEncoder::finish);
        let file = file.with_context(|| format!("cannot write {}", self.target.display()))?;
        file.persist(&self.target).with_context(|| format!("cannot write {}", self.target.display()))?;
        Ok((self.files, self.missing))
    }

    fn write(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).context("the piece is too large")?);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.time.as_second()).unwrap_or_default());
        let written = self.tar.append_data(&mut header, format!("{FOLDER}/{path}"), content);
        written.with_context(|| format!("cannot write {} ({path})", self.target.display()))?;
        self.files += 1;
        Ok(())
    }
}

/// The files of an archive by path inside its folder.
///
/// # Errors
/// It is none.
pub fn read(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut found = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.strip_prefix(&format!("{FOLDER}/")).unwrap_or(&path).to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        found.push((path, content));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_is_missing_is_named_inside() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report.tgz");
        let mut archive = Archive::create(&target, Timestamp::from_second(1_700_000_000).unwrap()).unwrap();
        let long = format!("proxies/{}/log", "n".repeat(200));
        archive.add(Piece { path: long.clone(), content: Ok(b"text".to_vec()) }).unwrap();
        archive.add(Piece { path: "b".to_owned(), content: Err(anyhow!("why").context("what")) }).unwrap();
        assert!(!target.exists());
        let (files, missing) = archive.finish("About").unwrap();
        assert_eq!((files, missing), (2, vec!["b: what: why".to_owned()]));
        let found = read(&target).unwrap();
        assert_eq!(found[0], (long, b"text".to_vec()));
        let page = "About\n\nWhat could not be read:\n- b: what: why\n";
        assert_eq!(found[1], ("README.txt".to_owned(), page.as_bytes().to_vec()));
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
