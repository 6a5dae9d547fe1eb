//! What DynamoDB's errors mean for answers on their way, and for the person who reads the log.
//!
//! Pure: codes and texts in, a judgement out.

/// What follows from an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Worth trying again: throttled, or out of order for a moment.
    Again(String),
    /// This item will never fit.
    Unfit(String),
    /// A person must change something first.
    Refused(String),
}

/// Judges an error of `table`: its `code` when DynamoDB answered at all, and what was `said`.
pub(super) fn judge(table: &str, code: Option<&str>, said: &str) -> Answer {
    let refused = |advice: &str| Answer::Refused(format!("{said}; {advice}"));
    match code {
        None => Answer::Again(said.to_owned()),
        Some("ResourceNotFoundException") => refused(&format!(
            "make table {table} with the partition key `key`, a string, and no sort key, or name another"
        )),
        Some("AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException") => refused(
            "check the credentials of [backend]: they need dynamodb:GetItem, dynamodb:PutItem and dynamodb:UpdateItem on \
             the table",
        ),
        Some("ExpiredTokenException" | "MissingAuthenticationTokenException" | "IncompleteSignature") => {
            refused("check the credentials of [backend]")
        }
        Some("ValidationException") if said.contains("Item size") => Answer::Unfit(said.to_owned()),
        Some("ValidationException") => {
            refused(&format!("table {table} needs the partition key `key`, a string, and no sort key"))
        }
        Some(_) => Answer::Again(said.to_owned()), // throttling, internal errors, and what is not known yet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_who_can_help() {
        let judged = |code, said| judge("features", code, said);
        for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "InternalServerError", "New"] {
            assert_eq!(judged(Some(code), "later"), Answer::Again("later".to_owned()), "{code}");
        }
        assert!(matches!(judged(None, "nobody listens"), Answer::Again(_)));
        for (code, advice) in [
            ("ResourceNotFoundException", "make table features"),
            ("AccessDeniedException", "dynamodb:PutItem"),
            ("ExpiredTokenException", "credentials of [backend]"),
            ("ValidationException", "partition key `key`"),
        ] {
            let Answer::Refused(text) = judged(Some(code), "no") else { panic!("{code}") };
            assert!(text.contains(advice), "{text}");
        }
        let size = "Item size has exceeded the maximum allowed size";
        assert_eq!(judged(Some("ValidationException"), size), Answer::Unfit(size.to_owned()));
    }
}
