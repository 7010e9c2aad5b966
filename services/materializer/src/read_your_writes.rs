//! Read-your-writes: before a read, a bounded wait until the view shows what this instance accepted for the
//! organization in the last seconds, and what the client says was accepted elsewhere (`min_position`). A view that does
//! not catch up is read as it is.

use std::time::{Duration, Instant};

use kafka::fence::{Positions, PositionsPoller};
use kafka::read_your_writes::RecentWrites;
use schemas::ids::OrgId;
use schemas::position::RecordPosition;

/// Bound of the wait.
const CATCH_UP: Duration = Duration::from_secs(1);
/// By how much append times of one partition may decrease: the clocks of brokers differ, and leaders change.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// Waits for the view to catch up.
pub(crate) struct ReadYourWrites {
    events_topic: String,
    written: RecentWrites,
    positions: PositionsPoller,
}

impl ReadYourWrites {
    pub(crate) fn new(events_topic: &str, written: RecentWrites, positions: PositionsPoller) -> Self {
        Self { events_topic: events_topic.to_owned(), written, positions }
    }

    /// Waits at most 1 s. Returns whether there was a position to wait for; only then may a second read show more.
    pub(crate) async fn catch_up(&self, organization: OrgId, min_positions: &[RecordPosition]) -> bool {
        let written = self.written.last(organization.as_uuid(), Instant::now());
        if written.is_empty() && min_positions.is_empty() {
            return false;
        }
        let topic = &self.events_topic;
        let is_written_shown = |positions: &Positions, (partition, next_offset)| {
            positions.get(topic, partition).is_some_and(|position| position.next_offset >= next_offset)
        };
        let are_shown = |positions: &Positions| {
            written.iter().all(|write| is_written_shown(positions, *write))
                && min_positions.iter().all(|min_position| is_shown(positions, topic, min_position))
        };
        if !self.positions.wait_until(CATCH_UP, are_shown).await {
            let goals = (&written, min_positions);
            tracing::debug!(%organization, ?goals, "View did not catch up within 1 s; reading it as it is");
        }
        true
    }
}

/// Whether the view shows the record, or a later log than the record's. An offset alone does not say in which log it
/// is; append times do. If they are close, the offsets decide: then a read waits for a record of an older log until the
/// bound.
fn is_shown(positions: &Positions, topic: &str, record: &RecordPosition) -> bool {
    let Some(position) = positions.get(topic, record.partition) else { return false };
    let last_applied_ms = positions.record_time_ms(topic, record.partition);
    match last_applied_ms.map(|last| last.saturating_sub(record.appended_at_ms)) {
        Some(later_by) if later_by > CLOCKS_DIFFER_MS => true,
        Some(later_by) if later_by < -CLOCKS_DIFFER_MS => false,
        _ => position.next_offset > record.offset,
    }
}
