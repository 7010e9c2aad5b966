//! Counts the instances that limit rates, and deletes windows that count nothing any more.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::time::{MissedTickBehavior, timeout};

use super::queue::LeaseQueue;

const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// An instance is seen while it reported within this many of its intervals.
const SEEN_REPORTS: u32 = 3;
/// A sweep after this many reports.
const SWEEP_EVERY: u32 = 6;
/// Rows in one sweep.
const SWEEP_ROWS: i64 = 10_000;
/// A row is deleted when its newest bucket is older than this many windows.
const SWEEP_AFTER: i64 = 5;

/// Runs until it is dropped.
pub(super) async fn run(queue: Arc<LeaseQueue>, pool: PgPool) {
    let mut ticks = tokio::time::interval(queue.settings.report_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_sweep = SWEEP_EVERY;
    loop {
        ticks.tick().await;
        let mut upkeep = std::pin::pin!(async {
            let instances = report(&queue, &pool).await?;
            until_sweep -= 1;
            if until_sweep == 0 {
                until_sweep = SWEEP_EVERY;
                sweep(&queue, &pool).await?;
            }
            Ok::<u32, sqlx::Error>(instances)
        });
        match timeout(QUERY_TIMEOUT, upkeep.as_mut()).await {
            Ok(Ok(instances)) => queue.set_instances(instances),
            Ok(Err(error)) => tracing::debug!(%error, "Counting the instances failed; keeping the last number"),
            Err(_) => tracing::debug!("Counting the instances timed out; keeping the last number"),
        }
    }
}

/// Reports this instance and returns how many were seen lately.
async fn report(queue: &LeaseQueue, pool: &PgPool) -> Result<u32, sqlx::Error> {
    let seen_for = queue.settings.report_every * SEEN_REPORTS;
    let others: i64 = sqlx::query_scalar(
        "WITH gone AS (
             DELETE FROM rate_limit_instances WHERE seen_at < now() - make_interval(secs => 10 * $2)
         ), reported AS (
             INSERT INTO rate_limit_instances (instance) VALUES ($1)
             ON CONFLICT (instance) DO UPDATE SET seen_at = now()
         )
         SELECT count(*) FROM rate_limit_instances
         WHERE instance <> $1 AND seen_at > now() - make_interval(secs => $2)",
    )
    .bind(queue.instance)
    .bind(seen_for.as_secs_f64())
    .fetch_one(pool)
    .await?;
    Ok(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1))
}

async fn sweep(queue: &LeaseQueue, pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM rate_limits WHERE scope IN (
             SELECT scope FROM rate_limits
             WHERE newest_bucket < (extract(epoch FROM clock_timestamp()) * 1000)::bigint / $1 - $2
             LIMIT $3 FOR UPDATE SKIP LOCKED)",
    )
    .bind(i64::from(queue.shape.bucket_ms))
    .bind(SWEEP_AFTER * i64::from(queue.shape.window))
    .bind(SWEEP_ROWS)
    .execute(pool)
    .await?;
    Ok(())
}
