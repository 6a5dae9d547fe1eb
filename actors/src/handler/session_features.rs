//! The handler `session-features`: what most people want to know of a user, without writing code.
//!
//! Pure. Every collection is bounded; what does not fit is counted under [`OTHER`].

use std::{borrow::Cow, collections::BTreeMap, hash::BuildHasher};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Context, Fault, Features, Handler, State, recent_texts::RecentTexts};
use crate::{
    event::{EventRef, fields::FieldId},
    timestamp::{SECOND, Timestamp},
};

/// Where the counts of everything beyond a bound go.
pub const OTHER: &str = "(other)";

/// Most event types counted apart per key.
const EVENT_TYPES_MAX: usize = 64;
/// Distinct pages remembered per key.
const RECENT_PAGES_MAX: usize = 20;
/// Values remembered per kind of identifier: the newest ones.
const IDENTIFIERS_MAX: usize = 10;
/// Longest text that is remembered of a page, an event type or an identifier, in bytes.
const TEXT_BYTES_MAX: usize = 2_048;

/// The section `[handler.session-features]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFeaturesConfig {
    /// A pause in event time of at least this long begins a new session.
    session_gap: String,
    /// Fields that hold identifiers of the user.
    identifiers: Vec<String>,
}

impl Default for SessionFeaturesConfig {
    fn default() -> Self {
        Self {
            session_gap: "30m".to_owned(),
            identifiers: ["domain_userid", "user_id", "network_userid", "session_id"].map(str::to_owned).into(),
        }
    }
}

/// See the module.
pub struct SessionFeatures {
    session_gap_micros: i64,
    /// Names, with their ids so that looking one up compares no texts.
    identifiers: Vec<(String, FieldId)>,
    /// Seeded anew in every process, so that nobody can prepare values that pass for each other.
    hasher: hashbrown::DefaultHashBuilder,
}

/// What is remembered of a user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    #[serde(default)]
    event_count: u64,
    #[serde(default)]
    events_by_type: BTreeMap<CompactString, u64>,
    #[serde(default)]
    first_seen: Timestamp,
    #[serde(default)]
    last_seen: Timestamp,
    #[serde(default)]
    last_page: Option<(Timestamp, String)>,
    #[serde(default)]
    recent_pages: RecentTexts,
    #[serde(default)]
    session_count: u64,
    #[serde(default)]
    session: Session,
    /// By field, newest last.
    #[serde(default)]
    identifiers: BTreeMap<CompactString, RecentTexts>,
    #[serde(skip)]
    newest: Newest,
}

/// Hashes of the newest values of the first identifiers, by their place in the configuration: an event that says the same
/// again, as nearly all do, is done without looking for the value. 0: not known (the state was just read).
#[derive(Debug, Clone, Copy, Default)]
struct Newest([u64; 6]);

impl PartialEq for Newest {
    fn eq(&self, _: &Self) -> bool {
        true // a shortcut, not a part of the state
    }
}

/// The newest session. An event older than its beginning by more than the gap belongs to an earlier session, which is
/// over: it counts in the totals, and changes no session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Session {
    start: Timestamp,
    end: Timestamp,
    events: u64,
    pages: u64,
}

impl State for UserState {}

impl Handler for SessionFeatures {
    type Config = SessionFeaturesConfig;
    type Event<'e> = EventRef<'e>;
    type State = UserState;

    fn new(config: Self::Config) -> Result<Self, ConfigError> {
        let gap = parse_duration_micros(&config.session_gap).filter(|gap| *gap > 0).ok_or_else(|| {
            ConfigError(format!("session_gap is {:?}; expected a duration such as \"30m\"", config.session_gap))
        })?;
        let identifiers = config.identifiers.into_iter().map(|name| {
            let id = FieldId::of(&name);
            (name, id)
        });
        Ok(Self { session_gap_micros: gap, identifiers: identifiers.collect(), hasher: Default::default() })
    }

    fn on_event(&self, state: &mut UserState, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let time = context.event_time;
        state.first_seen = if state.event_count == 0 { time } else { state.first_seen.min(time) };
        state.last_seen = state.last_seen.max(time);
        state.event_count += 1;
        let kind = event.text(FieldId::Event).unwrap_or(Cow::Borrowed("(none)"));
        count_bounded(&mut state.events_by_type, bounded(&kind), EVENT_TYPES_MAX);
        let page = event.text(FieldId::PageUrl).filter(|p| !p.is_empty());
        if let Some(page) = &page {
            state.remember_page(time, bounded(page));
        }
        state.extend_session(time, kind == "page_view", self.session_gap_micros);
        for (at, (name, id)) in self.identifiers.iter().enumerate() {
            let Some(value) = event.find(*id, name) else { continue };
            let hash = self.hasher.hash_one(value.raw) | 1;
            if state.newest.0.get(at) == Some(&hash) {
                continue;
            }
            if let Some(value) = value.as_str().filter(|v| !v.is_empty()) {
                state.remember_identifier(name, bounded(&value));
                if let Some(newest) = state.newest.0.get_mut(at) {
                    *newest = hash;
                }
            }
        }
        Ok(())
    }

