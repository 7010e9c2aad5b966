//! Records with the fewest fields; a test changes the ones that it is about.

use std::collections::BTreeMap;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use schemas::records::{Dedup, DeliveryAttempt, DeliveryOutcome, Event};

/// When the attempts start, microseconds since the Unix epoch: attempt n starts n seconds later.
pub const STARTED_AT: i64 = 1_790_000_000_000_000;

/// An event of type "a" with an id of its own and no dedup key.
pub fn event(org: OrgId) -> Event {
    Event {
        org_id: org,
        event_id: EventId::generate(),
        event_type: "a".to_owned(),
        payload: "{}".to_owned(),
        payload_encoding: None,
        occurred_at: None,
        source: None,
        ordering_key: None,
        metadata: BTreeMap::new(),
        dedup: None,
        traceparent: None,
    }
}

/// The same with a dedup key.
pub fn keyed(org: OrgId, dedup: Dedup) -> Event {
    Event { dedup: Some(dedup), ..event(org) }
}

/// The report of an attempt. Unless it was delivered, the endpoint answered 503.
pub fn attempt(
    org: OrgId,
    event: EventId,
    endpoint: EndpointId,
    attempt: i32,
    outcome: DeliveryOutcome,
) -> DeliveryAttempt {
    let started_at = STARTED_AT + i64::from(attempt) * 1_000_000;
    DeliveryAttempt {
        org_id: org,
        event_id: event,
        endpoint_id: endpoint,
        delivery_id: DeliveryId::of(endpoint, event),
        event_type: "a".to_owned(),
        attempt,
        outcome,
        started_at,
        latency_ms: 12,
        status_code: Some(if outcome == DeliveryOutcome::Delivered { 204 } else { 503 }),
        error: (outcome != DeliveryOutcome::Delivered).then(|| "answered 503".to_owned()),
        response_excerpt: Some("busy".to_owned()),
        next_attempt_at: (outcome == DeliveryOutcome::Retrying).then_some(started_at + 5_000_000),
        connect_us: Some(1_250),
        send_us: Some(90),
        wait_us: Some(10_500),
        remote_address: Some("192.0.2.7".to_owned()),
        endpoints_matched: None,
        round: 0,
        batch_id: None,
    }
}
