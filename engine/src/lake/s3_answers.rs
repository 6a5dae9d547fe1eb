//! What S3 answered, in words: whether trying again can help, and otherwise what a person has to change.
//!
//! Pure: no client in here. The texts name the settings of `[lake]` as the topology spells them.

use keyloom_actors::ports::LakeError;

use crate::aws;

/// Longest part of a foreign server's text that is passed on.
const MESSAGE_CHARS_MAX: usize = 300;

/// A bucket as the texts speak of it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Name of the bucket.
    pub(super) bucket: String,
    /// Region that requests are signed for.
    pub(super) region: String,
    /// Where it is, unless at AWS.
    pub(super) endpoint: Option<String>,
}

/// An answer that is not the one hoped for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer<'a> {
    /// HTTP status.
    pub(super) status: u16,
    /// S3's error code, empty when there is none.
    pub(super) code: &'a str,
    /// S3's own words.
    pub(super) message: &'a str,
    /// The region that the bucket is in, where S3 says so.
    pub(super) region: Option<&'a str>,
}

impl Place {
    /// Where requests go.
    pub(super) fn address(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => format!("AWS S3 in region {}", self.region),
        }
    }

    /// What `answer` to the attempt at `doing` means.
    pub(super) fn judge(&self, doing: &str, answer: Answer<'_>) -> LakeError {
        let Answer { status, code, message, .. } = answer;
        let message: String = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
        let words = [&status.to_string(), code, &message].map(str::to_owned);
        let said = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        let (bucket, address) = (&self.bucket, self.address());
        let text = format!("{doing} in bucket {bucket:?} at {address}: {said}");
        if is_passing(status, code) {
            return LakeError::Unavailable(text);
        }
        if status < 300 {
            return LakeError::Unavailable(format!("{text}; this is not how S3 answers: check [lake] endpoint"));
        }
        LakeError::Refused(format!("{text}; {}", self.advice(answer)))
    }

    fn advice(&self, answer: Answer<'_>) -> String {
        let (bucket, address) = (&self.bucket, self.address());
        match (answer.code, answer.status) {
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId", _) => format!(
                "{address} does not know these credentials: check access key, secret key and session token, and that \
                 they belong to this endpoint"
            ),
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => {
                "the credentials have expired: renew them and start again".to_owned()
            }
            ("RequestTimeTooSkewed", _) => "the clock of this machine is wrong: set it".to_owned(),
            ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
            | ("", 301 | 307 | 308) => match answer.region {
                Some(region) => format!("the bucket is in another region: set [lake] region = {region:?}"),
                None => format!("check [lake] region (now {:?}) and endpoint: the bucket is elsewhere", self.region),
            },
            ("NoSuchBucket", _) | ("", 404) => format!(
                "the bucket does not exist there. Check [lake] bucket, region and endpoint; keyloom creates no \
                 buckets, so if it is new, create it: {}",
                self.create_command()
            ),
            ("InvalidBucketName", _) => format!("{bucket:?} cannot be the name of a bucket: correct [lake] bucket"),
            ("KeyTooLongError", _) => "the name is too long for this store: shorten [lake] prefix".to_owned(),
            ("EntityTooLarge", _) => "the file is too large for this store: lower the table's cut.bytes".to_owned(),
            ("NotImplemented", _) | (_, 405 | 501) => {
                format!("{address} lacks a part of S3 that keyloom needs: check [lake] endpoint")
            }
            (_, 401 | 403) => {
                "grant these credentials s3:ListBucket on the bucket, and s3:PutObject and s3:DeleteObject on \
                               what is below [lake] prefix; a bucket of somebody else answers the same"
                    .to_owned()
            }
            _ => "check [lake] bucket, prefix, region and endpoint".to_owned(),
        }
    }

    fn create_command(&self) -> String {
        let endpoint = self.endpoint.as_ref().map(|e| format!(" --endpoint-url {e}")).unwrap_or_default();
        format!("aws s3 mb s3://{} --region {}{endpoint}", self.bucket, self.region)
    }
}

/// Whether the same request may well succeed later without anybody's doing.
fn is_passing(status: u16, code: &str) -> bool {
    let by_code = matches!(
        code,
        "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "OperationAborted"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "BandwidthLimitExceeded"
    );
    by_code || matches!(status, 408 | 425 | 429 | 500 | 502..) && code != "NotImplemented"
}

