//! What one request carries: one event, or the events of a batch. Pure.

use bytes::Bytes;
use http::HeaderValue;
use schemas::ids::{BatchId, EndpointId, OrgId};

use crate::attempt::body;
use crate::batch::settings::{BatchFormat, BatchSettings};
use crate::delivery::OutboundEvent;

/// The part of a request that depends on its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub org_id: OrgId,
    /// `webhook-id`: the id of the event, or of the batch.
    pub id: String,
    /// `None`: it has one event and its id.
    pub batch_id: Option<BatchId>,
    /// Through how many webhooks its events came, at most.
    pub hops: i32,
    /// W3C trace context, if all its events have the same.
    pub traceparent: Option<&'a str>,
    pub content_type: HeaderValue,
    pub body: Bytes,
}

impl<'a> Message<'a> {
    /// A webhook with one event.
    pub(crate) fn single(event: &'a OutboundEvent) -> Self {
        Self {
            org_id: event.org_id,
            id: event.event_id.to_string(),
            batch_id: None,
            hops: event.hops,
            traceparent: event.traceparent.as_deref(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::from(body::request_body(event)),
        }
    }

    /// A webhook with a batch of events of one organization, in the order of the log. The same events have the same id
    /// and the same body each time. `None`: there are no events.
    pub(crate) fn batch(
        endpoint: EndpointId,
        settings: &BatchSettings,
        events: impl IntoIterator<Item = &'a OutboundEvent>,
    ) -> Option<Self> {
        let mut events: Vec<&OutboundEvent> = events.into_iter().collect();
        events.sort_by_key(|event| (event.partition, event.log_epoch, event.offset));
        let first = *events.first()?;
        let (content_type, write): (_, fn(&OutboundEvent) -> Vec<u8>) = match settings.format {
            BatchFormat::Json => ("application/json", body::request_body),
            BatchFormat::CloudEvents => ("application/cloudevents-batch+json; charset=UTF-8", body::cloud_event),
        };
        let mut body = Vec::with_capacity(events.iter().map(|event| body::size_in_batch(event)).sum());
        for event in &events {
            body.push(if body.is_empty() { b'[' } else { b',' });
            body.extend_from_slice(&write(event));
        }
        body.push(b']');
        let same_trace = events.iter().all(|event| event.traceparent == first.traceparent);
        let batch_id = BatchId::of(endpoint, events.iter().map(|event| event.event_id));
        Some(Self {
            org_id: first.org_id,
            id: batch_id.to_string(),
            batch_id: Some(batch_id),
            hops: events.iter().map(|event| event.hops).max().unwrap_or(0),
            traceparent: first.traceparent.as_deref().filter(|_| same_trace),
            content_type: HeaderValue::from_static(content_type),
            body: Bytes::from(body),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::delivery::outbound_event;

    fn event(org_id: OrgId, offset: i64, hops: i32, trace: Option<&str>) -> OutboundEvent {
        OutboundEvent { offset, hops, traceparent: trace.map(str::to_owned), ..outbound_event(org_id) }
    }

    #[test]
    fn the_same_events_are_the_same_batch() {
        let (org_id, endpoint, settings) = (OrgId::generate(), EndpointId::generate(), BatchSettings::default());
        let events: Vec<OutboundEvent> = (0..3).map(|offset| event(org_id, offset, 0, None)).collect();
        let batch = Message::batch(endpoint, &settings, &events).unwrap();
        assert_eq!(Message::batch(endpoint, &settings, events.iter().rev()).unwrap(), batch);
        let bodies: Vec<Value> = serde_json::from_slice(&batch.body).unwrap();
        for (body, event) in bodies.iter().zip(&events) {
            let single: Value = serde_json::from_slice(&Message::single(event).body).unwrap();
            assert_eq!(*body, single);
        }
        assert_eq!(bodies.len(), 3);
        let fewer = Message::batch(endpoint, &settings, &events[..2]).unwrap();
        let other = Message::batch(EndpointId::generate(), &settings, &events).unwrap();
        assert!(fewer.id != batch.id && other.id != batch.id);
        assert_eq!(Message::batch(endpoint, &settings, &events[..0]), None);
    }

    #[test]
    fn a_batch_has_the_most_hops_and_a_common_trace() {
        let (org_id, endpoint) = (OrgId::generate(), EndpointId::generate());
        let batch = |traces: [Option<&'static str>; 2]| {
            let events = [event(org_id, 0, 3, traces[0]), event(org_id, 1, 1, traces[1])];
            let batch = Message::batch(endpoint, &BatchSettings::default(), &events).unwrap();
            (batch.hops, batch.traceparent.map(str::to_owned))
        };
        assert_eq!(batch([Some("a"), Some("a")]), (3, Some("a".to_owned())));
        assert_eq!(batch([Some("a"), Some("b")]), (3, None));
        assert_eq!(batch([None, Some("b")]), (3, None));
    }

    #[test]
    fn cloud_events_are_a_batch_of_their_own_type() {
        let settings = BatchSettings { format: BatchFormat::CloudEvents, ..BatchSettings::default() };
        let event = event(OrgId::generate(), 0, 0, None);
        let batch = Message::batch(EndpointId::generate(), &settings, [&event]).unwrap();
        assert_eq!(batch.content_type, "application/cloudevents-batch+json; charset=UTF-8");
        let events: Vec<Value> = serde_json::from_slice(&batch.body).unwrap();
        assert_eq!(events[0]["id"], event.event_id.to_string());
    }
}
