//! The body of a webhook request: the same bytes for every attempt of an event.

use http_server::Timestamp;
use serde_json::Value;

use crate::delivery::OutboundEvent;

/// `payload` is JSON text and is copied byte for byte: parsing and writing it again could change numbers, order and
/// escapes.
pub(crate) fn request_body(event: &OutboundEvent) -> Vec<u8> {
    let (id, timestamp) = (event.event_id, Timestamp(event.accepted_at));
    let event_type = Value::from(event.event_type.as_str()).to_string();
    let start = format!(r#"{{"type":{event_type},"timestamp":"{timestamp}","data":"#);
    let encoding = event.payload_encoding.as_deref().map(Value::from);
    let encoding = encoding.map(|encoding| format!(r#","payload_encoding":{encoding}"#)).unwrap_or_default();
    let end = format!(r#","event_id":"{id}","event_type":{event_type},"id":"{id}"}}"#);
    [start.as_str(), &event.payload, &encoding, &end].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::ids::OrgId;
    use serde_json::value::RawValue;

    use super::*;
    use crate::delivery::tests::outbound_event;

    #[derive(serde::Deserialize)]
    struct Body<'a> {
        r#type: String,
        timestamp: String,
        #[serde(borrow)]
        data: &'a RawValue,
        event_id: String,
        event_type: String,
        id: String,
        payload_encoding: Option<String>,
    }

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn event(event_type: &str, payload: &str) -> OutboundEvent {
        OutboundEvent {
            event_id: ID.parse().unwrap(),
            event_type: event_type.to_owned(),
            accepted_at: time::macros::datetime!(2023-11-14 22:13:20.007 UTC),
            payload: payload.to_owned(),
            ..outbound_event(OrgId::generate())
        }
    }

    #[test]
    fn the_payload_stays_as_it_was_sent() {
        let payload = "{ \"b\": 1.0,\n \"a\":\"\\u00e9\", \"a\": 12345678901234567890 }";
        let body = request_body(&event("order.created", payload));
        let body: Body<'_> = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.data.get(), payload);
        assert_eq!(body.timestamp, "2023-11-14T22:13:20.007Z");
        assert_eq!((body.event_id.as_str(), body.id.as_str(), body.payload_encoding), (ID, ID, None));
    }

    #[test]
    fn the_body_says_when_data_is_base64() {
        let base64 = OutboundEvent { payload_encoding: Some("base64".into()), ..event("a", "\"aGVsbG8=\"") };
        let body = request_body(&base64);
        let body: Body<'_> = serde_json::from_slice(&body).unwrap();
        assert_eq!((body.data.get(), body.payload_encoding.as_deref()), ("\"aGVsbG8=\"", Some("base64")));
    }

    proptest! {
        #[test]
        fn any_event_type_is_escaped(event_type in "\\PC{1,30}") {
            let bytes = request_body(&event(&event_type, "null"));
            let body: Body<'_> = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&body.r#type, &event_type);
            prop_assert_eq!(&body.event_type, &event_type);
        }
    }
}
