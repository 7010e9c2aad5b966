//! Deletes rows that are no longer needed: pending effects whose event never came, dedup keys past their window,
//! duplicate decisions and deliveries below the retention floor, and rejected records of a month ago. In small batches,
//! so that no statement blocks others for long.

use std::time::Duration;

use kafka::KafkaConfig;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::applied_until::applied_until;
use super::pause::sleep_unless_shutdown;
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;

/// Maximum number of rows that one statement deletes; a full batch is followed by the next one at once.
const BATCH: u64 = 1000;

/// Sweeps every `interval` until `shutdown`. Several instances may: each finds only the rows that are left.
pub(crate) async fn run(pool: PgPool, kafka: KafkaConfig, interval: Duration, shutdown: CancellationToken) {
    while sleep_unless_shutdown(interval, &shutdown).await {
        if let Err(error) = sweep(&pool, &kafka, &shutdown).await {
            debug!(%error, "Deleting expired rows failed; retrying in the next round.");
        }
    }
}

/// Append time up to which the view has applied the events; `None`: to the end of the log. Kafka is asked only if some
/// row is old enough to be deleted.
async fn events_applied_until(pool: &PgPool, kafka: &KafkaConfig) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    let is_due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM view.pending_effects WHERE appended_at < now() - interval '9 days')
                OR EXISTS (SELECT FROM dedup_keys WHERE expires_at < now() - interval '8 days')",
    )
    .fetch_one(pool)
    .await?;
    if is_due {
        match applied_until(pool, kafka).await {
            Ok(until) => return Ok(until),
            Err(error) => {
                debug!(%error, "Reading the lag of the view failed; keeping pending effects and dedup keys.")
            }
        }
    }
    Ok(Some(OffsetDateTime::UNIX_EPOCH))
}

// The subqueries are arrays: a nested loop may read a subquery several times, each time beyond the rows that are
// deleted already.

/// An event is on the log before its ack, or soon after. An effect whose event did not come within 9 days is dropped.
const EFFECTS: &str = "DELETE FROM view.pending_effects WHERE ctid = ANY (ARRAY(
     SELECT ctid FROM view.pending_effects WHERE appended_at < LEAST(now(), $1::timestamptz) - interval '9 days'
     LIMIT 1000 FOR UPDATE SKIP LOCKED))";

/// Keys are kept long past their window: clocks of brokers differ, and an unread duplicate within the window must find
/// its key.
const KEYS: &str = "DELETE FROM dedup_keys WHERE ctid = ANY (ARRAY(
     SELECT ctid FROM dedup_keys WHERE expires_at < LEAST(now(), $1::timestamptz) - interval '8 days'
     LIMIT 1000 FOR UPDATE SKIP LOCKED))";

/// Every reading of the log skips records below the floor, so the newest record that named the id and all older ones.
const EVENT_IDS: &str = "DELETE FROM event_ids WHERE ctid = ANY (ARRAY(
     SELECT ctid FROM event_ids WHERE newest_at < (SELECT floor FROM retention_floor)
     LIMIT 1000 FOR UPDATE SKIP LOCKED))";

/// A delivery is deleted when its last attempt was, which is by append time. `last_started_at` is by the clock of a
/// dispatcher; it only narrows the search.
const DELIVERIES: &str = "DELETE FROM view.deliveries WHERE ctid = ANY (ARRAY(
     SELECT ctid FROM view.deliveries d
     WHERE last_started_at < (SELECT floor FROM retention_floor)
           AND NOT EXISTS (SELECT FROM view.delivery_attempts a
                           WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)
     LIMIT 1000 FOR UPDATE SKIP LOCKED))";

/// Deletes one batch of each kind after the other until none is left.
async fn sweep(pool: &PgPool, kafka: &KafkaConfig, shutdown: &CancellationToken) -> Result<(), sqlx::Error> {
    let Some(until) = shutdown.run_until_cancelled(events_applied_until(pool, kafka)).await.transpose()? else {
        return Ok(());
    };
    while !shutdown.is_cancelled() {
        let effects = sqlx::query(EFFECTS).bind(until).execute(pool).await?.rows_affected();
        if effects > 0 {
            METRICS.effects_dropped.inc_by(effects);
            warn!(dropped = effects, "Dropped pending effects whose events never came.");
        }
        let mut most = effects.max(rejected::sweep(pool).await?);
        for query in [sqlx::query(KEYS).bind(until), sqlx::query(EVENT_IDS), sqlx::query(DELIVERIES)] {
            most = most.max(query.execute(pool).await?.rows_affected());
        }
        if most < BATCH {
            return Ok(());
        }
    }
    Ok(())
}
