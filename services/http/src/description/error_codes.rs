//! All error codes, for the OpenAPI document.

/// An error code: stable, and never used for anything else.
#[derive(Debug, Clone, Copy)]
pub struct ErrorCode {
    /// As in `error_code` of the problem.
    pub code: &'static str,
    /// Its status. 400 of an invalid request is 422 on `/api`.
    pub status: u16,
    /// When it is sent, as a sentence.
    pub meaning: &'static str,
    /// A text that `detail` may have.
    pub example: &'static str,
}

const fn code(code: &'static str, status: u16, meaning: &'static str, example: &'static str) -> ErrorCode {
    ErrorCode { code, status, meaning, example }
}

/// In the order of their status.
pub const ERROR_CODES: &[ErrorCode] = &[
    code("invalid_request", 400, "A parameter or a member is invalid.", "limit must be from 1 to 1000"),
    code("invalid_json", 400, "The body is not JSON.", "the body is not valid JSON: expected value at line 1 column 1"),
    code("invalid_event", 400, "A member of the event is invalid.", "event_type is required"),
    code("invalid_endpoint", 400, "A member of the endpoint is invalid.", "url is required"),
    code("invalid_encoding", 400, "The body is not what its Content-Encoding says.", "the body is not valid gzip"),
    code("incomplete_body", 400, "The body ended early.", "the body ended early or was not framed correctly"),
    code(
        "unauthorized",
        401,
        "No key was sent, or it is not valid.",
        "Invalid API key: it is unknown, revoked or expired",
    ),
    code(
        "forbidden",
        403,
        "The key is valid, and its role or its restrictions do not allow this.",
        "this key may not do this",
    ),
    code("not_found", 404, "It does not exist, or it belongs to another organization.", "there is nothing here"),
    code("route_not_found", 404, "There is no such route.", "there is no such route"),
    code(
        "method_not_allowed",
        405,
        "The route does not have this method.",
        "this route does not know this method; the Allow header lists those it knows",
    ),
    code("request_timeout", 408, "The body did not arrive in time.", "the body did not arrive in time"),
    code(
        "duplicate_event",
        409,
        "An event with this dedup_id was accepted within 24 hours. event_id names it.",
        "Duplicate event detected: its dedup_id was accepted within the last 24 hours: \
         0192f0c1-2345-7abc-8def-0123456789ab",
    ),
    code(
        "too_many_keys",
        409,
        "The organization has as many keys as it may.",
        "an organization has at most 1000 keys; revoke one",
    ),
    code(
        "too_many_endpoints",
        409,
        "The organization has as many endpoints as it may.",
        "an organization has at most 100 endpoints",
    ),
    code(
        "endpoint_disabled",
        409,
        "The endpoint is disabled, so nothing is sent to it.",
        "the endpoint is disabled; enable it first",
    ),
    code(
        "endpoint_deleted",
        409,
        "The endpoint of the delivery was deleted.",
        "the endpoint of the delivery was deleted",
    ),
    code(
        "event_not_kept",
        409,
        "The event of the delivery is no longer kept.",
        "the event of the delivery is no longer kept, so it cannot be sent again",
    ),
    code(
        "too_many_open_deliveries",
        409,
        "The organization has as many deliveries open as it may, or they take as much space.",
        "the organization has too many open deliveries",
    ),
    code(
        "too_many_replays",
        409,
        "A replay of the endpoint is running, or as many of the organization as may.",
        "a replay of the endpoint is running, or 3 of the organization; cancel one",
    ),
    code(
        "development_key",
        409,
        "A key of the configuration cannot be changed over HTTP.",
        "a development key comes from the configuration; change it there",
    ),
    code("payload_too_large", 413, "The body or the payload is too large.", "the body is larger than 524288 bytes"),
    code(
        "batch_too_large",
        413,
        "The batch has more events than the rate limit admits in a minute.",
        "the batch has more events than the limit of 100 per minute",
    ),
    code("unsupported_media_type", 415, "The content type is not read here.", "send application/json"),
    code(
        "misdirected_request",
        421,
        "The Host header is not a name of this server.",
        "this server has another name than the Host of the request: on loopback localhost, 127.0.0.1 or [::1], else \
         one of ALLOWED_HOSTS",
    ),
    code(
        "idempotency_key_reused",
        422,
        "The Idempotency-Key was sent before, with another body.",
        "this Idempotency-Key was used for another body",
    ),
    code(
        "rate_limit_exceeded",
        429,
        "The rate limit of the organization or of the key is used up.",
        "Rate limit exceeded: 100 requests per minute",
    ),
    code(
        "rate_limited",
        429,
        "Too many bad keys or sign-ups from one address.",
        "Rate limit exceeded: too many bad keys from this address",
    ),
    code(
        "too_much_at_once",
        429,
        "The client has too many requests, or bytes of them, open at the same time.",
        "Rate limit exceeded: too many requests of this organization are open",
    ),
    code("headers_too_large", 431, "The headers take more than 32 KiB.", "the request line and headers are too large"),
    code(
        "internal_error",
        500,
        "A fault of this system. The request id names it in the logs.",
        "something went wrong on our side; the request id names it in our logs",
    ),
    code(
        "unavailable",
        503,
        "The system cannot do it at the moment. The text says whether it was done in part.",
        "the event log does not answer; the event was not stored",
    ),
    code("too_many_connections", 503, "Too many connections are open.", "too many connections are open"),
    code(
        "loop_detected",
        508,
        "The event came through too many webhooks: an endpoint sends its events back.",
        "triggers-hops is 4: the event came through more than 3 webhooks, so an endpoint sends its events back to \
         this API",
    ),
];

/// The code with this name.
pub(super) fn find(name: &str) -> Option<&'static ErrorCode> {
    ERROR_CODES.iter().find(|code| code.code == name)
}
