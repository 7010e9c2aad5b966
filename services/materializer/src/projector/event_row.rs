//! One event record on its way into the view.

use kafka::Record;
use schemas::ids::{EventId, OrgId};
use schemas::position::LogPosition;
use schemas::records::Event;

/// An event, the position of its record, and its duplicate decision.
#[derive(Debug)]
pub(crate) struct EventRow<'a> {
    pub(crate) event: &'a Event,
    pub(crate) position: LogPosition,
    /// Append time of the record, milliseconds since the Unix epoch.
    pub(crate) accepted_at_ms: i64,
    /// Another record may have the same event id: a producer chose the id, or the record was redriven.
    pub(crate) may_repeat: bool,
    /// The original, if the record is a duplicate.
    pub(crate) duplicate_of: Option<EventId>,
}

impl<'a> EventRow<'a> {
    pub(crate) fn new(record: &Record, event: &'a Event, log_epoch: i32) -> Self {
        Self {
            event,
            position: LogPosition { log_epoch, partition: record.partition, offset: record.offset },
            accepted_at_ms: record.timestamp_ms,
            may_repeat: record.as_native().may_repeat_an_id(),
            duplicate_of: None,
        }
    }

    pub(crate) fn id(&self) -> (OrgId, EventId) {
        (self.event.org_id, self.event.event_id)
    }
}
