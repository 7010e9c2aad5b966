//! Records with the fewest fields; a test changes the ones that it is about.

use std::collections::BTreeMap;

use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, Event};

/// An event of type "a" with an id of its own and no dedup key.
pub fn event(org: OrgId) -> Event {
    Event {
        org_id: org,
        event_id: EventId::generate(),
        event_type: "a".to_owned(),
        payload: "{}".to_owned(),
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
