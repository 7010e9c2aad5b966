//! Deletes rows that nothing will ask for again: effects whose event never came, dedup keys past their window,
//! duplicate decisions and deliveries below the retention floor, rejected records of a month ago. In small batches, so
//! that no statement holds anybody up.

use std::time::Duration;

use platform::kafka::KafkaConfig;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::reach;
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;

/// Rows that one statement deletes at most; a full batch is followed by the next one at once.
const BATCH: u64 = 1000;

/// Sweeps every `interval` until `shutdown`. Several instances may: rows that one has deleted are gone for the others.
pub(crate) async fn run(pool: PgPool, kafka: KafkaConfig, interval: Duration, shutdown: CancellationToken) {
    while slept(interval, &shutdown).await {
        // What fails now is still there at the next round.
        if let Err(error) = sweep(&pool, &kafka, &shutdown).await {
            debug!(%error, "Sweeping failed; retrying in the next round.");
        }
    }
}

/// `false` when it is time to end.
pub(super) async fn slept(pause: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// Up to when the events are read, for what they ask for; `None`: to the end. The log is asked only where something is
/// to go by the clock.
async fn events_reach(pool: &PgPool, kafka: &KafkaConfig) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    let is_due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM view.pending_effects WHERE appended_at < now() - interval '9 days')
                OR EXISTS (SELECT FROM dedup_keys WHERE expires_at < now() - interval '8 days')",
    )
    .fetch_one(pool)
    .await?;
    if is_due {
        match reach::of_events(pool, kafka).await {
            Ok(reach) => return Ok(reach),
            Err(error) => debug!(%error, "How far the events are read is not known; what they may ask for stays."),
        }
    }
    Ok(Some(OffsetDateTime::UNIX_EPOCH))
}

/// An event is on the log before its ack, or soon after: an effect whose event was not among those of the next 9 days
/// never finds it.
const EFFECTS: &str = "DELETE FROM view.pending_effects WHERE ctid IN (
     SELECT ctid FROM view.pending_effects WHERE appended_at < LEAST(now(), $1::timestamptz) - interval '9 days'
     LIMIT 1000 FOR UPDATE SKIP LOCKED)";

/// Long past its window: clocks of brokers differ, and a duplicate within it that is still unread must find its key.
const KEYS: &str = "DELETE FROM dedup_keys WHERE ctid IN (
     SELECT ctid FROM dedup_keys WHERE expires_at < LEAST(now(), $1::timestamptz) - interval '8 days'
     LIMIT 1000 FOR UPDATE SKIP LOCKED)";

/// Below the floor no reading of the log takes the newest record that named the id, nor any older one.
const EVENT_IDS: &str = "DELETE FROM event_ids WHERE ctid IN (
     SELECT ctid FROM event_ids WHERE newest_at < (SELECT floor FROM retention_floor)
     LIMIT 1000 FOR UPDATE SKIP LOCKED)";

/// With its last attempt, which goes by the log's time. `last_started_at` is of a dispatcher's clock, and only says
/// where to look.
const DELIVERIES: &str = "DELETE FROM view.deliveries WHERE ctid IN (
     SELECT ctid FROM view.deliveries d
     WHERE last_started_at < (SELECT floor FROM retention_floor)
           AND NOT EXISTS (SELECT FROM view.delivery_attempts a
                           WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)
     LIMIT 1000 FOR UPDATE SKIP LOCKED)";

/// Deletes one batch of each kind after the other until nothing is left of any.
async fn sweep(pool: &PgPool, kafka: &KafkaConfig, shutdown: &CancellationToken) -> Result<(), sqlx::Error> {
    let Some(reach) = shutdown.run_until_cancelled(events_reach(pool, kafka)).await.transpose()? else { return Ok(()) };
    while !shutdown.is_cancelled() {
        let effects = sqlx::query(EFFECTS).bind(reach).execute(pool).await?.rows_affected();
        if effects > 0 {
            METRICS.effects_dropped.inc_by(effects);
            warn!(dropped = effects, "Dropped acks or attempts whose events never came.");
        }
        let mut most = effects.max(rejected::sweep(pool).await?);
        for query in [sqlx::query(KEYS).bind(reach), sqlx::query(EVENT_IDS), sqlx::query(DELIVERIES)] {
            most = most.max(query.execute(pool).await?.rows_affected());
        }
        if most < BATCH {
            return Ok(());
        }
    }
    Ok(())
}
