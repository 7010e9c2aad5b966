//! Deletes the rows of organizations that are being erased: in the view, in `rejected`, and their duplicate decisions.
//! `flush` skips new records of these organizations.

use std::time::Duration;

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::erasure::{Erasure, ErasureError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::pause::sleep_unless_shutdown;

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of rows (for attempts: deliveries) that one statement deletes.
const BATCH: i64 = 1000;

/// Deletes one batch from each table that has rows of an organization. `retention_gaps` comes last: its rows
/// are computed from those of `events`.
const BATCHES: [&str; 9] = [
    // Open events and acknowledged ones have an index each.
    "DELETE FROM view.events
     WHERE org_id = $1 AND event_id IN (SELECT event_id FROM view.events
                                        WHERE org_id = $1 AND acknowledged_at IS NULL LIMIT $2)",
    "DELETE FROM view.events
     WHERE org_id = $1 AND event_id IN (SELECT event_id FROM view.events
                                        WHERE org_id = $1 AND acknowledged_at IS NOT NULL LIMIT $2)",
    "DELETE FROM view.delivery_attempts
     WHERE org_id = $1 AND delivery_id IN (SELECT delivery_id FROM view.delivery_attempts WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM view.deliveries
     WHERE org_id = $1 AND delivery_id IN (SELECT delivery_id FROM view.deliveries WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM view.pending_effects WHERE ctid IN (SELECT ctid FROM view.pending_effects WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM rejected WHERE ctid IN (SELECT ctid FROM rejected WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM dedup_keys WHERE ctid IN (SELECT ctid FROM dedup_keys WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM event_ids WHERE ctid IN (SELECT ctid FROM event_ids WHERE org_id = $1 LIMIT $2)",
    "DELETE FROM retention_gaps WHERE ctid IN (SELECT ctid FROM retention_gaps WHERE org_id = $1 LIMIT $2)",
];

/// Polls every second until `shutdown`. All instances may do so: each finds only the rows that are left.
pub(super) async fn run(pool: PgPool, erasure: Erasure, shutdown: CancellationToken) {
    while sleep_unless_shutdown(POLL_INTERVAL, &shutdown).await {
        if let Some(Err(error)) = shutdown.run_until_cancelled(erase_pending(&pool, &erasure)).await {
            debug!(%error, "Erasing organizations failed; retrying in the next round.");
        }
    }
}

async fn erase_pending(pool: &PgPool, erasure: &Erasure) -> Result<(), ErasureError> {
    for org_id in erasure.open().await? {
        let mut connection = pool.acquire().await?;
        while erase_batch(&mut connection, org_id).await? > 0 {}
        drop(connection);
        finish(pool, erasure, org_id).await?;
    }
    Ok(())
}

/// Returns the number of deleted rows.
async fn erase_batch(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let mut erased = 0;
    for statement in BATCHES {
        erased +=
            sqlx::query(statement).bind(org_id.as_uuid()).bind(BATCH).execute(&mut *connection).await?.rows_affected();
    }
    Ok(erased)
}

async fn finish(pool: &PgPool, erasure: &Erasure, org_id: OrgId) -> Result<(), ErasureError> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    // In this order: first make sure that no more rows can be written, then that no row is left.
    if erasure.is_passed(&mut transaction, org_id).await?
        && lock_out_other_writers(&mut transaction).await?
        && erase_batch(&mut transaction, org_id).await? == 0
    {
        // A rebuild that was interrupted before its last step has left the old tables.
        sqlx::query("DROP SCHEMA IF EXISTS view_retired CASCADE").execute(&mut *transaction).await?;
        erasure.done(&mut transaction, org_id).await?;
        transaction.commit().await?;
        info!(organization = %org_id, "Organization erased from the view.");
    }
    Ok(())
}

/// Locks out the other writers of these tables until the transaction ends: rebuilds and replays, and the task that
/// drops time partitions and records their retention gaps. `false`: one of them is running, or a rebuilt generation
/// exists, which is not searched here.
async fn lock_out_other_writers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT to_regnamespace('view_next') IS NULL
                AND pg_try_advisory_xact_lock(hashtext('triggers view rebuild'))
                AND pg_try_advisory_xact_lock(hashtext('triggers time partitions'))",
    )
    .fetch_one(connection)
    .await
}
