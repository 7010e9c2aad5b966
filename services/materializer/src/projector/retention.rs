//! Retention of the view: creates time partitions before they are needed, and drops those whose events are all past the
//! retention, acknowledged or not. `sweep` deletes expired rows of the other tables.

use std::time::Duration;

use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pause::sleep_unless_shutdown;
use super::time_partitions::partition_days;
use crate::metrics::METRICS;

/// How long before unacknowledged events are dropped a warning is logged, days.
const WARNING_DAYS: i32 = 2;
const RETRY: Duration = Duration::from_secs(5);
/// Expiring events are counted up to this number.
const MAX_COUNTED: i64 = 10_000;

/// Maintains the time partitions at once, and then every `interval` until `shutdown`. Every instance may: the work of
/// one is done for all.
pub(crate) async fn run(pool: PgPool, retention_days: u32, interval: Duration, shutdown: CancellationToken) {
    loop {
        let maintained = maintain_time_partitions(&pool, retention_days).await;
        if let Err(error) = &maintained {
            warn!(%error, "Maintaining time partitions failed; retrying.");
        }
        let pause = if maintained.is_ok() { interval } else { interval.min(RETRY) };
        if !sleep_unless_shutdown(pause, &shutdown).await {
            return;
        }
    }
}

async fn maintain_time_partitions(pool: &PgPool, retention_days: u32) -> Result<(), sqlx::Error> {
    let days = partition_days(retention_days);
    sqlx::query(
        "SELECT view_ensure_time_partition('view', now(), $1),
                view_ensure_time_partition('view', now() + make_interval(days => $1), $1)",
    )
    .bind(days)
    .execute(pool)
    .await?;
    let retention_days = i32::try_from(retention_days).unwrap_or(i32::MAX);
    // On the grid of the time partitions: an event of a time partition that is kept is never below the floor.
    let limit: OffsetDateTime = sqlx::query_scalar(
        "SELECT date_bin(make_interval(days => $1), now() - make_interval(days => $2), 'epoch'::timestamptz)",
    )
    .bind(days)
    .bind(retention_days)
    .fetch_one(pool)
    .await?;
    let expired: Vec<(OffsetDateTime,)> =
        sqlx::query_as("SELECT starts_at FROM view.time_partitions WHERE ends_at <= $1 ORDER BY starts_at")
            .bind(limit)
            .fetch_all(pool)
            .await?;
    for (starts_at,) in expired {
        drop_time_partition(pool, starts_at).await?;
    }
    // Also if no time partition was dropped: records of the log below the floor are not read into the view.
    sqlx::query("UPDATE retention_floor SET floor = $1 WHERE floor < $1").bind(limit).execute(pool).await?;
    warn_of_expiring_events(pool, limit).await
}

async fn drop_time_partition(pool: &PgPool, starts_at: OffsetDateTime) -> Result<(), sqlx::Error> {
    // A short lock timeout, so that other transactions do not queue behind the lock. Counting may take long.
    let mut transaction =
        runtime::postgres::begin_with(pool, "BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0")
            .await?;
    let (dropped, unacknowledged): (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT dropped, unacknowledged FROM view_drop_time_partition($1)")
            .bind(starts_at)
            .fetch_one(&mut *transaction)
            .await?;
    transaction.commit().await?;
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    METRICS.events_expired.with_label_values(&["acknowledged"]).inc_by(count(dropped) - count(unacknowledged));
    METRICS.events_expired.with_label_values(&["unacknowledged"]).inc_by(count(unacknowledged));
    if count(unacknowledged) > 0 {
        warn!(%starts_at, dropped, unacknowledged, "Dropped expired events, some of them unacknowledged.");
    } else if dropped.is_some() {
        info!(%starts_at, dropped, "Dropped expired events.");
    }
    Ok(())
}

async fn warn_of_expiring_events(pool: &PgPool, limit: OffsetDateTime) -> Result<(), sqlx::Error> {
    let ends: Option<OffsetDateTime> = sqlx::query_scalar(
        "SELECT max(ends_at) FROM view.time_partitions WHERE ends_at <= $1 + make_interval(days => $2)",
    )
    .bind(limit)
    .bind(WARNING_DAYS)
    .fetch_one(pool)
    .await?;
    let expiring: i64 = match ends {
        None => 0,
        Some(ends) => {
            sqlx::query_scalar(
                "SELECT count(*) FROM (SELECT FROM view.events WHERE accepted_at < $1 AND acknowledged_at IS NULL
                                       LIMIT $2) AS expiring",
            )
            .bind(ends)
            .bind(MAX_COUNTED)
            .fetch_one(pool)
            .await?
        }
    };
    METRICS.events_expiring.set(expiring as f64);
    if expiring > 0 {
        warn!(expiring, within_days = WARNING_DAYS, "Unacknowledged events will expire soon; they will be dropped.");
    }
    Ok(())
}
