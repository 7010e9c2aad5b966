//! Decodes a record of the log and matches it against the endpoints. Pure. `schemas` defines what a record may be. An
//! unreadable record is only counted here: the materializer writes the dead letters.

use std::borrow::Cow;
use std::sync::Arc;

use http_server::Timestamp;
use kafka::Record;
use schemas::ids::OrgId;
use schemas::native::SystemKey;
use schemas::records::Event;
use schemas::{hops, native};
use time::OffsetDateTime;

use crate::delivery::{Delivery, OutboundEvent};
use crate::endpoints::filter::payload::Payload;
use crate::endpoints::matching::Snapshot;
use crate::lane::LaneKey;
use crate::log::tracker::{MatchedEvent, ReadRecord};

/// Label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MatchKind {
    /// At least one endpoint gets the event.
    Matched,
    Unmatched,
    Unreadable,
}

impl MatchKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Unmatched => "unmatched",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Reads one record of a partition whose log is in `log_epoch`. `system_key`: of the system's own events. `now_ms`:
/// milliseconds since the Unix epoch.
pub(crate) fn read(
    record: &Record,
    log_epoch: i32,
    snapshot: &Snapshot,
    system_key: Option<&SystemKey>,
    now_ms: i64,
) -> (ReadRecord, MatchKind) {
    let has_time = record.check_time(now_ms).is_ok();
    let matched = if has_time { match_event(record, log_epoch, snapshot, system_key) } else { Err(Unreadable) };
    let (matched, kind) = match matched {
        Ok(Some(matched)) => (Some(matched), MatchKind::Matched),
        Ok(None) => (None, MatchKind::Unmatched),
        Err(Unreadable) => (None, MatchKind::Unreadable),
    };
    let timestamp_ms = record.log_time_ms().filter(|_| has_time);
    let (partition, offset) = (record.partition, record.offset);
    (ReadRecord { partition, offset, timestamp_ms, matched }, kind)
}

struct Unreadable;

fn match_event(
    record: &Record,
    log_epoch: i32,
    snapshot: &Snapshot,
    system_key: Option<&SystemKey>,
) -> Result<Option<MatchedEvent>, Unreadable> {
    if record.is_marker {
        return Ok(None);
    }
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let org_id: OrgId = key.and_then(|key| key.parse().ok()).ok_or(Unreadable)?;
    // Most organizations have no endpoint: their records are not decoded.
    if !snapshot.has_endpoints(org_id) {
        return Ok(None);
    }
    let native = record.as_native();
    let event = native::read_event_with(&native, system_key).map_err(|_| Unreadable)?;
    let is_encoded = event.payload_encoding.is_some();
    let endpoints = snapshot.matching(event.org_id, &event.event_type, &Payload::new(&event.payload, is_encoded));
    if endpoints.is_empty() {
        return Ok(None);
    }
    let lane = LaneKey::of(event.org_id, event.ordering_key.as_deref());
    let may_be_duplicate = event.dedup.is_some() || native.may_repeat_an_id();
    let endpoints_matched = u32::try_from(endpoints.len()).ok();
    let counts_successes = snapshot.has_ack_on_success(event.org_id);
    let outbound = outbound_event(event, record, log_epoch);
    let event = Arc::new(OutboundEvent { endpoints_matched, counts_successes, ..outbound });
    let delivery = |endpoint| {
        let lane = snapshot.is_ordered(endpoint).then_some(lane);
        Delivery { lane, ..Delivery::new(endpoint, event.clone()) }
    };
    let deliveries = endpoints.into_iter().map(delivery).collect();
    Ok(Some(MatchedEvent { event, deliveries, may_be_duplicate }))
}

fn outbound_event(event: Event, record: &Record, log_epoch: i32) -> OutboundEvent {
    OutboundEvent {
        org_id: event.org_id,
        event_id: event.event_id,
        event_type: event.event_type,
        // No broker writes a time outside of the calendar.
        accepted_at: Timestamp::from_millis(record.timestamp_ms).map_or(OffsetDateTime::UNIX_EPOCH, |time| time.0),
        payload: event.payload,
        payload_encoding: event.payload_encoding.map(|encoding| Cow::Borrowed(encoding.as_str())),
        // It becomes a header, and a text in the database.
        traceparent: event
            .traceparent
            .filter(|text| text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic())),
        hops: i32::from(hops::of_record(&record.headers)),
        endpoints_matched: None,
        counts_successes: false,
        log_epoch,
        partition: record.partition,
        offset: record.offset,
    }
}
