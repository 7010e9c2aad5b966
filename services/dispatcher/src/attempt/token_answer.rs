//! What a token endpoint answers (OAuth 2.0, RFC 6749 section 5). Pure. No error has a text of the answer: it may have
//! secrets.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use crate::attempt::authorization;

/// At most so much of an answer is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024;
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// If the answer does not say how long the token is valid. A 401 of the receiver renews it before.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(300);
/// No token is used for longer: its endpoint may be gone.
pub(crate) const MAX_VALIDITY: Duration = Duration::from_secs(3600);
/// A token is renewed this long before it expires, or a tenth of its validity if that is less.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);

/// The errors that RFC 6749 knows. Others are not repeated.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Why an answer has no token. Continues a sentence that starts with "the token endpoint".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenProblem {
    #[error("answered {0}{1}")]
    Status(u16, ErrorCode),
    #[error("answered with more than {} KiB", MAX_ANSWER_BYTES / 1024)]
    TooLong,
    #[error("answered without a bearer token of at most {} KiB", MAX_TOKEN_BYTES / 1024)]
    NoToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorCode(Option<&'static str>);

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Value of the header `Authorization`; marked as sensitive.
    pub header: HeaderValue,
    pub usable_for: Duration,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: Option<Value>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Reads an answer.
///
/// # Errors
/// Why it has no token.
pub(crate) fn read(status: u16, body: &[u8]) -> Result<Grant, TokenProblem> {
    if !(200..=299).contains(&status) {
        let refused = serde_json::from_slice::<Refused>(body).ok();
        let known = refused.and_then(|refused| ERRORS.into_iter().find(|known| **known == refused.error));
        return Err(TokenProblem::Status(status, ErrorCode(known)));
    }
    let granted = serde_json::from_slice::<Granted>(body).map_err(|_| TokenProblem::NoToken)?;
    let Granted { access_token: token, token_type, expires_in } = granted;
    let is_token = (1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token || !token_type.eq_ignore_ascii_case("bearer") {
        return Err(TokenProblem::NoToken);
    }
    let header = authorization::bearer(&token).ok_or(TokenProblem::NoToken)?;
    let validity = expires_in.as_ref().and_then(seconds).map_or(DEFAULT_VALIDITY, Duration::from_secs);
    Ok(Grant { header, usable_for: usable_for(validity) })
}

/// A number, or its text, which some servers send.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64));
    number.or_else(|| value.as_str()?.trim().parse().ok())
}

/// How long a token is used that is valid for so long.
fn usable_for(validity: Duration) -> Duration {
    (validity - (validity / 10).min(RENEWED_BEFORE)).min(MAX_VALIDITY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read_json(status: u16, body: &Value) -> Result<Grant, TokenProblem> {
        read(status, body.to_string().as_bytes())
    }

    fn granted(expires_in: &Value) -> Duration {
        let body = json!({"access_token": "t", "token_type": "Bearer", "expires_in": expires_in});
        read_json(200, &body).unwrap().usable_for
    }

    #[test]
    fn a_token_is_used_until_shortly_before_it_expires() {
        for (expires_in, seconds) in [
            (json!(3600), 3570),
            (json!(100), 90),
            (json!("100"), 90),
            (json!(100.9), 90),
            (json!(0), 0),
            (json!(null), 270),
            (json!("soon"), 270),
            (json!(-5), 270),
            (json!(86_400), 3600),
            (json!(u64::MAX), 3600),
        ] {
            assert_eq!(granted(&expires_in).as_secs(), seconds, "{expires_in}");
        }
        let plain = read_json(201, &json!({"access_token": "a.b-c", "token_type": "bearer", "more": []})).unwrap();
        assert_eq!(plain.header, "Bearer a.b-c");
        assert!(!format!("{plain:?}").contains("a.b-c"));
    }

    #[test]
    fn an_answer_without_a_token_says_why() {
        for (status, body, reason) in [
            (401, json!({"error": "invalid_client", "error_description": "hush"}), "answered 401 (invalid_client)"),
            (400, json!({"error": "hush"}), "answered 400"),
            (503, json!("hush"), "answered 503"),
            (302, json!({}), "answered 302"),
            (200, json!({}), "answered without a bearer token of at most 8 KiB"),
            (200, json!({"access_token": "t"}), "answered without a bearer token of at most 8 KiB"),
            (
                200,
                json!({"access_token": "t", "token_type": "mac"}),
                "answered without a bearer token of at most 8 KiB",
            ),
            (
                200,
                json!({"access_token": "", "token_type": "Bearer"}),
                "answered without a bearer token of at most 8 KiB",
            ),
            (
                200,
                json!({"access_token": "a\nb", "token_type": "Bearer"}),
                "answered without a bearer token of at most 8 KiB",
            ),
            (
                200,
                json!({"access_token": "t".repeat(8193), "token_type": "Bearer"}),
                "answered without a bearer token of at most 8 KiB",
            ),
        ] {
            assert_eq!(read_json(status, &body).unwrap_err().to_string(), reason, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_token_is_used_after_it_expires(expires_in in any::<u64>()) {
            prop_assert!(granted(&json!(expires_in)) <= Duration::from_secs(expires_in).min(MAX_VALIDITY));
        }

        #[test]
        fn arbitrary_answers_are_read(status in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(status, &body).is_err());
        }
    }
}
