//! Taking away what nothing will ask for again: effects whose event never came, and dedup keys past their window. In small batches, so that
//! no statement holds anybody up.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::METRICS;

/// Rows that one statement takes away at most; a full batch is followed by the next one at once.
const BATCH: u64 = 1000;

/// Sweeps every `interval` until `shutdown`. Several instances may: they take different rows.
pub(crate) async fn run(pool: PgPool, interval: Duration, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        // What fails now is still there at the next round.
        if let Err(error) = sweep(&pool, &shutdown).await {
            debug!(%error, "Sweeping was cut short.");
        }
    }
}

async fn sweep(pool: &PgPool, shutdown: &CancellationToken) -> Result<(), sqlx::Error> {
    while !shutdown.is_cancelled() {
        // Acks and deliveries are kept on the log for 9 days: an event that was not read by then never comes.
        let dropped = sqlx::query(
            "DELETE FROM view.pending_effects WHERE ctid IN (
                 SELECT ctid FROM view.pending_effects WHERE appended_at < now() - interval '9 days' LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let dropped = dropped.execute(pool).await?.rows_affected();
        if dropped > 0 {
            METRICS.effects_dropped.inc_by(dropped);
            warn!(dropped, "Acks or attempts were dropped: their events never came.");
        }
        // Long past its window by the clock, because the view may be behind it: a repeat that is still on the log must find its key.
        let keys = sqlx::query(
            "DELETE FROM dedup_keys WHERE ctid IN (
                 SELECT ctid FROM dedup_keys WHERE expires_at < now() - interval '8 days' LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        let keys = keys.execute(pool).await?.rows_affected();
        if dropped < BATCH && keys < BATCH {
            return Ok(());
        }
    }
    Ok(())
}
