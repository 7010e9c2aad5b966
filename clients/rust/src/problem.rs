//! The answer to a request that failed: `application/problem+json`.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde::Deserialize;
use serde_json::value::RawValue;

/// An answer with an error status.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable error code, such as `duplicate_event`. `None`: the answer is not one of Triggers, but of a proxy.
    pub code: Option<String>,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// Names the request in the logs of the server.
    pub request_id: Option<String>,
    /// The fields that are to blame.
    pub fields: Vec<FieldError>,
    /// How long the server asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// The event that the answer is about: with the code `duplicate_event`, the original.
    pub event_id: Option<String>,
}

/// One invalid field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct FieldError {
    /// Its name or path.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The members of a problem document that are read.
#[derive(Deserialize)]
struct Document<'a> {
    error_code: Option<String>,
    detail: Option<String>,
    request_id: Option<String>,
    event_id: Option<String>,
    /// Another form of it must not cost the code.
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

impl Problem {
    /// Without any text.
    pub(crate) fn of_status(status: u16) -> Self {
        Self {
            status,
            code: None,
            detail: String::new(),
            request_id: None,
            fields: Vec::new(),
            retry_after: None,
            event_id: None,
        }
    }

    /// Reads an answer. What is no problem document becomes a problem without a code.
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let retry_after = retry_after(headers);
        match serde_json::from_slice::<Document>(body) {
            Ok(document) => Self {
                status,
                code: document.error_code,
                detail: document.detail.unwrap_or_default(),
                request_id: document.request_id,
                fields: fields(document.details),
                retry_after,
                event_id: document.event_id,
            },
            Err(_) => Self { retry_after, ..Self::of_status(status) },
        }
    }

    /// Whether the same request can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.status, 408 | 429 | 502..=504)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.detail.is_empty() {
            write!(f, "{} ", self.detail)?;
        }
        write!(f, "(HTTP {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, ", {code}")?;
        }
        if let Some(request_id) = &self.request_id {
            write!(f, ", request {request_id}")?;
        }
        f.write_str(")")
    }
}

/// None, if they have another form.
fn fields(details: Option<&RawValue>) -> Vec<FieldError> {
    details.and_then(|details| serde_json::from_str(details.get()).ok()).unwrap_or_default()
}

/// Triggers sends seconds. An HTTP date, which a proxy may send, is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(retry_after: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(retry_after))])
    }

    #[test]
    fn reads_every_member_of_a_problem_document() {
        let body = br#"{"type": "urn:triggers:problem:invalid_event", "title": "Bad Request", "status": 400,
            "detail": "payload is missing", "error_code": "invalid_event", "request_id": "r-1", "event_id": "e-1",
            "details": [{"field": "payload", "reason": "is missing"}], "results": [1]}"#;
        let problem = Problem::read(400, &headers(" 3 "), body);
        assert_eq!(problem.code.as_deref(), Some("invalid_event"));
        assert_eq!((problem.request_id.as_deref(), problem.event_id.as_deref()), (Some("r-1"), Some("e-1")));
        assert_eq!(
            problem.fields,
            [FieldError { field: "payload".to_owned(), reason: "is missing".to_owned() }],
            "the fields that are to blame"
        );
        assert_eq!(problem.retry_after, Some(Duration::from_secs(3)));
        assert_eq!(problem.to_string(), "payload is missing (HTTP 400, invalid_event, request r-1)");
    }

    #[test]
    fn details_of_another_form_do_not_cost_the_code() {
        for details in [r#"{"a": 1}"#, "null", "[1]", r#""text""#] {
            let body = format!(r#"{{"error_code": "a_code", "details": {details}}}"#);
            let problem = Problem::read(400, &HeaderMap::new(), body.as_bytes());
            assert_eq!((problem.code.as_deref(), problem.fields), (Some("a_code"), vec![]), "{details}");
        }
    }

    #[test]
    fn an_answer_of_a_proxy_is_a_problem_without_a_code() {
        for body in ["<html>Bad Gateway</html>", "", "[]", "null", r#"{"error_code": 7}"#] {
            let problem = Problem::read(502, &headers("Wed, 21 Oct 2026 07:28:00 GMT"), body.as_bytes());
            assert_eq!(problem, Problem::of_status(502), "{body}");
            assert_eq!(problem.to_string(), "(HTTP 502)", "{body}");
        }
    }
}
