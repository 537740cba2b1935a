//! Processes, their CPU time and memory, free ports, throw-away certificates.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Where programs and certificates are kept between runs.
pub fn home() -> Result<PathBuf> {
    let home = crate::ci::tools::cache().join("bench");
    std::fs::create_dir_all(&home)?;
    Ok(home)
}

/// A started program; it ends when dropped.
pub struct Tree {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Tree {
    /// Starts a program on one core, its output in a file of `folder`.
    pub fn start(name: &str, core: usize, program: &Path, arguments: &[String], folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.out"));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let child = Command::new("taskset")
            .args(["-c", &(core % cores).to_string()])
            .arg(program)
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::create(folder.join(format!("{name}.err")))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Waits until something listens on `port`.
    pub fn wait_for(&mut self, port: u16) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(self.log.with_extension("err")).unwrap_or_default();
                bail!("{} ended with {status}: {said}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not listen on port {port}", self.name)
    }

    /// User and system time of the program and its children.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0;
        for pid in family(self.child.id()) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> =
                stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
            // Fields 14 and 15 of proc(5), counted after the command's name.
            ticks += [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum::<u64>();
        }
        // Linux counts these in units of 1/100 s on every architecture (USER_HZ).
        Ok(ticks as f64 / 100.0)
    }

    /// Resident memory of the program and its children in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        let mut kib = 0;
        for pid in family(self.child.id()) {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            kib += line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(kib as f64 / 1024.0)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A program that ended already cannot be killed; that is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", all[at])).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    all
}

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// A mesh CA and two identities, P-256.
pub fn certificates(folder: &Path) -> Result<()> {
    if folder.join("done").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let openssl = |arguments: &[&str]| process::run("openssl", arguments);
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &path("ca.key")])?;
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &path("ca.key"),
        "-days",
        "3650",
        "-subj",
        "/O=bench",
        "-out",
        &path("ca.pem"),
        "-addext",
        "keyUsage=critical,keyCertSign",
    ])?;
    for name in ["client", "server"] {
        let (key, pem, csr, extensions) = (
            path(&format!("{name}.key")),
            path(&format!("{name}.pem")),
            path(&format!("{name}.csr")),
            path(&format!("{name}.ext")),
        );
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key])?;
        openssl(&["req", "-new", "-key", &key, "-subj", "/O=bench", "-out", &csr])?;
        std::fs::write(
            &extensions,
            format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n\
                 subjectAltName=URI:spiffe://cluster.local/ns/default/sa/{name}\n"
            ),
        )?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &path("ca.pem"),
            "-CAkey",
            &path("ca.key"),
            "-CAcreateserial",
            "-days",
            "3650",
            "-extfile",
            &extensions,
            "-out",
            &pem,
        ])?;
        // HAProxy wants both in one file.
        std::fs::write(
            path(&format!("{name}-bundle.pem")),
            std::fs::read_to_string(&pem)? + &std::fs::read_to_string(&key)?,
        )?;
    }
    std::fs::write(folder.join("done"), "")?;
    Ok(())
}
