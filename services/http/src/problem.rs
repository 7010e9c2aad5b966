//! Error responses: `application/problem+json` (RFC 9457).
//!
//! A handler returns a [`Problem`]. The request layer writes its body, because the body needs the request id, the path
//! and the dialect of the mount.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::context::{Dialect, RequestContext};
use super::nearest::{MAX_TEXT_CHARACTERS, cut, shown};

/// The longest path of a request that a problem repeats, characters.
const MAX_INSTANCE_CHARACTERS: usize = 200;

/// One invalid field, and why it is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Name or path of the field as the client wrote it.
    pub field: String,
    /// What is wrong with it, as a part of a sentence.
    pub reason: String,
}

impl FieldError {
    /// A name of a client is cut to 100 characters. `reason` continues a sentence that starts with the name.
    pub fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: shown(field).into_owned(), reason: reason.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.reason)
    }
}

/// An error response. It must not contain internals; those are logged under the same request id.
#[derive(Debug, Clone)]
pub struct Problem(Box<ProblemFields>);

#[derive(Debug, Clone)]
struct ProblemFields {
    status: Status,
    error_code: &'static str,
    detail: Cow<'static, str>,
    details: Vec<FieldError>,
    fields: Vec<(&'static str, serde_json::Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// `Invalid` becomes 400 or 422, depending on the mount's dialect.
#[derive(Debug, Clone, Copy)]
enum Status {
    Invalid,
    Fixed(StatusCode),
}

impl Problem {
    fn with_status(status: Status, error_code: &'static str, detail: Cow<'static, str>) -> Self {
        // It may repeat what the client sent, and an answer has it three times.
        let detail = bounded(worded(status, detail));
        Self(Box::new(ProblemFields {
            status,
            error_code,
            detail,
            details: Vec::new(),
            fields: Vec::new(),
            headers: Vec::new(),
        }))
    }

    /// The request is invalid: 400, or 422 on `/api`.
    pub fn invalid(error_code: &'static str, detail: impl Into<String>) -> Self {
        Self::with_status(Status::Invalid, error_code, Cow::Owned(detail.into()))
    }

    /// Any other error. `error_code` is stable and lower_snake. The detail of a 429 then begins with "Rate limit
    /// exceeded".
    pub fn new(status: StatusCode, error_code: &'static str, detail: impl Into<String>) -> Self {
        Self::with_status(Status::Fixed(status), error_code, Cow::Owned(detail.into()))
    }

    /// 404. The response is the same for an absent object, one of another organization and a malformed id.
    pub fn not_found() -> Self {
        Self::with_status(Status::Fixed(StatusCode::NOT_FOUND), "not_found", Cow::Borrowed("there is nothing here"))
    }

    /// 401, with `WWW-Authenticate: Bearer`.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403: the key is valid but not allowed to do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 413.
    pub fn payload_too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// 415.
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// 503 with `Retry-After` of at least one second.
    pub fn unavailable(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).with_retry_after(retry_after_seconds)
    }

    /// 429 with `Retry-After` of at least one second.
    pub fn too_many_requests(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).with_retry_after(retry_after_seconds)
    }

    /// 429 with `Retry-After`: the client holds too much at once, such as bytes of bodies or waiting reads.
    pub fn too_much_at_once(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_much_at_once", detail).with_retry_after(1)
    }

    /// 500. The cause is logged and never sent to the client.
    pub fn internal() -> Self {
        let detail = "something went wrong on our side; the request id names it in our logs";
        Self::with_status(Status::Fixed(StatusCode::INTERNAL_SERVER_ERROR), "internal_error", Cow::Borrowed(detail))
    }

