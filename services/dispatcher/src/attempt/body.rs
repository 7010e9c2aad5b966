//! The body of a webhook request: the same bytes for every attempt of an event.

use http_server::Timestamp;
use schemas::ids::EventId;
use time::OffsetDateTime;

/// `payload` is JSON text and is copied byte for byte: parsing and writing it again could change numbers, order and
/// escapes.
pub(crate) fn request_body(event_id: EventId, event_type: &str, accepted_at: OffsetDateTime, payload: &str) -> Vec<u8> {
    let event_type = serde_json::Value::from(event_type).to_string();
    let timestamp = Timestamp(accepted_at);
    let start = format!(r#"{{"type":{event_type},"timestamp":"{timestamp}","data":"#);
    let end = format!(r#","event_id":"{event_id}","event_type":{event_type},"id":"{event_id}"}}"#);
    [start.as_str(), payload, end.as_str()].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Body<'a> {
        r#type: String,
        timestamp: String,
        #[serde(borrow)]
        data: &'a RawValue,
        event_id: String,
        event_type: String,
        id: String,
    }

    fn id() -> EventId {
        "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap()
    }

    #[test]
    fn the_payload_stays_as_it_was_sent() {
        let payload = "{ \"b\": 1.0,\n \"a\":\"\\u00e9\", \"a\": 12345678901234567890 }";
        let accepted_at = time::macros::datetime!(2023-11-14 22:13:20.007 UTC);
        let body = request_body(id(), "order.created", accepted_at, payload);
        let body: Body<'_> = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.data.get(), payload);
        assert_eq!(body.timestamp, "2023-11-14T22:13:20.007Z");
        assert_eq!((body.event_id.as_str(), body.id.as_str()), (id().to_string().as_str(), id().to_string().as_str()));
    }

    proptest! {
        #[test]
        fn any_event_type_is_escaped(event_type in "\\PC{1,30}") {
            let bytes = request_body(id(), &event_type, OffsetDateTime::UNIX_EPOCH, "null");
            let body: Body<'_> = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&body.r#type, &event_type);
            prop_assert_eq!(&body.event_type, &event_type);
        }
    }
}
