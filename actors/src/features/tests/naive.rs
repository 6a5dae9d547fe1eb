//! The oracle: all events of a key in a list, counted again for every answer. Own windows, own sessions, own numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cases::{Case, Ev, Expected, Val, decimal, path},
    oracle::{GAP, LATENESS},
    *,
};

/// One key as the oracle sees it.
#[derive(Default)]
pub(super) struct Naive {
    /// Events that were not late, in the order of the log.
    pub(super) events: Vec<Ev>,
    /// Sessions, with the places of their events.
    pub(super) sessions: Vec<Vec<usize>>,
    pub(super) late: u64,
    pub(super) late_session: u64,
}

impl Naive {
    pub(super) fn newest(&self) -> i64 {
        self.events.iter().map(|e| e.time).max().unwrap_or(i64::MIN)
    }

    pub(super) fn take(&mut self, event: &Ev) {
        if !self.events.is_empty() && event.time < self.newest() - LATENESS {
            self.late += 1;
            return;
        }
        let end = |session: &Vec<usize>| session.iter().map(|i| self.events[*i].time).max();
        let begin = |session: &Vec<usize>| session.iter().map(|i| self.events[*i].time).min();
        let place = self.events.len();
        let before = self.sessions.len().checked_sub(2).and_then(|i| end(&self.sessions[i]));
        match self.sessions.last() {
            Some(newest) if event.time - end(newest).expect("it has events") < GAP => {
                let over = begin(newest).expect("it has events") - event.time >= GAP;
                if over || before.is_some_and(|end| event.time <= end) {
                    self.late_session += 1;
                } else {
                    self.sessions.last_mut().expect("it is there").push(place);
                }
            }
            _ => self.sessions.push(vec![place]),
        }
        self.events.push(event.clone());
    }

    /// The events that a window at `now` covers; `exact` for functions that know the times of their events.
    pub(super) fn covered(&self, window: Option<Window>, now: i64, exact: bool) -> Vec<&Ev> {
        let micros = |d: Duration| d.as_micros() as i64;
        let all = self.events.iter();
        match window {
            None | Some(Window::Lifetime) => all.collect(),
            Some(Window::Tumbling(length)) => {
                all.filter(|e| e.time.div_euclid(micros(length)) == now.div_euclid(micros(length))).collect()
            }
            Some(Window::Sliding(length)) => {
                let begin = now - micros(length);
                let hop = micros(length) / 60;
                let begin = if exact { begin } else { begin - begin.rem_euclid(hop) };
                all.filter(|e| e.time >= begin).collect()
            }
            Some(Window::Session) => {
                let Some(session) = self.sessions.last() else { return Vec::new() };
                let events: Vec<&Ev> = session.iter().map(|i| &self.events[*i]).collect();
                let end = events.iter().map(|e| e.time).max().unwrap_or(i64::MIN);
                if now - end < GAP { events } else { Vec::new() }
            }
        }
    }

