//! What the view holds of organizations that are being erased goes, and what was decided about their events. That no
//! record of theirs is written any more is judged with each batch, in `flush`.

use std::time::Duration;

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::erasure::{Erasure, ErasureError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::sweep::slept;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rows (for attempts: deliveries) that one statement takes away at most.
const BATCH: i64 = 1000;

/// One batch of each table that holds anything of an organization. `retention_gaps` last: it is written from what the
/// first one takes away.
const BATCHES: [&str; 8] = [
    "DELETE FROM view.events
     WHERE org_id = $1 AND event_id IN (SELECT event_id FROM view.events WHERE org_id = $1 LIMIT $2)",
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

/// Looks every second until `shutdown`. Every instance may: what one has done is not there any more for the others.
pub(super) async fn run(pool: PgPool, erasure: Erasure, shutdown: CancellationToken) {
    while slept(LOOK_EVERY, &shutdown).await {
        if let Some(Err(error)) = shutdown.run_until_cancelled(look(&pool, &erasure)).await {
            debug!(%error, "Erasing was cut short; it goes on with the next look.");
        }
    }
}

async fn look(pool: &PgPool, erasure: &Erasure) -> Result<(), ErasureError> {
    for org_id in erasure.open().await? {
        let mut connection = pool.acquire().await?;
        while erase_batch(&mut connection, org_id).await? > 0 {}
        drop(connection);
        finish(pool, erasure, org_id).await?;
    }
    Ok(())
}

/// Answers how many rows went.
async fn erase_batch(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let mut erased = 0;
    for statement in BATCHES {
        erased +=
            sqlx::query(statement).bind(org_id.as_uuid()).bind(BATCH).execute(&mut *connection).await?.rows_affected();
    }
    Ok(erased)
}

async fn finish(pool: &PgPool, erasure: &Erasure, org_id: OrgId) -> Result<(), ErasureError> {
    let mut transaction = pool.begin().await?;
    // In this order: from here on nothing is written that is not there yet, and then nothing is there.
    if erasure.is_passed(&mut transaction, org_id).await?
        && is_alone(&mut transaction).await?
        && erase_batch(&mut transaction, org_id).await? == 0
    {
        // A rebuild that ended between its last two steps has left the old tables.
        sqlx::query("DROP SCHEMA IF EXISTS view_retired CASCADE").execute(&mut *transaction).await?;
        erasure.done(&mut transaction, org_id).await?;
        transaction.commit().await?;
        info!(organization = %org_id, "Nothing of an erased organization is left in the view.");
    }
    Ok(())
}

/// Keeps others that write the view without its positions away until the transaction ends: whoever reads the log again,
/// and whoever notes what a part held that is dropped. `false`: one of them is at work, or a generation of the view is
/// there that this one does not look into.
async fn is_alone(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT to_regnamespace('view_next') IS NULL
                AND pg_try_advisory_xact_lock(hashtext('triggers view rebuild'))
                AND pg_try_advisory_xact_lock(hashtext('triggers time partitions'))",
    )
    .fetch_one(connection)
    .await
}
