//! What must hold between the sections of a topology, each with what to do about it.
//!
//! Pure: single values are checked where they are read.

use std::time::Duration;

use keyloom_actors::event::key_paths::SUBJECT;

use super::{
    HandlerCatalog,
    features::Windowed,
    names,
    problems::{printable, quoted},
    reader::Reader,
    resolved::{Table, TableFrom},
    sections::Parts,
    units::duration_text,
};

/// The log keeps events at least this much longer than anything may take to follow it.
const RETENTION_MARGIN: Duration = Duration::from_secs(60);

/// Where the front door publishes, see `subjects`.
const FRONT_DOOR_SUBJECT: &str = "events.http";

/// Notes everything that does not fit together.
pub(super) fn check(r: &mut Reader<'_>, parts: &Parts<'_>, catalog: &dyn HandlerCatalog) {
    homes(r, parts);
    retention(r, parts);
    windows(r, parts);
    feature_names(r, parts, catalog);
    subjects(r, parts);
    key_subjects(r, parts);
    sizes(r, parts);
}

fn homes(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let (Some(log), Some(store)) = (parts.log_kind, parts.store_kind) else { return };
    if log != store {
        let message = format!("[store] kind: the log's home is \"{log}\", and this is \"{store}\"");
        let help = format!("the log and the store live in the same home: set kind = \"{log}\" here, or change [log]");
        r.relation(parts.store.section.span_of("kind"), message, help);
    }
    let nats = &parts.nats.section;
    if log == "nats" && !nats.is_given() {
        let help = "add a section [nats] with url = \"nats://127.0.0.1:4222\"";
        r.relation(parts.log.section.span_of("kind"), "[log] kind: \"nats\" needs a server", help);
    }
    if nats.is_given() && log != "nats" && store != "nats" {
        let help = "remove this section, or set kind = \"nats\" in [log] and [store]";
        r.relation(nats.span(), "[nats]: nothing uses it", help);
    }
}

fn retention(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let Some(age) = parts.retention.and_then(|r| r.age) else { return };
    let log = &parts.log.section;
    let span = log.span_of("retention");
    let mut need = |what: String, time: Duration, margin: Duration| {
        if age < time.saturating_add(margin) {
            let message = format!("[log] retention: events go after {}, but {what}", duration_text(age));
            let least = duration_text(time.saturating_add(margin));
            r.relation(span.clone(), message, format!("keep events for at least {least}, or shorten the other"));
        }
    };
    let of_log = |table: &Table| table.from == TableFrom::Events;
    for (name, table) in parts.tables.iter().filter(|(_, table)| of_log(table)) {
        let cut = table.cut.age;
        need(format!("table {name} may take {} to finish a file", duration_text(cut)), cut, RETENTION_MARGIN);
    }
    if let Some(every) = parts.checkpoint_every {
        need(format!("checkpoints are {} apart", duration_text(every)), every, RETENTION_MARGIN);
    }
    if let Some(window) = parts.dedupe_window {
        need(format!("dedupe_window is {}", duration_text(window)), window, Duration::ZERO);
    }
}

/// What the log has forgotten cannot be computed again: a window that began before that would be wrong after it.
fn windows(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let Some(age) = parts.retention.and_then(|r| r.age) else { return };
    for Windowed { feature, length, span } in parts.windows.iter().filter(|w| w.length > age) {
        let (length, kept) = (duration_text(*length), duration_text(age));
        let message =
            format!("[feature.{}] window: it covers {length}, but the log keeps events for {kept}", printable(feature));
        let help = format!("set retention = {{ age = \"{length}\" }} or more in [log], or shorten the window");
        r.relation(span.clone(), message, help);
    }
}

/// A feature has one value: the handler's or the declared one.
fn feature_names(r: &mut Reader<'_>, parts: &Parts<'_>, catalog: &dyn HandlerCatalog) {
    let Some(sessions) = parts.sessions.value.as_ref().filter(|_| !parts.feature_names.is_empty()) else { return };
    let handler = &sessions.handler;
    let none = serde_json::json!({});
    let taken = catalog.features(handler, parts.handlers.get(handler).unwrap_or(&none));
    for (name, span) in parts.feature_names.iter().filter(|(name, _)| taken.contains(name)) {
        let message = format!("[feature.{name}]: the handler {handler} has a feature of this name");
        r.relation(span.clone(), message, "choose another name: an answer has one value for each");
    }
}

fn subjects(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let (Some(subjects), Some(partitions)) = (&parts.subjects, parts.partitions) else { return };
    let span = parts.log.section.span_of("subjects");
    if partitions > 1 {
        if subjects.iter().ne(["events.>"]) {
            let message = format!("[log] subjects: with {partitions} partitions they are not a choice");
            let help = "remove the line: partition p takes keyloom.events.<p>.>, in a stream of its own";
            r.relation(span, message, help);
        }
        return;
    }
    for (i, a) in subjects.iter().enumerate() {
        for b in subjects.iter().skip(i + 1).filter(|b| names::subjects_overlap(a, b)) {
            let message = format!("[log] subjects: {} and {} overlap", quoted(a), quoted(b));
            r.relation(span.clone(), message, "keep the wider one: NATS refuses a stream that takes a subject twice");
        }
    }
    if !subjects.iter().any(|s| names::subjects_overlap(s, FRONT_DOOR_SUBJECT)) {
        let message = format!("[log] subjects: none takes {FRONT_DOOR_SUBJECT}, where the front door publishes");
        r.relation(span, message, "add \"events.>\"");
    }
}

/// Only what others publish to NATS has a subject that says anything.
fn key_subjects(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let Some(sessions) = parts.sessions.value.as_ref().filter(|_| parts.log_kind == Some("embedded")) else { return };
    for path in sessions.key.iter().filter(|path| path.starts_with(SUBJECT)) {
        let message =
            format!("[sessions] key: {} finds nothing: events of an embedded log have no subject", quoted(path));
        r.relation(
            parts.sessions.section.span_of("key"),
            message,
            "remove it, or set kind = \"nats\" in [log] and [store]",
        );
    }
}

fn sizes(r: &mut Reader<'_>, parts: &Parts<'_>) {
    if let Some(http) = &parts.http.value
        && http.event_max > http.body_max
    {
        let message = "[http] event_max: larger than body_max, so such an event could never arrive";
        r.relation(parts.http.section.span_of("event_max"), message, "lower event_max or raise body_max");
    }
    if let (Some(http), Some(engine)) = (&parts.http.value, &parts.engine.value)
        && http.event_max > engine.in_flight_max
    {
        let message = "[engine] in_flight_max: smaller than the largest event ([http] event_max)";
        r.relation(parts.engine.section.span_of("in_flight_max"), message, "raise it, or lower event_max");
    }
}