    pub(super) fn expected(&self, case: &Case, now: i64) -> Expected {
        let function = case.definition.function.name();
        if function.starts_with("session_") {
            return Expected::Exactly(self.of_session(function, now));
        }
        let exact = matches!(function, "last" | "last_k" | "last_distinct_k");
        let events: Vec<&Ev> =
            self.covered(case.definition.window, now, exact).into_iter().filter(|e| (case.filter)(e)).collect();
        let none = || Expected::Exactly("null".to_owned());
        if case.definition.of.is_none() {
            let first = events.iter().map(|e| e.time).min();
            let last = events.iter().map(|e| e.time).max();
            return match function {
                "count" => Expected::Exactly(events.len().to_string()),
                "time_since_first" => first.map_or_else(none, |t| Expected::Exactly(decimal((now - t).into(), 6))),
                "time_since_last" => last.map_or_else(none, |t| Expected::Exactly(decimal((now - t).into(), 6))),
                _ => Expected::Near(events.iter().map(|e| faded(now - e.time)).sum(), 1e-9),
            };
        }
        let valued: Vec<(i64, Val)> = events.iter().filter_map(|e| Some((e.time, (case.value)(e)?))).collect();
        let cents: Vec<i128> =
            valued.iter().filter_map(|(_, v)| if let Val::Cents(c) = v { Some(*c) } else { None }).collect();
        let n = cents.len() as i128;
        let sum: i128 = cents.iter().sum();
        let list = |values: &[String]| Expected::Exactly(format!("[{}]", values.join(",")));
        // A stable order by time keeps the log's order of equal times.
        let mut by_time: Vec<(i64, String)> = valued.iter().map(|(t, v)| (*t, v.json())).collect();
        by_time.sort_by_key(|(t, _)| *t);
        let newest_first: Vec<String> = by_time.iter().rev().map(|(_, v)| v.clone()).collect();
        let k = case.definition.k.unwrap_or(1) as usize;
        match function {
            "count" => Expected::Exactly(valued.len().to_string()),
            "sum" => Expected::Exactly(decimal(sum, 2)),
            "avg" if n == 0 => none(),
            "avg" => Expected::Near(sum as f64 / n as f64 / 100.0, 1e-12),
            "stddev" if n == 0 => none(),
            "stddev" => {
                let squares: i128 = cents.iter().map(|c| c * c).sum();
                Expected::Near(((n * squares - sum * sum) as f64).sqrt() / n as f64 / 100.0, 1e-12)
            }
            "min" => cents.iter().min().map_or_else(none, |c| Expected::Exactly(decimal(*c, 2))),
            "max" => cents.iter().max().map_or_else(none, |c| Expected::Exactly(decimal(*c, 2))),
            "first" => {
                // Of equal times the first in the log.
                by_time.first().map_or_else(none, |(_, v)| Expected::Exactly(v.clone()))
            }
            "last" => newest_first.first().map_or_else(none, |v| Expected::Exactly(v.clone())),
            "last_k" => list(&newest_first[..newest_first.len().min(k)]),
            "last_distinct_k" => {
                let mut kept: Vec<String> = Vec::new();
                for value in newest_first {
                    if !kept.contains(&value) && kept.len() < k {
                        kept.push(value);
                    }
                }
                list(&kept)
            }
            "approx_distinct" => {
                let distinct = valued.iter().map(|(_, v)| v.json()).collect::<BTreeSet<_>>().len();
                // Exact while hashes are kept; six standard errors else, for there are very many comparisons.
                let error = if distinct <= 256 / 8 { 0.0 } else { 6.0 * 1.04 / 16.0 };
                Expected::Near(distinct as f64, error)
            }
            "distinct" => {
                let all: BTreeSet<String> = valued.iter().map(|(_, v)| v.json()).collect();
                let kept: Vec<String> = all.iter().take(40).cloned().collect();
                Expected::Exactly(format!(r#"{{"values":[{}],"more":{}}}"#, kept.join(","), all.len() > 40))
            }
            "exp_decay" => {
                let faded = valued.iter().map(|(t, v)| match v {
                    Val::Cents(cents) => *cents as f64 / 100.0 * faded(now - t),
                    Val::Text(_) => 0.0,
                });
                Expected::Near(faded.sum(), 1e-9)
            }
            "top_k" => {
                let mut counts: BTreeMap<String, u64> = BTreeMap::new();
                valued.iter().for_each(|(_, v)| *counts.entry(v.json()).or_default() += 1);
                let mut order: Vec<(String, u64)> = counts.into_iter().collect();
                let exact = order.len() <= 60;
                order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
                let entry = |(v, n): &(String, u64)| format!(r#"{{"value":{v},"count":{n},"error":0}}"#);
                if exact {
                    return list(&order.iter().take(k).map(entry).collect::<Vec<_>>());
                }
                Expected::Top(order.into_iter().collect())
            }
            other => panic!("the oracle does not know {other}"),
        }
    }

    pub(super) fn of_session(&self, function: &str, now: i64) -> String {
        let Some(session) = self.sessions.last() else {
            return match function {
                "session_index" => "0",
                "session_active" => "false",
                _ => "null",
            }
            .to_owned();
        };
        let mut events: Vec<&Ev> = session.iter().map(|i| &self.events[*i]).collect();
        events.sort_by_key(|e| e.time);
        let (begin, end) = (events[0].time, events[events.len() - 1].time);
        let pages: Vec<&Ev> = events.iter().copied().filter(|e| e.kind == "page_view").collect();
        let quoted = |e: Option<&&Ev>| e.and_then(|e| e.page).map_or("null".to_owned(), |p| format!("\"{}\"", path(p)));
        match function {
            "session_index" => self.sessions.len().to_string(),
            "session_active" => (now - end < GAP).to_string(),
            "session_duration" => decimal((end - begin).into(), 6),
            "session_events" => events.len().to_string(),
            "session_pages" => pages.len().to_string(),
            "session_entry_page" => quoted(pages.iter().find(|e| e.page.is_some())),
            "session_exit_page" => quoted(pages.iter().rev().find(|e| e.page.is_some())),
            "session_bounce" => {
                let is_other = |e: &&Ev| !["page_view", "page_ping"].contains(&e.kind);
                (pages.len() <= 1 && !events.iter().copied().any(|e| is_other(&e))).to_string()
            }
            _ => (10 * events.iter().map(|e| e.time.div_euclid(secs(10))).collect::<BTreeSet<_>>().len()).to_string(),
        }
    }
}

pub(super) fn faded(age: i64) -> f64 {
    0.5f64.powf(age as f64 / secs(900) as f64)
}