/// Checks an endpoint's address, see [`aws::check_endpoint`].
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), LakeError> {
    aws::check_endpoint(endpoint).map_err(|problem| LakeError::Refused(format!("[lake] endpoint: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(endpoint: Option<&str>) -> Place {
        Place { bucket: "lake".to_owned(), region: "eu-west-1".to_owned(), endpoint: endpoint.map(str::to_owned) }
    }

    fn judged(status: u16, code: &str) -> LakeError {
        let answer = Answer { status, code, message: "as S3 says", region: Some("eu-central-1") };
        place(None).judge("storing t/x.parquet", answer)
    }

    #[test]
    fn what_passes_is_tried_again() {
        let passing = [
            (500, "InternalError"),
            (503, "SlowDown"),
            (503, ""),
            (502, ""),
            (504, ""),
            (599, ""),
            (429, ""),
            (408, ""),
            (400, "RequestTimeout"),
            (409, "OperationAborted"),
            (400, "Throttling"),
            (200, ""),
        ];
        for (status, code) in passing {
            let judged = judged(status, code);
            assert!(matches!(&judged, LakeError::Unavailable(text) if text.contains("as S3 says")), "{judged:?}");
        }
    }

    #[test]
    fn what_a_person_must_change_says_what() {
        let advice = [
            (404, "NoSuchBucket", "create it: aws s3 mb s3://lake --region eu-west-1"),
            (404, "", "create it"),
            (403, "AccessDenied", "s3:PutObject"),
            (403, "", "s3:ListBucket"),
            (401, "", "s3:ListBucket"),
            (403, "InvalidAccessKeyId", "does not know these credentials"),
            (403, "SignatureDoesNotMatch", "does not know these credentials"),
            (400, "ExpiredToken", "renew them"),
            (403, "RequestTimeTooSkewed", "clock"),
            (301, "PermanentRedirect", "set [lake] region = \"eu-central-1\""),
            (301, "", "set [lake] region = \"eu-central-1\""),
            (400, "AuthorizationHeaderMalformed", "set [lake] region"),
            (400, "KeyTooLongError", "shorten [lake] prefix"),
            (501, "NotImplemented", "lacks a part of S3"),
            (400, "Whatever", "check [lake] bucket"),
        ];
        for (status, code, expected) in advice {
            let judged = judged(status, code);
            let LakeError::Refused(text) = &judged else { panic!("{status} {code}: {judged:?}") };
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("storing t/x.parquet in bucket \"lake\" at AWS S3 in region eu-west-1"), "{text}");
        }
    }

    #[test]
    fn the_command_to_create_a_bucket_names_the_endpoint() {
        let answer = Answer { status: 404, code: "NoSuchBucket", ..Answer::default() };
        let text = place(Some("http://127.0.0.1:9000")).judge("opening the lake", answer).to_string();
        let command = "aws s3 mb s3://lake --region eu-west-1 --endpoint-url http://127.0.0.1:9000";
        assert!(text.ends_with(command), "{text}");
    }

    #[test]
    fn foreign_texts_are_cut_and_cleaned() {
        let message = format!("\u{1b}[31m{}", "x".repeat(100_000));
        let text = place(None).judge("listing", Answer { status: 500, message: &message, ..Answer::default() });
        assert!(text.to_string().len() < 600 && !text.to_string().contains('\u{1b}'));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for fine in [
            "https://storage.example.com",
            "https://10.0.0.7:9000/base",
            "http://127.0.0.1:9000",
            "http://127.8.8.8",
            "http://localhost:9000/",
            "http://[::1]:9000",
        ] {
            assert!(check_endpoint(fine).is_ok(), "{fine}");
        }
        for bad in [
            "",
            "storage.example.com",
            "127.0.0.1:9000",
            "ftp://127.0.0.1",
            "http://",
            "http://10.0.0.7:9000",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://127.0.0.1@example.com",
            "https://key:secret@example.com",
            "https://example.com/?x=1",
            "http://[::2]:9000",
        ] {
            let refused = check_endpoint(bad);
            assert!(
                matches!(&refused, Err(LakeError::Refused(text)) if !text.contains("secret")),
                "{bad}: {refused:?}"
            );
        }
    }
}
