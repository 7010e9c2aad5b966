//! Read-your-writes: before a read, a bounded wait until the view shows what this instance accepted for the
//! organization a moment ago, and what the client says it has seen accepted elsewhere (`min_position`). A view that
//! does not catch up is read as it is.

use std::time::Duration;

use platform::fence::PositionWatch;
use platform::read_your_writes::RecentWrites;
use schemas::ids::OrgId;
use schemas::position::Place;
use sqlx::postgres::PgPool;
use tokio::time::Instant;

/// Bound of the wait.
const CATCH_UP: Duration = Duration::from_secs(1);
/// What ingest puts into a position: it does not know in which log epoch it writes, only that it is the newest.
const NEWEST_EPOCH: i32 = 0;

/// Knows how far the view is behind.
pub(crate) struct Freshness {
    pool: PgPool,
    consumer: String,
    events_topic: String,
    written: RecentWrites,
    watch: PositionWatch,
}

impl Freshness {
    pub(crate) fn new(
        pool: PgPool,
        consumer: &str,
        events_topic: &str,
        written: RecentWrites,
        watch: PositionWatch,
    ) -> Self {
        Self { pool, consumer: consumer.to_owned(), events_topic: events_topic.to_owned(), written, watch }
    }

    /// Waits at most 1 s. Answers whether there was anything to wait for, which is when a second look may show more
    /// than a first one did.
    pub(crate) async fn catch_up(&self, organization: OrgId, min_positions: &[Place]) -> bool {
        let until = Instant::now() + CATCH_UP;
        let mut goals = self.written.last(organization.as_uuid(), std::time::Instant::now());
        // A database that hangs must not hold us up here either.
        goals.extend(tokio::time::timeout_at(until, self.of_this_epoch(min_positions)).await.unwrap_or_default());
        for (partition, next_offset) in &goals {
            // One after the other under one deadline: the slowest decides anyway.
            let left = until.saturating_duration_since(Instant::now());
            if !self.watch.reached(&self.events_topic, *partition, *next_offset, left).await {
                tracing::debug!(%organization, partition, next_offset, "The view has not caught up in time.");
                break;
            }
        }
        !goals.is_empty()
    }

    /// Positions of another log epoch say nothing about this one: they count as reached.
    async fn of_this_epoch(&self, places: &[Place]) -> Vec<(i32, i64)> {
        let mut epochs: Vec<(i32, i32)> = Vec::new();
        if places.iter().any(|place| place.log_epoch != NEWEST_EPOCH) {
            let query = sqlx::query_as(
                "SELECT partition, log_epoch FROM consumer_positions WHERE consumer = $1 AND topic = $2",
            );
            // Out of reach: the read that follows says so, better than we could.
            epochs =
                query.bind(&self.consumer).bind(&self.events_topic).fetch_all(&self.pool).await.unwrap_or_default();
        }
        let is_current =
            |place: &Place| place.log_epoch == NEWEST_EPOCH || epochs.contains(&(place.partition, place.log_epoch));
        places
            .iter()
            .filter(|place| is_current(place))
            .map(|place| (place.partition, place.offset.saturating_add(1)))
            .collect()
    }
}
