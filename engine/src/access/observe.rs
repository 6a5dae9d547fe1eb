//! The metrics of access. No user data in labels.

use metrics::{Unit, counter, describe_counter};

use super::Denied;

/// Says what the metrics mean; once per process, after the recorder is in place.
pub fn describe() {
    describe_counter!("keyloom_http_refused_total", Unit::Count, "Requests that were not let in, by reason.");
}

/// One request was turned away.
pub fn refused(denied: &Denied) {
    counter!("keyloom_http_refused_total", "reason" => denied.reason()).increment(1);
}