    fn features(&self, state: &UserState, features: &mut Features<'_>) {
        features.set("event_count", &state.event_count);
        features.set("events_by_type", &state.events_by_type);
        features.set("first_seen", &state.first_seen.to_rfc3339());
        features.set("last_seen", &state.last_seen.to_rfc3339());
        features.set("last_page", &state.last_page.as_ref().map(|(_, page)| page));
        features.set("recent_pages", &NewestFirst(&state.recent_pages));
        features.set("session_count", &state.session_count);
        features.set("session_events", &state.session.events);
        features.set("session_pages", &state.session.pages);
        features.set("session_seconds", &((state.session.end.0 - state.session.start.0) as f64 / SECOND as f64));
        features.set("identifiers", &state.identifiers);
    }
}

struct NewestFirst<'a>(&'a RecentTexts);

impl Serialize for NewestFirst<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().rev())
    }
}

impl UserState {
    fn remember_page(&mut self, time: Timestamp, page: &str) {
        match &mut self.last_page {
            // Late events do not change what the user saw last.
            Some((at, _)) if *at > time => {}
            Some((at, last)) => {
                *at = time;
                if last != page {
                    page.clone_into(last);
                }
            }
            none => *none = Some((time, page.to_owned())),
        }
        self.recent_pages.push(page, RECENT_PAGES_MAX);
    }

    fn remember_identifier(&mut self, name: &str, value: &str) {
        match self.identifiers.get_mut(name) {
            Some(values) => values.push(value, IDENTIFIERS_MAX),
            None => self.identifiers.entry(name.into()).or_default().push(value, IDENTIFIERS_MAX),
        }
    }

    fn extend_session(&mut self, time: Timestamp, is_page: bool, gap: i64) {
        let session = &mut self.session;
        if self.session_count == 0 || time.0 - session.end.0 >= gap {
            self.session_count += 1;
            *session = Session { start: time, end: time, events: 0, pages: 0 };
        } else if session.start.0 - time.0 >= gap {
            return;
        }
        session.start = session.start.min(time);
        session.end = session.end.max(time);
        session.events += 1;
        session.pages += u64::from(is_page);
    }
}

fn count_bounded(counts: &mut BTreeMap<CompactString, u64>, name: &str, max: usize) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        let name = if counts.len() < max { name } else { OTHER };
        *counts.entry(name.into()).or_default() += 1;
    }
}

/// The beginning of `text`, cut at a character within [`TEXT_BYTES_MAX`].
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Microseconds of `"250ms"`, `"30s"`, `"5m"`, `"2h"` or `"7d"`.
pub fn parse_duration_micros(text: &str) -> Option<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 1_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3_600 * SECOND,
        "d" => 86_400 * SECOND,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::handler::testing::HandlerTest;

    fn after(payloads: &[&str]) -> serde_json::Value {
        let mut test = HandlerTest::of::<SessionFeatures>(json!({}), &["domain_userid"]);
        test.advance_to(Timestamp(1_795_176_000_000_000));
        payloads.iter().for_each(|payload| test.json(payload).applied());
        test.features("u")
    }

    fn at(time: &str, rest: &str) -> String {
        format!(r#"{{"domain_userid":"u","collector_tstamp":"2026-11-20T{time}Z"{rest}}}"#)
    }

    #[test]
    fn sessions_are_split_by_a_gap_in_event_time() {
        let page = r#","event":"page_view","page_url":"/a""#;
        let events = [at("09:00:00", page), at("09:29:59", page), at("09:59:59", page), at("10:05:00", "")];
        let features = after(&events.each_ref().map(String::as_str));
        assert_eq!(features["session_count"], 2, "29:59 is no gap, 30:00 is");
        assert_eq!(features["session_events"], 2);
        assert_eq!(features["session_pages"], 1);
        assert_eq!(features["session_seconds"], 301.0);
        assert_eq!(features["events_by_type"], serde_json::json!({"page_view": 3, "(none)": 1}));
    }

    #[test]
    fn late_events_count_but_do_not_move_the_present() {
        let events = [
            at("10:00:00", r#","page_url":"/now""#),
            at("08:00:00", r#","page_url":"/then""#),
            at("09:59:00", r#","page_url":"/just""#),
        ];
        let features = after(&events.each_ref().map(String::as_str));
        assert_eq!(features["event_count"], 3);
        assert_eq!(features["last_page"], "/now");
        assert_eq!(features["first_seen"], "2026-11-20T08:00:00.000000Z");
        assert_eq!(features["session_count"], 1);
        assert_eq!(features["session_events"], 2, "the two hours old event belongs to a session that is over");
    }

    #[test]
    fn collections_are_bounded_and_newest_first() {
        let events: Vec<String> = (0..100)
            .map(|i| at("10:00:00", &format!(r#","event":"e{i}","page_url":"/{}","user_id":"id{i}""#, i % 30)))
            .collect();
        let features = after(&events.iter().map(String::as_str).collect::<Vec<_>>());
        let pages: Vec<String> = (0..20).map(|i| format!("/{}", (99 - i) % 30)).collect();
        assert_eq!(features["recent_pages"], serde_json::json!(pages));
        assert_eq!(features["events_by_type"][OTHER], 36);
        let ids: Vec<String> = (90..100).map(|i| format!("id{i}")).collect();
        assert_eq!(features["identifiers"]["user_id"], serde_json::json!(ids));
        assert_eq!(features["identifiers"]["domain_userid"], serde_json::json!(["u"]));
    }

    #[test]
    fn a_wrong_gap_is_refused() {
        for gap in ["30", "0s", "half an hour", "-5m", ""] {
            let config = SessionFeaturesConfig { session_gap: gap.to_owned(), ..Default::default() };
            assert!(SessionFeatures::new(config).is_err(), "{gap}");
        }
    }
}
