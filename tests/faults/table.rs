//! Words for what a run of faults found: the tables of `make faults` and of docs/RELIABILITY.md.

use std::{collections::BTreeMap, fmt::Write as _};

use keyloom_actors::fault_point;

use super::history::{ANY_MOMENT, NO_START, Report, Times};

/// One line per scenario, one line per place of a kill.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "| scenario | faults | audits | events 2xx | unknown, sent again | log records | rows | files | lost | applied twice \
         | duplicate rows | missing rows | order inversions | conservation | wrong features | features went back | emitted rows | wrong ones |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for report in reports {
        let Report { scenario, faults, missed, sent, findings: f, times: _ } = report;
        let faults = faults.iter().filter(|(name, _)| **name != NO_START).map(|(_, n)| n).sum::<u64>();
        let faults = faults + missed.values().sum::<u64>();
        let cells = [
            faults,
            f.audits,
            f.events,
            sent.unknown,
            f.log_records,
            f.rows,
            f.files,
            f.lost,
            f.applied_twice,
            f.duplicate_rows,
            f.missing_rows + f.foreign_rows,
            f.inversions,
            f.conservation,
            f.wrong_features,
            sent.went_back,
            f.emitted_rows,
            f.wrong_rows,
        ];
        let cells = cells.map(|n| n.to_string()).join(" | ");
        writeln!(text, "| {scenario} | {cells} |").expect("a string takes everything");
    }
    text.push_str("\n| engine killed | embedded | NATS and S3 |\n|---|---|---|\n");
    let places = fault_point::ALL.into_iter().chain([ANY_MOMENT]);
    for place in places {
        let cells = columns(reports, |report| report.faults.get(place).copied().unwrap_or(0));
        writeln!(text, "| {place} | {} | {} |", cells.0, cells.1).expect("a string takes everything");
    }
    let aimed = columns(reports, |report| report.missed.values().sum());
    writeln!(text, "| aimed at a point not reached in time | {} | {} |", aimed.0, aimed.1).expect("a string takes it");
    text.push_str("\n| what took its time | times | median | worst | limit |\n|---|---|---|---|---|\n");
    let times = reports.iter().flat_map(|report| report.times.iter().map(move |times| (&report.scenario, times)));
    for (scenario, (what, Times { limit, all })) in times {
        let mut sorted = all.clone();
        sorted.sort();
        let (median, worst) = (sorted[sorted.len() / 2].as_secs_f64(), sorted[sorted.len() - 1].as_secs_f64());
        let line =
            format!("| {scenario}: {what} | {} | {median:.2} s | {worst:.2} s | {} s |", all.len(), limit.as_secs());
        writeln!(text, "{line}").expect("a string takes everything");
    }
    writeln!(text, "\n{} kills of the engine", kills(reports)).expect("a string takes everything");
    text
}

/// Times that the engine was killed.
pub fn kills(reports: &[Report]) -> u64 {
    let of = |faults: &BTreeMap<&'static str, u64>| {
        let is_kill = |name: &str| name == ANY_MOMENT || fault_point::ALL.contains(&name);
        faults.iter().filter(|(name, _)| is_kill(name)).map(|(_, n)| n).sum::<u64>()
    };
    reports.iter().map(|report| of(&report.faults) + of(&report.missed)).sum()
}

fn columns(reports: &[Report], count: impl Fn(&Report) -> u64) -> (u64, u64) {
    let sum = |embedded: bool| {
        let there = |report: &&Report| report.scenario.starts_with("embedded") == embedded;
        reports.iter().filter(there).map(&count).sum()
    };
    (sum(true), sum(false))
}
