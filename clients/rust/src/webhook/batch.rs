//! Webhooks with several events.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{VerifyError, WebhookEvent, verify};

/// Verifies a webhook of an endpoint with `batch`, as [`verify`] does, and reads its events, of either format. They
/// have one signature, and your answer is for all of them. A batch may come again with other companions: recognize
/// events by their `event_id`.
///
/// # Errors
/// Those of [`verify`], and [`VerifyError::Body`].
///
/// ```
/// use std::time::SystemTime;
/// use triggers_client::webhook;
///
/// # fn example(secret: &str, headers: http::HeaderMap, body: &[u8]) -> Result<(), webhook::VerifyError> {
/// for event in webhook::verify_batch(secret, &headers, body, SystemTime::now(), webhook::TOLERANCE)? {
///     println!("{} {}", event.event_id, event.data);
/// }
/// # Ok(())
/// # }
/// ```
pub fn verify_batch(
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
    tolerance: Duration,
) -> Result<Vec<WebhookEvent>, VerifyError> {
    verify(secret, headers, body, now, tolerance)?;
    let items: Vec<Item> = serde_json::from_slice(body).map_err(|_| VerifyError::Body)?;
    items.into_iter().map(|item| item.into_event().ok_or(VerifyError::Body)).collect()
}

/// An event in the body of a single webhook, or a CloudEvent.
#[derive(Deserialize)]
struct Item {
    event_id: Option<String>,
    event_type: Option<String>,
    timestamp: Option<String>,
    data: Option<Box<RawValue>>,
    payload_encoding: Option<String>,
    /// Only a CloudEvent has it.
    specversion: Option<String>,
    id: Option<String>,
    r#type: Option<String>,
    time: Option<String>,
    data_base64: Option<Box<RawValue>>,
}

impl Item {
    fn into_event(self) -> Option<WebhookEvent> {
        if self.specversion.is_none() {
            return Some(WebhookEvent {
                event_id: self.event_id?,
                event_type: self.event_type?,
                timestamp: self.timestamp?,
                data: self.data?,
                payload_encoding: self.payload_encoding,
            });
        }
        let payload_encoding = self.data_base64.is_some().then(|| "base64".to_owned());
        Some(WebhookEvent {
            event_id: self.id?,
            event_type: self.r#type?,
            timestamp: self.time?,
            data: self.data_base64.or(self.data)?,
            payload_encoding,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::webhook::{TOLERANCE, sign};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const AT: u64 = 1_764_414_000;
    /// As the dispatcher writes them; the Python client has the same in its tests.
    const JSON: &str = concat!(
        r#"[{"type":"order.created","timestamp":"2026-11-29T11:00:00.000Z","data":{"n": 1.0},"event_id":"e1","#,
        r#""event_type":"order.created","id":"e1"},"#,
        r#"{"type":"scan","timestamp":"2026-11-29T11:00:01.000Z","data":"AAE=","payload_encoding":"base64","#,
        r#""event_id":"e2","event_type":"scan","id":"e2"}]"#,
    );
    const CLOUD_EVENTS: &str = concat!(
        r#"[{"specversion":"1.0","id":"e1","source":"/v1/organizations/o","type":"order.created","#,
        r#""time":"2026-11-29T11:00:00.000Z","datacontenttype":"application/json","data":{"n": 1.0}},"#,
        r#"{"specversion":"1.0","id":"e2","source":"/v1/organizations/o","type":"scan","#,
        r#""time":"2026-11-29T11:00:01.000Z","data_base64":"AAE="}]"#,
    );

    fn verified(signed: &str, body: &str) -> Result<Vec<WebhookEvent>, VerifyError> {
        let signature = sign(SECRET, "b1", AT, signed.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("webhook-id", "b1"), ("webhook-timestamp", &AT.to_string()), ("webhook-signature", &signature)]
        {
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        verify_batch(SECRET, &headers, body.as_bytes(), UNIX_EPOCH + Duration::from_secs(AT), TOLERANCE)
    }

    #[test]
    fn both_formats_have_the_same_events() {
        for body in [JSON, CLOUD_EVENTS] {
            let events = verified(body, body).unwrap();
            let seen: Vec<_> = events
                .iter()
                .map(|event| {
                    let encoding = event.payload_encoding.as_deref();
                    (event.event_id.as_str(), event.event_type.as_str(), event.data.get(), encoding)
                })
                .collect();
            assert_eq!(
                seen,
                [("e1", "order.created", r#"{"n": 1.0}"#, None), ("e2", "scan", r#""AAE=""#, Some("base64"))]
            );
            assert_eq!(events[1].timestamp, "2026-11-29T11:00:01.000Z");
        }
        assert!(verified("[]", "[]").unwrap().is_empty());
    }

    #[test]
    fn nothing_is_read_that_is_not_signed() {
        assert_eq!(verified(JSON, "[]").unwrap_err(), VerifyError::Signature);
        assert_eq!(verified("[]", JSON).unwrap_err(), VerifyError::Signature);
    }

    #[test]
    fn a_signed_body_of_another_kind_is_refused() {
        let single = &JSON[1..JSON.find(",{").unwrap()];
        assert!(serde_json::from_str::<WebhookEvent>(single).is_ok(), "it is a single webhook");
        for body in [single, "x", "[1]", "[{}]", r#"[{"specversion":"1.0","id":"e1"}]"#, &JSON[..JSON.len() - 1]] {
            assert_eq!(verified(body, body).unwrap_err(), VerifyError::Body, "{body}");
        }
    }
}
