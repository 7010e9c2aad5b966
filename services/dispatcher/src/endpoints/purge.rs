//! Deletes what nobody needs any more: rows of endpoints that were deleted, secrets whose overlap ended, and replays
//! that ended long ago, and successes of events that have left the view.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{acks, replays};

const INTERVAL: Duration = Duration::from_secs(60);
/// Rows of one transaction. It holds the lock that every change of an endpoint takes.
const BATCH_ROWS: i64 = 500;

/// Purges until `shutdown`. Every instance may run this.
pub(crate) async fn run(pool: PgPool, shutdown: CancellationToken) {
    let purging = async {
        loop {
            match purge(&pool).await {
                Ok(0) => {}
                Ok(rows) => info!(rows, "Rows of deleted endpoints purged."),
                Err(error) => warn!(%error, "Deleted endpoints not purged; trying again in a minute."),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(purging).await;
}

/// Deletes all that can be deleted, in batches. Returns the number of endpoints.
pub(super) async fn purge(pool: &PgPool) -> Result<u64, sqlx::Error> {
    forget_secrets(pool).await?;
    replays::forget(pool).await?;
    acks::sweep(pool).await?;
    let mut purged = 0;
    loop {
        let candidates = candidates(pool).await?;
        if candidates.is_empty() {
            return Ok(purged);
        }
        purged += delete(pool, &candidates).await?;
    }
}

/// Endpoints that were deleted more than a day ago and that no open delivery names. A finished delivery needs only its
/// own id. The day is for people, who look at the deliveries of an endpoint that they just deleted; dispatchers need
/// none, because one that is older than a purged row reads all endpoints again.
async fn candidates(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT e.id FROM endpoints e
         WHERE e.deleted_at < now() - interval '1 day'
               AND NOT EXISTS (SELECT FROM delivery_schedule d
                               WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.refusal IS NULL
                                     AND d.lane IS NULL)
               AND NOT EXISTS (SELECT FROM delivery_schedule d
                               WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.refusal IS NULL
                                     AND d.lane IS NOT NULL)
               AND NOT EXISTS (SELECT FROM deliveries_awaiting_dedup d
                               WHERE d.org_id = e.org_id AND d.endpoint_id = e.id)
         ORDER BY e.deleted_at LIMIT $1",
    )
    .bind(BATCH_ROWS)
    .fetch_all(pool)
    .await
}

async fn delete(pool: &PgPool, ids: &[Uuid]) -> Result<u64, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    // First, as in every change of an endpoint: who waits for this lock holds no row that is deleted here.
    sqlx::query("SELECT FROM endpoints_version FOR UPDATE").execute(&mut *transaction).await?;
    let versions: Vec<i64> =
        sqlx::query_scalar("DELETE FROM endpoints WHERE id = ANY($1) AND deleted_at IS NOT NULL RETURNING version")
            .bind(ids)
            .fetch_all(&mut *transaction)
            .await?;
    for sql in [
        "DELETE FROM ordered_lanes WHERE endpoint_id = ANY($1)",
        "DELETE FROM endpoint_queues WHERE endpoint_id = ANY($1)",
        "DELETE FROM endpoint_conditions WHERE endpoint_id = ANY($1)",
    ] {
        sqlx::query(sql).bind(ids).execute(&mut *transaction).await?;
    }
    sqlx::query("UPDATE endpoints_version SET purged_version = greatest(purged_version, $1)")
        .bind(versions.iter().max().copied())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(versions.len() as u64)
}

/// Dispatchers do not use these secrets any more: they compare the time.
async fn forget_secrets(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut forgotten = u64::MAX;
    while forgotten > 0 {
        forgotten = sqlx::query(
            "UPDATE endpoints SET sealed_previous_secret = NULL, previous_expires_at = NULL
             WHERE id IN (SELECT id FROM endpoints WHERE previous_expires_at < now() - interval '1 minute'
                          LIMIT $1 FOR UPDATE SKIP LOCKED)",
        )
        .bind(BATCH_ROWS)
        .execute(pool)
        .await?
        .rows_affected();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
