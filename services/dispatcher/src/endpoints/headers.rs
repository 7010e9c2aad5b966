//! The headers that an endpoint adds to its webhooks: which are allowed. Pure.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

const MAX_HEADERS: usize = 20;
const MAX_HEADER_BYTES: usize = 4096;

/// Headers that the dispatcher sets, that describe the body, that belong to the connection, that say where a request
/// comes from, or that a cloud's metadata service wants (the second line behind the egress guard). A trailing hyphen
/// makes a prefix.
const REFUSED_HEADERS: &[&str] = &[
    "host",
    "content-",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "expect",
    "webhook-",
    "triggers-",
    "user-agent",
    "traceparent",
    "tracestate",
    "via",
    "forwarded",
    "x-forwarded-",
    "x-real-ip",
    "metadata",
    "metadata-",
    "x-google-metadata-request",
    "x-aws-ec2-metadata-",
    "x-aliyun-ecs-metadata-",
    "x-tencent-metadata-",
];

/// Names and values.
pub(crate) type Headers = Vec<(String, String)>;

/// Reads the headers of an endpoint.
///
/// # Errors
/// Why they are refused.
pub(super) fn read(value: &Value) -> Result<Headers, String> {
    let object = value.as_object().ok_or("must be an object of texts")?;
    if object.len() > MAX_HEADERS {
        return Err(format!("must have at most {MAX_HEADERS} entries"));
    }
    let mut headers = Headers::with_capacity(object.len());
    for (name, value) in object {
        let value = value.as_str().ok_or("must be an object of texts")?;
        let (name, _) = header(name, value)?;
        if headers.iter().any(|(other, _)| other == name.as_str()) {
            return Err(format!("names {name} twice"));
        }
        headers.push((name.as_str().to_owned(), value.to_owned()));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("must have at most {MAX_HEADER_BYTES} bytes in all"));
    }
    Ok(headers)
}

/// Validates a header of an endpoint. The value may be a secret and is never part of the error.
///
/// # Errors
/// Why it is refused.
pub(crate) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "has a name that is no header name".to_owned())?;
    let is_refused = |rule: &&str| {
        if rule.ends_with('-') { parsed.as_str().starts_with(*rule) } else { parsed.as_str() == *rule }
    };
    if REFUSED_HEADERS.iter().any(is_refused) {
        return Err(format!("must not set {parsed}"));
    }
    let visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && value.trim() == value;
    if !visible {
        return Err(format!(
            "has a value of {parsed} with control characters, blanks at an end, or characters beyond ASCII"
        ));
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| format!("has an unreadable value of {parsed}"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reserved_and_malformed_headers_are_refused() {
        for name in [
            "Host",
            "Content-Type",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "Proxy-Authorization",
            "TE",
            "Trailer",
            "Upgrade",
            "Webhook-Id",
            "webhook-anything",
            "User-Agent",
            "Traceparent",
            "Tracestate",
            "HTTP2-Settings",
            "Triggers-Hop",
            "Via",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Real-IP",
            "Metadata",
            "Metadata-Flavor",
            "Metadata-Token",
            "X-Google-Metadata-Request",
            "X-aws-ec2-metadata-token",
            "X-aws-ec2-metadata-token-ttl-seconds",
            "bad name",
            "",
            "x\n",
        ] {
            assert!(header(name, "v").is_err(), "{name}");
        }
        for value in ["a\r\nb: c", "a\nb", "\0", "\u{e9}", "\u{7f}", " a"] {
            assert!(header("x-a", value).is_err(), "{value:?}");
        }
        for name in ["Authorization", "X-Api-Key", "Cookie", "Test", "Hosting"] {
            assert!(header(name, "v").is_ok(), "{name}");
        }
        assert!(read(&json!({"X-A": "1", "x-a": "2"})).is_err());
        assert!(read(&json!({"x-a": "v".repeat(4096)})).is_err());
        let reason = read(&json!({"x-a": "hush\u{1}"})).unwrap_err();
        assert!(!reason.contains("hush"), "{reason}");
    }
}
