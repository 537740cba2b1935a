//! Reads what a proxy tells at `/stats/prometheus`: samples with labels, counters and histograms among them.
//!
//! Only as much of Prometheus' text format as exporters write: comments are skipped, time stamps are ignored.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use crate::http_client;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name, with `_bucket`, `_sum`, `_count` of histograms.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// All samples of one or more proxies at a moment.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Sample>);

impl Sample {
    /// A label; empty if absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Samples {
    /// Samples read before.
    pub fn of(samples: Vec<Sample>) -> Self {
        Self(samples)
    }

    /// Asks proxies' admin ports.
    pub async fn fetch(admins: impl IntoIterator<Item = SocketAddr>) -> Result<Self> {
        let mut all = Self::default();
        for admin in admins {
            let answer = http_client::get(admin, "localhost", "/stats/prometheus").await?;
            if !answer.status.is_success() {
                bail!("http://{admin}/stats/prometheus answered {}", answer.status);
            }
            let text = answer.text();
            all.0.extend(parse(&text).with_context(|| format!("http://{admin}/stats/prometheus"))?);
        }
        Ok(all)
    }

    /// Samples of a name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of the samples of a name that `wanted` keeps.
    pub fn sum(&self, name: &str, wanted: impl Fn(&Sample) -> bool) -> f64 {
        self.named(name).filter(|sample| wanted(sample)).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// How much each sample grew since `earlier`. A series that is new grew from nothing.
    pub fn since(&self, earlier: &Self) -> Self {
        let before: BTreeMap<_, f64> =
            earlier.0.iter().map(|sample| ((&sample.name, &sample.labels), sample.value)).collect();
        let grown = self.0.iter().map(|sample| {
            let before = before.get(&(&sample.name, &sample.labels)).copied().unwrap_or(0.0);
            Sample { value: sample.value - before, ..sample.clone() }
        });
        Self(grown.collect())
    }

    /// A quantile of a histogram over the series that `wanted` keeps, interpolated inside its bucket as Prometheus'
    /// `histogram_quantile` does. `None` without observations.
    pub fn quantile(&self, histogram: &str, quantile: f64, wanted: impl Fn(&Sample) -> bool) -> Option<f64> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.named(&format!("{histogram}_bucket")).filter(|sample| wanted(sample)) {
            let bound = sample.label("le").parse::<f64>().ok()?;
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let rank = quantile * total;
        let index = buckets.iter().position(|(_, count)| *count >= rank)?;
        let (lower, below) = if index == 0 { (0.0, 0.0) } else { buckets[index - 1] };
        let (upper, count) = buckets[index];
        if upper.is_infinite() {
            return Some(lower);
        }
        Some(if count > below { lower + (upper - lower) * (rank - below) / (count - below) } else { upper })
    }
}

/// Reads the text format. Errors name the line.
pub fn parse(text: &str) -> Result<Vec<Sample>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| sample(line).with_context(|| format!("line {}: `{line}` is no sample", number + 1)))
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim().to_owned(), value);
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        rest = &rest[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, character)) = chars.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"
# TYPE istio_requests_total counter
istio_requests_total{reporter="destination",response_code="200",note="a \"b\"\n,c}"} 42
istio_requests_total{reporter="source",response_code="503"} 2 1700000000
# TYPE d histogram
d_bucket{le="1"} 50
d_bucket{le="5"} 90
d_bucket{le="10"} 100
d_bucket{le="+Inf"} 100
d_sum 200
d_count 100
"#;

    #[test]
    fn samples_are_read_with_labels_and_escapes() {
        let samples = Samples(parse(TEXT).unwrap());
        assert_eq!(samples.sum("istio_requests_total", |_| true), 44.0);
        assert_eq!(samples.sum("istio_requests_total", |sample| sample.label("reporter") == "source"), 2.0);
        let first = samples.named("istio_requests_total").next().unwrap();
        assert_eq!(first.label("note"), "a \"b\"\n,c}");
        assert!(parse("no value").is_err());
        assert!(parse("a{b=\"c} 1").is_err());
    }

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        let samples = Samples(parse(TEXT).unwrap());
        for (quantile, expected) in [(0.25, 0.5), (0.5, 1.0), (0.7, 3.0), (0.99, 9.5), (1.0, 10.0)] {
            let found = samples.quantile("d", quantile, |_| true).unwrap();
            assert!((found - expected).abs() < 1e-9, "{quantile}: {found}");
        }
        assert_eq!(samples.quantile("d", 0.5, |_| false), None);
    }

    #[test]
    fn growth_is_by_series() {
        let before = Samples(parse("a{x=\"1\"} 5\n").unwrap());
        let after = Samples(parse("a{x=\"1\"} 7\na{x=\"2\"} 3\n").unwrap());
        let grown = after.since(&before);
        assert_eq!(grown.sum("a", |sample| sample.label("x") == "1"), 2.0);
        assert_eq!(grown.sum("a", |sample| sample.label("x") == "2"), 3.0);
    }
}
