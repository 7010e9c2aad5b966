//! A record of the log as the intake takes it: who it is for. Pure. What a record may look like is defined in
//! `schemas`; a record that nobody can read is counted and passed here, since the materializer alone writes dead
//! letters.

use std::sync::Arc;

use platform::http::Timestamp;
use platform::kafka::Record;
use schemas::ids::OrgId;
use schemas::native;
use schemas::records::Event;
use time::OffsetDateTime;

use crate::delivery::Accepted;
use crate::intake::{Matched, Read};
use crate::matching::Snapshot;

/// What a record was, for the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes to at least one endpoint.
    Matched,
    /// Goes to none.
    Unmatched,
    Unreadable,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Unmatched => "unmatched",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Reads one record of a partition whose log is in `log_epoch`.
pub(crate) fn read(record: &Record, log_epoch: i32, snapshot: &Snapshot) -> (Read, Kind) {
    let (matched, kind) = match matched(record, log_epoch, snapshot) {
        Ok(Some(matched)) => (Some(matched), Kind::Matched),
        Ok(None) => (None, Kind::Unmatched),
        Err(Unreadable) => (None, Kind::Unreadable),
    };
    (Read { partition: record.partition, offset: record.offset, timestamp_ms: record.log_time_ms(), matched }, kind)
}

struct Unreadable;

fn matched(record: &Record, log_epoch: i32, snapshot: &Snapshot) -> Result<Option<Matched>, Unreadable> {
    if record.is_marker {
        return Ok(None);
    }
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let org_id: OrgId = key.and_then(|key| key.parse().ok()).ok_or(Unreadable)?;
    // Most organizations have no endpoint: their records are not even decoded.
    if !snapshot.knows(org_id) {
        return Ok(None);
    }
    let native = record.as_native();
    let event = native::read_event(&native).map_err(|_| Unreadable)?;
    let endpoints: Vec<_> = snapshot.matching(event.org_id, &event.event_type).collect();
    if endpoints.is_empty() {
        return Ok(None);
    }
    let keyed = event.dedup.is_some() || native.may_repeat_an_id();
    Ok(Some(Matched { event: Arc::new(accepted(event, record, log_epoch)), endpoints, keyed }))
}

fn accepted(event: Event, record: &Record, log_epoch: i32) -> Accepted {
    Accepted {
        org_id: event.org_id,
        event_id: event.event_id,
        event_type: event.event_type,
        // No broker writes a time outside of the calendar; it would become the epoch.
        accepted_at: Timestamp::from_millis(record.timestamp_ms).map_or(OffsetDateTime::UNIX_EPOCH, |time| time.0),
        payload: event.payload,
        // It becomes a header, and a text in the database.
        traceparent: event
            .traceparent
            .filter(|text| text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic())),
        log_epoch,
        partition: record.partition,
        offset: record.offset,
    }
}
