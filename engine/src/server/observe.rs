//! The metrics of the server. No user data in labels.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Says what the metrics mean; once per process, after the recorder is in place.
pub fn describe() {
    describe_gauge!("keyloom_http_connections", Unit::Count, "Open connections of HTTP clients.");
    describe_counter!(
        "keyloom_http_connections_refused_total",
        Unit::Count,
        "Connections closed at once, because there were too many."
    );
    describe_counter!(
        "keyloom_http_connections_cut_total",
        Unit::Count,
        "Connections cut off, by reason: a head or a TLS handshake that did not arrive, an answer that nobody read."
    );
    describe_gauge!("keyloom_http_answer_bytes", Unit::Bytes, "Bytes of answers that wait for their readers.");
}

/// A connection begins.
pub fn opened() {
    gauge!("keyloom_http_connections").increment(1.0);
}

/// A connection has ended.
pub fn closed() {
    gauge!("keyloom_http_connections").decrement(1.0);
}

/// There was no room for a connection.
pub fn refused() {
    counter!("keyloom_http_connections_refused_total").increment(1);
}

/// A connection was cut off.
pub fn cut(reason: &'static str) {
    counter!("keyloom_http_connections_cut_total", "reason" => reason).increment(1);
}

/// Bytes of answers that wait for their readers.
pub fn answer_bytes(bytes: usize) {
    gauge!("keyloom_http_answer_bytes").set(bytes as f64);
}
