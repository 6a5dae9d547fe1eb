//! Reads the text that `/metrics` answers with.

use super::http;

/// One look at all metrics.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Series>);

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Asks the engine on `port`.
    pub fn of(port: u16) -> Result<Self, String> {
        let answer = http::get(port, "/metrics").map_err(|e| format!("/metrics: {e}"))?;
        if answer.status == 200 { Ok(Self::parse(&answer.body)) } else { Err(format!("/metrics: {}", answer.status)) }
    }

    /// Takes the text apart; lines that are no series are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect())
    }

    /// The sum of all series of `name` that carry `labels`; `None` when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |series: &&Series| {
            series.name == name
                && labels.iter().all(|(label, value)| series.labels.iter().any(|(l, v)| l == label && v == value))
        };
        let mut values = self.0.iter().filter(fits).map(|series| series.value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The same, 0 when there is none: a counter that nothing has counted yet may be absent.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).unwrap_or(0.0) as u64
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let same = |series: &Series, other: &&Series| other.name == series.name && other.labels == series.labels;
        let left = |series: &Series| {
            let earlier = before.0.iter().find(|other| same(series, other)).map_or(0.0, |other| other.value);
            Series { value: series.value - earlier, ..series.clone() }
        };
        Self(self.0.iter().map(left).collect())
    }

    /// The upper bound of the bucket of a histogram without labels in which `share` (0 to 1) of its values end; `None` when
    /// it has none.
    pub fn quantile(&self, histogram: &str, share: f64) -> Option<f64> {
        let bucket = format!("{histogram}_bucket");
        let of = |series: &&Series| series.name == bucket;
        let bound = |series: &Series| series.labels.iter().find(|(name, _)| name == "le")?.1.parse::<f64>().ok();
        let mut buckets: Vec<(f64, f64)> =
            self.0.iter().filter(of).filter_map(|series| Some((bound(series)?, series.value))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        buckets.into_iter().find(|(_, count)| *count >= share * all).map(|(bound, _)| bound)
    }
}

fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, rest) = series.split_once('{').unwrap_or((series, ""));
    let labels = rest.trim_end_matches('}').split("\",").filter_map(|pair| {
        let (label, value) = pair.split_once("=\"")?;
        Some((label.trim().to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Series { name: name.to_owned(), labels: labels.collect(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_not_asked_for() {
        let text =
            "# TYPE a counter\na{p=\"0\",o=\"x\"} 2\na{p=\"1\",o=\"x\"} 3\na{p=\"1\",o=\"y\"} 10\nb 1.5\n\nc{} 7\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a", &[("o", "x")]), Some(5.0));
        assert_eq!(metrics.sum("a", &[]), Some(15.0));
        assert_eq!(metrics.sum("a", &[("p", "1"), ("o", "y")]), Some(10.0));
        assert_eq!(metrics.sum("b", &[]), Some(1.5));
        assert_eq!((metrics.count("c", &[]), metrics.sum("a", &[("o", "z")])), (7, None));
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let text = "h_bucket{le=\"0.001\"} 50\nh_bucket{le=\"0.01\"} 98\nh_bucket{le=\"+Inf\"} 100\nh_count 100\n";
        let metrics = Metrics::parse(text);
        assert_eq!([0.5, 0.6, 0.99].map(|share| metrics.quantile("h", share)), [0.001, 0.01, f64::INFINITY].map(Some));
        assert_eq!(metrics.quantile("none", 0.5), None);
    }
}
