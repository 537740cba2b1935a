//! The files of a layer: gathered from this machine, written as a tar archive that depends on nothing but them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;

/// Files by their path in the image, without a leading `/`.
#[derive(Debug, Default, Clone)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder(u32),
    File(u32, Vec<u8>),
    Link(String),
}

impl Tree {
    /// Adds a file with this mode.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, Entry::File(mode, content));
    }

    /// Adds a folder with this mode.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Folder(mode));
    }

    /// Adds a program of this machine with the libraries it is linked to.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.file(to, 0o755, read(from)?);
        self.libraries(from)
    }

    /// Adds the libraries that a program or a plugin is linked to, where its loader looks for them.
    pub fn libraries(&mut self, program: &Path) -> Result<()> {
        let listed = process::output("ldd", &[&program.to_string_lossy()])?;
        for library in linked(&listed).with_context(|| program.display().to_string())? {
            self.file(library.trim_start_matches('/'), 0o755, read(Path::new(library))?);
        }
        Ok(())
    }

    /// Adds iptables: one program of many names, with plugins for each match and target.
    pub fn iptables(&mut self) -> Result<()> {
        let program = fs::canonicalize(find("iptables-restore")?)?;
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        self.program(&program, &format!("usr/sbin/{name}"))?;
        for other in
            ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"]
        {
            self.add(&format!("usr/sbin/{other}"), Entry::Link(name.clone()));
        }
        let architecture = Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)).join("xtables");
        let folder = [architecture, "/usr/lib/xtables".into()].into_iter().find(|path| path.is_dir());
        let folder = folder.context("iptables has no plugins below /usr/lib")?;
        for plugin in fs::read_dir(&folder)? {
            let plugin = plugin?.path();
            let inside = plugin.to_string_lossy().trim_start_matches('/').to_owned();
            match fs::read_link(&plugin) {
                Ok(target) => self.add(&inside, Entry::Link(target.to_string_lossy().into_owned())),
                Err(_) => self.program(&plugin, &inside)?,
            }
        }
        Ok(())
    }

    /// Paths and contents of all files.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File(_, content) => Some((path.as_str(), content.as_slice())),
            Entry::Folder(_) | Entry::Link(_) => None,
        })
    }

    /// The archive: sorted, owned by root, of no time.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            match entry {
                Entry::Folder(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File(mode, content) => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(archive.into_inner()?)
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder(0o755));
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

/// Where a program of this machine is; those of root are not on everyone's path.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file()).with_context(|| format!("no {program} here"))
}

/// The libraries that `ldd` found.
fn linked(listed: &str) -> Result<Vec<&str>> {
    let mut libraries = Vec::new();
    for line in listed.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a library is missing: {line}");
        }
        // `name => path (address)`, or `path (address)` for the loader; the kernel's own has no path.
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if path.starts_with('/') {
            libraries.extend(path.split_whitespace().next());
        }
    }
    Ok(libraries)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() -> Result<()> {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(linked(listed)?, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(linked("\tstatically linked\n")?.is_empty());
        assert!(linked("\tlibnft.so.1 => not found\n").is_err());
        Ok(())
    }

    #[test]
    fn an_archive_depends_on_the_files_alone() -> Result<()> {
        let mut one = Tree::default();
        one.file("usr/bin/a", 0o755, b"a".to_vec());
        one.folder("tmp", 0o1777);
        let mut two = Tree::default();
        two.folder("tmp", 0o1777);
        two.file("usr/bin/a", 0o755, b"a".to_vec());
        assert_eq!(one.archive()?, two.archive()?);
        let archive = one.archive()?;
        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries()? {
            let entry = entry?;
            names.push((entry.path()?.to_string_lossy().into_owned(), entry.header().mode()?));
        }
        let expected = [("tmp/", 0o1777), ("usr/", 0o755), ("usr/bin/", 0o755), ("usr/bin/a", 0o755)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), mode)));
        Ok(())
    }
}