    /// The problem for an error response of the framework, which has only a status code.
    pub(super) fn from_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                return Self::invalid("invalid_request", "the request is not readable");
            }
            StatusCode::NOT_FOUND => ("route_not_found", "there is no such route"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this route does not know this method; the Allow header lists those it knows")
            }
            StatusCode::REQUEST_TIMEOUT => ("request_timeout", "the request did not arrive in time"),
            StatusCode::PAYLOAD_TOO_LARGE => return Self::payload_too_large("the request is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                return Self::unsupported_media_type("this content type is not read here");
            }
            StatusCode::MISDIRECTED_REQUEST => (
                "misdirected_request",
                "this server has another name than the Host of the request: on loopback localhost, 127.0.0.1 or [::1], \
                 else one of ALLOWED_HOSTS",
            ),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                ("headers_too_large", "the request line and headers are too large")
            }
            StatusCode::URI_TOO_LONG => ("uri_too_long", "the request line is too long"),
            status if status.is_server_error() => {
                let mut problem = Self::internal();
                problem.0.status = Status::Fixed(status);
                return problem;
            }
            _ => ("refused", "the request was refused"),
        };
        Self::with_status(Status::Fixed(status), code, Cow::Borrowed(detail))
    }

    fn with_retry_after(self, seconds: u32) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// Replaces the human-readable text.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = worded(self.0.status, Cow::Owned(detail.into()));
        self
    }

    /// Adds the invalid fields.
    #[must_use]
    pub fn with_details(mut self, details: Vec<FieldError>) -> Self {
        let bounded = |error: FieldError| FieldError {
            field: shown(&error.field).into_owned(),
            reason: cut(&error.reason, MAX_TEXT_CHARACTERS).into_owned(),
        };
        self.0.details = details.into_iter().map(bounded).collect();
        self
    }

    /// Adds a top-level member, such as `event_id` on a 409. A value that cannot be written as JSON becomes null.
    #[must_use]
    pub fn with_field(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.0.fields.push((name, serde_json::to_value(value).unwrap_or_default()));
        self
    }

    /// Adds a response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The stable error code.
    pub fn error_code(&self) -> &'static str {
        self.0.error_code
    }

    /// The human-readable text.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The invalid fields.
    pub fn details(&self) -> &[FieldError] {
        &self.0.details
    }

    /// The status on a mount of this dialect.
    pub fn status(&self, dialect: Dialect) -> StatusCode {
        match self.0.status {
            Status::Invalid => dialect.invalid_status(),
            Status::Fixed(status) => status,
        }
    }

    /// The complete response. `instance` is the path that was asked for.
    pub(super) fn render(&self, context: &RequestContext, instance: &str) -> Response {
        let status = self.status(context.dialect);
        let mut response = Response::new(Body::from(self.body(status, instance, &context.request_id)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.add_headers(&mut response);
        response
    }

    /// The body alone.
    pub(super) fn body(&self, status: StatusCode, instance: &str, request_id: &str) -> Vec<u8> {
        serde_json::to_vec(&ProblemBody { problem: &self.0, status, instance, request_id }).unwrap_or_default()
    }

    fn add_headers(&self, response: &mut Response) {
        for (name, value) in &self.0.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

/// Clients of older trigger APIs expect that the detail of a 429 begins like this.
const RATE_LIMIT_EXCEEDED: &str = "Rate limit exceeded";

fn worded(status: Status, detail: Cow<'static, str>) -> Cow<'static, str> {
    match status {
        Status::Fixed(StatusCode::TOO_MANY_REQUESTS) if !detail.starts_with(RATE_LIMIT_EXCEEDED) => {
            Cow::Owned(format!("{RATE_LIMIT_EXCEEDED}: {detail}"))
        }
        _ => detail,
    }
}

fn bounded(text: Cow<'static, str>) -> Cow<'static, str> {
    match cut(&text, MAX_TEXT_CHARACTERS) {
        Cow::Owned(cut) => Cow::Owned(cut),
        Cow::Borrowed(_) => text,
    }
}

impl IntoResponse for Problem {
    /// A response without a body, with the problem in its extensions. The request layer writes the body.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status(Dialect::Canonical);
        self.add_headers(&mut response);
        response.extensions_mut().insert(self);
        response
    }
}

struct ProblemBody<'a> {
    problem: &'a ProblemFields,
    status: StatusCode,
    instance: &'a str,
    request_id: &'a str,
}

impl Serialize for ProblemBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:triggers:problem:{}", self.problem.error_code))?;
        map.serialize_entry("title", self.status.canonical_reason().unwrap_or("Error"))?;
        map.serialize_entry("status", &self.status.as_u16())?;
        map.serialize_entry("detail", &self.problem.detail)?;
        map.serialize_entry("instance", &cut(self.instance, MAX_INSTANCE_CHARACTERS))?;
        map.serialize_entry("error_code", self.problem.error_code)?;
        // The same text under two more names, for clients of older trigger APIs.
        map.serialize_entry("message", &self.problem.detail)?;
        map.serialize_entry("error", &self.problem.detail)?;
        map.serialize_entry("request_id", self.request_id)?;
        if !self.problem.details.is_empty() {
            map.serialize_entry("details", &self.problem.details)?;
        }
        for (name, value) in &self.problem.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
