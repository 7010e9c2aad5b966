//! What the schedule holds of organizations that are being erased goes. That nothing more is sent does not depend on this: their endpoints
//! were deleted with the tombstone, by a trigger.

use std::time::Duration;

use platform::erasure::{Erasure, ErasureError};
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::rows;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks every second until `shutdown`. Every instance may: what one has done is not there any more for the others.
pub async fn run(pool: PgPool, erasure: Erasure, shutdown: CancellationToken) {
    let looks = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = look(&pool, &erasure).await {
                debug!(%error, "Erasing was cut short; it goes on with the next look.");
            }
        }
    };
    shutdown.run_until_cancelled(looks).await;
}

async fn look(pool: &PgPool, erasure: &Erasure) -> Result<(), ErasureError> {
    for org_id in erasure.open().await? {
        let mut connection = pool.acquire().await?;
        while rows::erase(&mut connection, org_id).await? > 0 {}
        drop(connection);
        finish(pool, erasure, org_id).await?;
    }
    Ok(())
}

async fn finish(pool: &PgPool, erasure: &Erasure, org_id: OrgId) -> Result<(), ErasureError> {
    let mut transaction = pool.begin().await?;
    // In this order: with the position there no row comes any more, and then none is left.
    if erasure.is_passed(&mut transaction, org_id).await? && rows::erase(&mut transaction, org_id).await? == 0 {
        erasure.done(&mut transaction, org_id).await?;
        transaction.commit().await?;
        info!(organization = %org_id, "Nothing of an erased organization is left to be sent.");
    }
    Ok(())
}
