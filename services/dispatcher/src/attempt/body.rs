//! The bodies of events in webhook requests: the same bytes for every attempt of an event.

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

/// What is around the payload, the types and the trace, at most, in any format.
pub(crate) const ENVELOPE_BYTES: usize = 320;
/// How often an event type is in a body, times the most that JSON makes of one of its bytes.
pub(crate) const TYPE_FACTOR: usize = 4;

/// An upper bound of the event's size in a batch of any format, bytes. The schedule computes the same in SQL.
pub(crate) fn size_in_batch(event: &OutboundEvent) -> usize {
    let trace = event.traceparent.as_ref().map_or(0, String::len);
    event.payload.len() + TYPE_FACTOR * event.event_type.len() + trace + ENVELOPE_BYTES
}

/// The event as a CloudEvent 1.0 in the JSON format.
pub(crate) fn cloud_event(event: &OutboundEvent) -> Vec<u8> {
    let (id, org_id, time) = (event.event_id, event.org_id, Timestamp(event.accepted_at));
    let event_type = Value::from(event.event_type.as_str());
    let start = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/v1/organizations/{org_id}","type":{event_type},"time":"{time}""#
    );
    let trace = event.traceparent.as_deref().map(Value::from);
    let trace = trace.map(|trace| format!(r#","traceparent":{trace}"#)).unwrap_or_default();
    let data = match event.payload_encoding {
        // The payload is the JSON string that `data_base64` has.
        Some(_) => r#","data_base64":"#,
        None => r#","datacontenttype":"application/json","data":"#,
    };
    [start.as_str(), &trace, data, &event.payload, "}"].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::ids::OrgId;
    use serde_json::value::RawValue;

    use super::*;
    use crate::delivery::outbound_event;

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

    #[test]
    fn a_cloud_event_is_read_back_by_our_own_reader() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
        let event = OutboundEvent {
            traceparent: Some(trace),
            ..event("order.created", "{\"b\": 1.0, \"a\": 12345678901234567890}")
        };
        let read = schemas::cloudevents::structured(&cloud_event(&event)).unwrap();
        assert_eq!((read.event_type.as_str(), read.payload.as_str()), ("order.created", event.payload.as_str()));
        assert_eq!(read.source.as_deref(), Some(format!("/v1/organizations/{}", event.org_id).as_str()));
        let base64 = OutboundEvent { payload_encoding: Some("base64".into()), ..self::event("a", "\"aGVsbG8=\"") };
        let json: Value = serde_json::from_slice(&cloud_event(&base64)).unwrap();
        assert_eq!((&json["data_base64"], json.get("data")), (&Value::from("aGVsbG8="), None));
    }

    proptest! {
        #[test]
        fn an_event_is_never_larger_than_its_bound(
            event_type in "\\PC{1,255}",
            trace in prop::option::of("[ -~]{0,256}"),
            is_binary: bool,
        ) {
            let event = OutboundEvent {
                traceparent: trace.filter(|trace| !trace.contains(['"', '\\'])),
                payload_encoding: is_binary.then(|| "base64".into()),
                ..event(&event_type, "\"aGVsbG8=\"")
            };
            // With the comma or the bracket after it.
            prop_assert!(request_body(&event).len() + 1 < size_in_batch(&event));
            prop_assert!(cloud_event(&event).len() + 1 < size_in_batch(&event));
        }

        #[test]
        fn any_event_type_is_escaped(event_type in "\\PC{1,30}") {
            let bytes = request_body(&event(&event_type, "null"));
            let body: Body<'_> = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&body.r#type, &event_type);
            prop_assert_eq!(&body.event_type, &event_type);
        }
    }
}
