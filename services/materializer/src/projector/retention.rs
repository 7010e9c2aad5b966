//! What the view keeps, and for how long: parts are made before they are needed and dropped when all of their events
//! are past the retention, acknowledged or not. What is not kept by parts is taken away by `sweep`.

use std::time::Duration;

use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::sweep::slept;
use super::time_partitions::partition_days;
use crate::metrics::METRICS;

/// How long before they go unacknowledged events are warned of, days.
const WARNING_DAYS: i32 = 2;
const RETRY: Duration = Duration::from_secs(5);
/// Counting what is about to go stops here.
const COUNTED: i64 = 10_000;

/// Looks after the parts every `interval` until `shutdown`, at once to begin with. Every instance may: what one has
/// done is done for all.
pub(crate) async fn run(pool: PgPool, retention_days: u32, interval: Duration, shutdown: CancellationToken) {
    loop {
        let looked_after = look_after(&pool, retention_days).await;
        if let Err(error) = &looked_after {
            warn!(%error, "The parts of the view could not be looked after; trying again.");
        }
        let pause = if looked_after.is_ok() { interval } else { interval.min(RETRY) };
        if !slept(pause, &shutdown).await {
            return;
        }
    }
}

async fn look_after(pool: &PgPool, retention_days: u32) -> Result<(), sqlx::Error> {
    let days = partition_days(retention_days);
    sqlx::query(
        "SELECT view_ensure_time_partition('view', now(), $1), view_ensure_time_partition('view', now() + make_interval(days => $1), $1)",
    )
    .bind(days)
    .execute(pool)
    .await?;
    let retention_days = i32::try_from(retention_days).unwrap_or(i32::MAX);
    // On the grid of the parts: nothing that a part still holds is ever below the floor.
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
        drop_part(pool, starts_at).await?;
    }
    // Also where no part was: a log that reaches back further is not read into the view.
    sqlx::query("UPDATE retention_floor SET floor = $1 WHERE floor < $1").bind(limit).execute(pool).await?;
    warn_ahead(pool, limit).await
}

async fn drop_part(pool: &PgPool, starts_at: OffsetDateTime) -> Result<(), sqlx::Error> {
    // Nobody is kept waiting for long behind the lock; looking everything up may take as long as it needs.
    let mut transaction =
        pool.begin_with("BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0").await?;
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
        warn!(%starts_at, dropped, unacknowledged, "Events past their retention were dropped that nobody had acknowledged.");
    } else if dropped.is_some() {
        info!(%starts_at, dropped, "Events past their retention were dropped.");
    }
    Ok(())
}

async fn warn_ahead(pool: &PgPool, limit: OffsetDateTime) -> Result<(), sqlx::Error> {
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
            .bind(COUNTED)
            .fetch_one(pool)
            .await?
        }
    };
    METRICS.events_expiring.set(expiring as f64);
    if expiring > 0 {
        warn!(expiring, within_days = WARNING_DAYS, "Events will be dropped soon that nobody has acknowledged.");
    }
    Ok(())
}
