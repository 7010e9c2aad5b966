//! Read-your-writes: before a read, a bounded wait until the view shows what this instance accepted for the
//! organization in the last seconds, and what the client says was accepted elsewhere (`min_position`). A view that does
//! not catch up is read as it is.

use std::time::{Duration, Instant};

use platform::fence::{Positions, PositionsPoller};
use platform::read_your_writes::RecentWrites;
use schemas::ids::OrgId;
use schemas::position::Place;

/// Bound of the wait.
const CATCH_UP: Duration = Duration::from_secs(1);
/// What ingest puts into a position: it does not know in which log epoch it writes, only that it is the newest.
const NEWEST_EPOCH: i32 = 0;

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

    /// Waits at most 1 s. Answers whether there was anything to wait for, which is when a second read may show more
    /// than a first one did.
    pub(crate) async fn catch_up(&self, organization: OrgId, min_positions: &[Place]) -> bool {
        let written = self.written.last(organization.as_uuid(), Instant::now()).into_iter();
        let mut goals: Vec<Place> = written
            .map(|(partition, next)| Place { log_epoch: NEWEST_EPOCH, partition, offset: next.saturating_sub(1) })
            .collect();
        goals.extend_from_slice(min_positions);
        if goals.is_empty() {
            return false;
        }
        let are_shown = |positions: &Positions| goals.iter().all(|goal| is_shown(positions, &self.events_topic, *goal));
        if !self.positions.wait_until(CATCH_UP, are_shown).await {
            tracing::debug!(%organization, ?goals, "View has not caught up within 1 s; reading it as it is.");
        }
        true
    }
}

/// Positions of another log epoch say nothing about this one: they count as shown.
fn is_shown(positions: &Positions, topic: &str, goal: Place) -> bool {
    match positions.get(topic, goal.partition) {
        Some(position) if goal.log_epoch == NEWEST_EPOCH || goal.log_epoch == position.log_epoch => {
            position.next_offset > goal.offset
        }
        Some(_) => true,
        None => goal.log_epoch != NEWEST_EPOCH,
    }
}
