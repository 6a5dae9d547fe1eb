//! Refusals as gRPC statuses, in the words of HTTP.

use std::time::Duration;

use tonic::{Code, Status, metadata::MetadataValue};

use super::arrival::{Intake, Missed};
use crate::{
    faces, features,
    front_door::{self, refusal::RETRY_AFTER_SECONDS},
};

/// The status of a request of events that was refused as a whole.
pub(super) fn of_events(refusal: &front_door::Refusal) -> Status {
    let code = match refusal {
        front_door::Refusal::Denied(denied) => Code::from_i32(denied.grpc_code().into()),
        other => code(other.code()),
    };
    status(code, &refusal.to_string(), refusal.hint(), refusal.retry_after())
}

/// The status of a question about features that was refused.
pub(super) fn of_features(refusal: &features::Refusal) -> Status {
    let retry_after = refusal.passes().then_some(RETRY_AFTER_SECONDS);
    status(code(refusal.code()), &refusal.to_string(), refusal.hint(), retry_after)
}

/// The status of a call whose events did not come in; counted as HTTP counts its answers.
pub(super) fn of_missed_events(intake: &Intake, missed: Missed, took: Duration) -> Status {
    let is_protocol = matches!(missed, Missed::Protocol(_)); // which gRPC itself has a status for
    let refusal = match missed {
        Missed::NoRoom => front_door::Refusal::Busy,
        Missed::Slow => front_door::Refusal::Slow(intake.timeout.as_secs()),
        Missed::TooLarge => front_door::Refusal::TooLarge(intake.bytes_max),
        Missed::Damaged(text) | Missed::Protocol(text) => front_door::Refusal::Malformed(text),
    };
    front_door::observe::answered(refusal.code(), took);
    if is_protocol { Status::internal(refusal.to_string()) } else { of_events(&refusal) }
}

/// The same for a question about features.
pub(super) fn of_missed_question(_: &Intake, missed: Missed, took: Duration) -> Status {
    let is_protocol = matches!(missed, Missed::Protocol(_));
    let refusal = match missed {
        Missed::NoRoom => features::Refusal::NoRoom,
        Missed::Slow => features::Refusal::Slow,
        Missed::TooLarge => features::Refusal::BodyTooLarge,
        Missed::Damaged(text) | Missed::Protocol(text) => features::Refusal::Wrong(text),
    };
    faces::observe::feature_request(refusal.code(), took.as_secs_f64());
    if is_protocol { Status::internal(refusal.to_string()) } else { of_features(&refusal) }
}

/// By the HTTP code that the same refusal has.
fn code(http: u16) -> Code {
    match http {
        400 | 405 | 413 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 => Code::DeadlineExceeded,
        429 => Code::ResourceExhausted,
        500 => Code::Internal,
        503 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

fn status(code: Code, error: &str, hint: &str, retry_after: Option<u64>) -> Status {
    let mut status = Status::new(code, format!("{error}; {hint}"));
    if let Some(seconds) = retry_after {
        // What retry policies of clients read, and what people do.
        status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(seconds.saturating_mul(1_000)));
        status.metadata_mut().insert("retry-after", MetadataValue::from(seconds));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_http_and_what_passes_says_when() {
        let busy = of_events(&front_door::Refusal::Busy);
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert_eq!(busy.metadata().get("grpc-retry-pushback-ms").map(|v| v.as_bytes()), Some(&b"1000"[..]));
        let unknown = of_events(&front_door::Refusal::Unavailable("gone".into()));
        assert_eq!(unknown.code(), Code::Unavailable);
        assert!(unknown.message().contains("same event ids"), "{unknown}");
        let wrong = of_events(&front_door::Refusal::TooMany(3));
        assert_eq!((wrong.code(), wrong.metadata().is_empty()), (Code::InvalidArgument, true));
        assert_eq!(of_features(&features::Refusal::Unavailable("x".into())).code(), Code::Unavailable);
    }
}
