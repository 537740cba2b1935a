//! The load: h2load, which speaks HTTP/1.1 and HTTP/2, at full speed or at a fixed rate, and logs every request.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What a run saw.
pub struct Seen {
    /// Requests answered with success.
    pub requests: u32,
    /// Requests that were not.
    pub failed: u32,
    /// Requests a second.
    pub rate: f64,
    /// Median latency, milliseconds.
    pub p50: f64,
    /// 99th percentile, milliseconds.
    pub p99: f64,
}

/// Sends `requests`, at `rate` a second or as fast as answers come.
pub fn run(url: &str, http2: bool, connections: u32, requests: u32, rate: Option<u32>, folder: &Path) -> Result<Seen> {
    let log = folder.join("h2load.log");
    // h2load appends.
    let _ = std::fs::remove_file(&log);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("taskset");
    command.args(["-c", &(1 % cores).to_string(), "h2load", "--clients", &connections.to_string()]);
    command.args(["--requests", &requests.to_string(), "--log-file"]).arg(&log);
    if http2 {
        command.args(["--max-concurrent-streams", "10"]);
    } else {
        command.arg("--h1");
    }
    if let Some(rate) = rate {
        command.args(["--rps", &(f64::from(rate) / f64::from(connections)).to_string()]);
    }
    let output = command.arg(url).output().context("h2load")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("h2load: {}{}", text, String::from_utf8_lossy(&output.stderr));
    }
    let number_before = |word: &str| -> Option<u32> {
        let line = text.lines().find(|line| line.starts_with("requests:"))?;
        line.split(',').find(|part| part.contains(word))?.split_whitespace().find_map(|one| one.parse().ok())
    };
    let requests = number_before("succeeded").with_context(|| format!("h2load said:\n{text}"))?;
    let failed = number_before("failed").unwrap_or(0);
    let finished = text.lines().find(|line| line.starts_with("finished in"));
    let rate = finished.and_then(|line| line.split(',').nth(1)?.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    let mut times: Vec<f64> = std::fs::read_to_string(&log)?
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse::<f64>().ok())
        .map(|microseconds| microseconds / 1_000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let percentile = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Ok(Seen { requests, failed, rate, p50: percentile(0.5), p99: percentile(0.99) })
}

/// One HTTP/1.1 request on a connection that stays open.
pub fn one_request(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer)?;
    if !buffer[..read].starts_with(b"HTTP/1.1 200") {
        bail!("answered {}", String::from_utf8_lossy(&buffer[..read.min(64)]));
    }
    Ok(stream)
}
