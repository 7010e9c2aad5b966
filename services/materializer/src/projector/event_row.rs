//! One event record on its way into the view.

use platform::kafka::Record;
use schemas::ids::{EventId, OrgId};
use schemas::position::Place as LogPosition;
use schemas::records::Event;

/// An event, the record that holds it, and what was decided about it.
#[derive(Debug)]
pub(crate) struct EventRow<'a> {
    pub(crate) event: &'a Event,
    pub(crate) position: LogPosition,
    /// Append time of the record, milliseconds since the Unix epoch.
    pub(crate) accepted_at_ms: i64,
    /// Another record may have the same event id: a producer chose it, or the record was written again.
    pub(crate) may_repeat: bool,
    /// The original, once the record is found to be a duplicate of it.
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

    /// What the event is known by.
    pub(crate) fn id(&self) -> (OrgId, EventId) {
        (self.event.org_id, self.event.event_id)
    }
}
