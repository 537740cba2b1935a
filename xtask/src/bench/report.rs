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
    /// Resident memory later on.
    pub memory: Option<Memory>,
}

/// Memory after load.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident when it has come to rest, MiB.
    pub served: f64,
    /// What each idle connection of HTTP/1 adds, KiB.
    pub each: f64,
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
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(upper) if values.len().is_multiple_of(2) => (values[middle - 1] + upper) / 2.0,
        Some(middle) => *middle,
        None => f64::NAN,
    }
}

/// Medians as a Markdown table. Ratios are medians of those of a repetition each, against its first peer: the host's mood changes from one
/// repetition to the next.
pub fn table(topologies: &[Topology], peers: &[Peer], samples: &[(Topology, Peer, Sample)]) -> String {
    let mut text = String::from(
        "| topology | proxy | rate/s | CPU µs/request | × | CPU µs/request, full speed | × | most/s | p50 ms | p99 ms | RSS MiB idle | after load | KiB/connection |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for topology in topologies {
        let of = |peer: Peer, pick: fn(&Sample) -> f64| -> Vec<f64> {
            samples.iter().filter(|one| one.0 == *topology && one.1 == peer).map(|one| pick(&one.2)).collect()
        };
        for peer in peers {
            let middle = |pick| median(of(*peer, pick));
            let ratio = |pick| {
                let (own, first) = (of(*peer, pick), of(peers[0], pick));
                median(own.iter().zip(first).map(|(own, first)| own / first).collect())
            };
            let memory = match samples.iter().find(|one| one.0 == *topology).and_then(|one| one.2.memory) {
                Some(_) => {
                    let served = middle(|one| one.memory.map_or(f64::NAN, |memory| memory.served));
                    let each = middle(|one| one.memory.map_or(f64::NAN, |memory| memory.each));
                    format!("{served:.0} | {each:.1}")
                }
                None => "– | –".to_owned(),
            };
            text += &format!(
                "| {topology:?} | {peer:?} | {} | {:.1} | {:.2} | {:.1} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {memory} |\n",
                topology.rate(),
                middle(|one| one.steady_cpu),
                ratio(|one| one.steady_cpu),
                middle(|one| one.most_cpu),
                ratio(|one| one.most_cpu),
                middle(|one| one.most_rate),
                middle(|one| one.p50),
                middle(|one| one.p99),
                middle(|one| one.idle),
            );
        }
    }
    text
}
