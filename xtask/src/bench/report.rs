//! Samples and the table made of them.

use std::fmt;

use super::peer::{Peer, Topology};

/// One repetition of one proxy.
pub struct Sample {
    /// CPU-microseconds per request at the fixed rate.
    pub steady_cpu: f64,
    /// The same at full speed.
    pub most_cpu: f64,
    /// Requests a second at full speed.
    pub most_rate: f64,
    /// Median latency at the fixed rate, milliseconds.
    pub p50: f64,
    /// 99th percentile, milliseconds.
    pub p99: f64,
    /// Resident memory at the start, MiB.
    pub idle: f64,
    /// Resident memory with 1,000 idle connections, MiB.
    pub connected: Option<f64>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} µs/request at the rate, {:.1} at full speed ({:.0}/s), p50 {:.2} ms, p99 {:.2} ms, {:.0} MiB",
            self.steady_cpu, self.most_cpu, self.most_rate, self.p50, self.p99, self.idle
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Medians as a Markdown table; ratios are against the first peer.
pub fn table(topologies: &[Topology], peers: &[Peer], samples: &[(Topology, Peer, Sample)]) -> String {
    let mut text = String::from(
        "| topology | proxy | rate/s | CPU µs/request | × | CPU µs/request, full speed | × | most/s | p50 ms | p99 ms | RSS MiB idle | with 1,000 connections |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for topology in topologies {
        let mut first: Option<(f64, f64)> = None;
        for peer in peers {
            let of = |pick: fn(&Sample) -> f64| {
                median(
                    samples.iter().filter(|one| one.0 == *topology && one.1 == *peer).map(|one| pick(&one.2)).collect(),
                )
            };
            let (steady, most) = (of(|one| one.steady_cpu), of(|one| one.most_cpu));
            let base = *first.get_or_insert((steady, most));
            let connected = of(|one| one.connected.unwrap_or_default());
            let connected = if connected > 0.0 { format!("{connected:.0}") } else { "–".to_owned() };
            text += &format!(
                "| {topology:?} | {peer:?} | {} | {steady:.1} | {:.2} | {most:.1} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {connected} |\n",
                topology.rate(),
                steady / base.0,
                most / base.1,
                of(|one| one.most_rate),
                of(|one| one.p50),
                of(|one| one.p99),
                of(|one| one.idle),
            );
        }
    }
    text
}
