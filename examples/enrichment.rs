//! A handler that makes training data: each event becomes a row of the table `enriched`, with its session and with what was
//! known of the visitor *before* it. A model trained on these rows never sees the future.
//!
//! `cargo run --release -p keyloom-examples --example enrichment -- run config/enrichment.toml`

use std::process::ExitCode;

use keyloom_actors::{
    event::{EventRef, fields::FieldId},
    handler::{
        ConfigError, Context, Fault, Features, Handler, State,
        row::{EmittedTable, Row},
    },
    timestamp::{SECOND, Timestamp},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.session-enrichment]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A visitor who was away for longer than this begins a new session.
    #[serde(default = "half_an_hour")]
    session_gap_seconds: i64,
}

fn half_an_hour() -> i64 {
    1_800
}

/// What is kept of a page's address, in bytes: the state is written at every checkpoint, whatever somebody sends.
const PAGE_BYTES_MAX: usize = 2_048;

struct Enrichment {
    gap: i64,
}

/// What is remembered per visitor.
#[derive(Default, Serialize, Deserialize)]
struct Visitor {
    event_count: i64,
    purchases: i64,
    session: i64,
    session_events: i64,
    last_seen: Option<Timestamp>,
    last_page: Option<String>,
}

impl State for Visitor {}

/// A row of the table. `..._before` is as it was when the event came.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Enriched {
    event: Option<String>,
    page: Option<String>,
    session: i64,
    event_of_session: i64,
    events_before: i64,
    purchases_before: i64,
    page_before: Option<String>,
    seen_before: Option<Timestamp>,
}

impl Row for Enriched {
    const TABLE: &'static str = "enriched";
    const TIMES: &'static [&'static str] = &["seen_before"];
}

impl Handler for Enrichment {
    type Config = Config;
    type Event<'e> = EventRef<'e>;
    type State = Visitor;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.session_gap_seconds < 1 {
            return Err(ConfigError("session_gap_seconds must be 1 or more".to_owned()));
        }
        Ok(Self { gap: config.session_gap_seconds.saturating_mul(SECOND) })
    }

    fn tables() -> Vec<EmittedTable> {
        vec![EmittedTable::of::<Enriched>()]
    }

    fn on_event(&self, visitor: &mut Visitor, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let time = context.event_time;
        let is_new_session = visitor.last_seen.is_none_or(|last| time.0 - last.0 > self.gap);
        let session = visitor.session + i64::from(is_new_session);
        let event_of_session = if is_new_session { 1 } else { visitor.session_events + 1 };
        let name = event.text(FieldId::Event).map(String::from);
        let page = event.text(FieldId::PageUrl).map(|page| page[..page.floor_char_boundary(PAGE_BYTES_MAX)].to_owned());
        let is_purchase = name.as_deref() == Some("purchase");
        // The state changes behind this: a row that is too large rejects its event.
        context.emit(&Enriched {
            event: name,
            page: page.clone(),
            session,
            event_of_session,
            events_before: visitor.event_count,
            purchases_before: visitor.purchases,
            page_before: visitor.last_page.clone(),
            seen_before: visitor.last_seen,
        })?;
        visitor.event_count += 1;
        visitor.purchases += i64::from(is_purchase);
        visitor.session = session;
        visitor.session_events = event_of_session;
        visitor.last_page = page.or(visitor.last_page.take());
        visitor.last_seen = visitor.last_seen.max(Some(time));
        Ok(())
    }

    fn features(&self, visitor: &Visitor, features: &mut Features<'_>) {
        features.set("event_count", &visitor.event_count);
        features.set("purchases", &visitor.purchases);
        features.set("session", &visitor.session);
        features.set("session_events", &visitor.session_events);
        features.set("last_page", &visitor.last_page);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<Enrichment>("session-enrichment").main()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyloom_actors::handler::testing::HandlerTest;
    use serde_json::{Value, json};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shop() -> HandlerTest {
        HandlerTest::of::<Enrichment>(json!({}), &["domain_userid"])
    }

    fn event(name: &str, page: &str) -> Value {
        json!({ "domain_userid": "ada", "event": name, "page_url": page })
    }

    #[test]
    fn a_row_knows_what_was_before_its_event_and_nothing_later() {
        let mut test = shop();
        let began = test.now();
        test.event(event("page_view", "/shoes")).applied();
        test.advance(MINUTE);
        test.event(event("purchase", "/pay")).applied();
        test.event(json!({ "domain_userid": "ada" })).applied();
        let rows = test.rows::<Enriched>();
        let first = Enriched {
            event: Some("page_view".to_owned()),
            page: Some("/shoes".to_owned()),
            session: 1,
            event_of_session: 1,
            events_before: 0,
            purchases_before: 0,
            page_before: None,
            seen_before: None,
        };
        assert_eq!(rows[0], first);
        assert_eq!((rows[1].purchases_before, rows[1].seen_before), (0, Some(began)));
        assert_eq!((rows[2].purchases_before, rows[2].page_before.as_deref()), (1, Some("/pay")));
        assert_eq!((&rows[2].event, &rows[2].page), (&None, &None));
        assert_eq!(test.features("ada")["last_page"], "/pay", "an event without a page does not forget it");
    }

    #[test]
    fn a_pause_begins_a_new_session_and_a_late_event_does_not() {
        let mut test = shop();
        test.event(event("page_view", "/a")).applied();
        test.advance(30 * MINUTE);
        test.event(event("page_view", "/b")).applied();
        test.advance(31 * MINUTE);
        let mut late = event("page_view", "/late");
        late["collector_tstamp"] = test.ago(45 * MINUTE).into();
        test.event(event("page_view", "/c")).applied();
        test.event(late).applied();
        test.advance(30 * MINUTE);
        test.event(event("page_view", "/d")).applied();
        let sessions: Vec<_> = test.rows::<Enriched>().iter().map(|row| (row.session, row.event_of_session)).collect();
        assert_eq!(sessions, [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(test.features("ada")["session"], 2);
    }

    #[test]
    fn a_row_that_is_too_large_changes_nothing_and_a_long_page_is_cut() {
        let mut test = shop();
        let name = "x".repeat(300_000);
        assert!(test.event(event(&name, "/a")).rejected().contains("bytes"));
        assert_eq!(test.features("ada")["session"], 0);
        test.event(event("page_view", &format!("x{}", "é".repeat(2_000)))).applied();
        let page = test.rows::<Enriched>()[0].page.clone().unwrap_or_default();
        assert_eq!((page.len(), page.chars().last()), (PAGE_BYTES_MAX - 1, Some('é')));
        assert_eq!(test.features("ada")["last_page"], page);
    }

    #[test]
    fn repeats_make_no_rows() {
        let mut test = shop();
        let mut once = event("page_view", "/a");
        once["event_id"] = "e1".into();
        test.event(once.clone()).applied();
        test.event(once).duplicate();
        assert_eq!((test.rows::<Enriched>().len(), &test.features("ada")["event_count"]), (1, &json!(1)));
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused() {
        for gap in [0, -1] {
            let reason = HandlerTest::refused::<Enrichment>(json!({ "session_gap_seconds": gap }));
            assert_eq!(reason, "session_gap_seconds must be 1 or more");
        }
    }
}
