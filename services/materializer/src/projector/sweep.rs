//! What time does to rows: taking away what nothing will ask for again (effects whose event never came, dedup keys past
//! their window, rejected records of a month ago), and applying effects that missed their event. In small batches, so
//! that no statement holds anybody up.

use std::time::Duration;

use platform::kafka::KafkaConfig;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::flush::missed;
use super::generation::Generation;
use super::reach;
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;

/// Rows that one statement takes away at most; a full batch is followed by the next one at once.
const BATCH: u64 = 1000;
/// Who acknowledged an event sees it until then, in the rare case that the two missed each other.
const LONGEST_MISS: Duration = Duration::from_secs(2);
/// Of up to 1000 effects each. Acks of events that nobody has wait for days, in any number: a pass looks at some of
/// them, the next one goes on from there.
const LOOKS_PER_PASS: usize = 10;

/// Sweeps every `interval` until `shutdown`, and looks for effects that missed their event more often. Several
/// instances may: what one has done is not there any more for the others.
pub(crate) async fn run(pool: PgPool, kafka: KafkaConfig, interval: Duration, shutdown: CancellationToken) {
    tokio::join!(
        take_away(&pool, &kafka, interval, &shutdown),
        apply_missed(&pool, interval.min(LONGEST_MISS), &shutdown)
    );
}

async fn take_away(pool: &PgPool, kafka: &KafkaConfig, interval: Duration, shutdown: &CancellationToken) {
    while slept(interval, shutdown).await {
        // What fails now is still there at the next round.
        if let Err(error) = sweep(pool, kafka, shutdown).await {
            debug!(%error, "Sweeping was cut short.");
        }
    }
}

async fn apply_missed(pool: &PgPool, interval: Duration, shutdown: &CancellationToken) {
    let mut after = BEGIN;
    while slept(interval, shutdown).await {
        for _ in 0..LOOKS_PER_PASS {
            match missed::apply(pool, Generation::Live, after).await {
                Ok(Some(last)) => after = last,
                Ok(None) => {
                    after = BEGIN;
                    break;
                }
                // From the same place again.
                Err(error) => {
                    debug!(%error, "Looking for effects that missed their event was cut short.");
                    break;
                }
            }
        }
    }
}

/// Before all names.
pub(crate) const BEGIN: missed::Named = (Uuid::nil(), Uuid::nil());

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

/// Takes away one batch of each kind after the other until nothing is left of any.
async fn sweep(pool: &PgPool, kafka: &KafkaConfig, shutdown: &CancellationToken) -> Result<(), sqlx::Error> {
    let Some(reach) = shutdown.run_until_cancelled(events_reach(pool, kafka)).await.transpose()? else { return Ok(()) };
    while !shutdown.is_cancelled() {
        // An event is on the log before its ack, or soon after: one that was not among those of the next 9 days never
        // comes.
        let effects = sqlx::query(
            "DELETE FROM view.pending_effects WHERE ctid IN (
                 SELECT ctid FROM view.pending_effects WHERE appended_at < LEAST(now(), $1::timestamptz) - interval '9 days'
                 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let effects = effects.bind(reach).execute(pool).await?.rows_affected();
        if effects > 0 {
            METRICS.effects_dropped.inc_by(effects);
            warn!(dropped = effects, "Acks or attempts were dropped: their events never came.");
        }
        // Long past its window: clocks of brokers differ, and a repeat within it that is still unread must find its
        // key.
        let keys = sqlx::query(
            "DELETE FROM dedup_keys WHERE ctid IN (
                 SELECT ctid FROM dedup_keys WHERE expires_at < LEAST(now(), $1::timestamptz) - interval '8 days'
                 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let keys = keys.bind(reach);
        // Both carry the time of the newest record that they were asked for. Below the floor no reading of the log
        // takes it, nor any older one.
        let places = sqlx::query(
            "DELETE FROM event_places WHERE ctid IN (
                 SELECT ctid FROM event_places WHERE accepted_at < (SELECT floor FROM view_floor) LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let verdicts = sqlx::query(
            "DELETE FROM verdicts WHERE ctid IN (
                 SELECT ctid FROM verdicts WHERE accepted_at < (SELECT floor FROM view_floor) LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        // With its last attempt, which goes by the log's time; when it was begun is told by a dispatcher's clock, and
        // only says where to look.
        let deliveries = sqlx::query(
            "DELETE FROM view.deliveries WHERE ctid IN (
                 SELECT ctid FROM view.deliveries d WHERE last_started_at < (SELECT floor FROM view_floor)
                        AND NOT EXISTS (SELECT FROM view.delivery_attempts a WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)
                 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let mut most = effects.max(rejected::sweep(pool).await?);
        for query in [keys, places, verdicts, deliveries] {
            most = most.max(query.execute(pool).await?.rows_affected());
        }
        if most < BATCH {
            return Ok(());
        }
    }
    Ok(())
}
