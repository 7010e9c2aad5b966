//! Switches the live view to the next generation. The live positions are locked; the next generation is read up to
//! them, compared, and renamed. The switch fences every materializer, so that each claims its partitions again and
//! finds the new tables.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::timeout;
use tracing::warn;

use super::compare::{ViewDifference, compare};
use super::error::RebuildError;
use super::log_replayer::{LogReplayer, ReplayProgress};
use super::positions::{self, REBUILD, ViewPosition, lock_live, positions_of};
use crate::projector::CONSUMER;
use crate::projector::generation::Generation;
use crate::projector::reconcile;

/// How long the live positions may be locked while the rest of the log is read. After that the live view continues, and
/// the rebuild can be run again.
const MAX_LOCKED: Duration = Duration::from_secs(120);
/// Starts the transaction that locks the live positions. PostgreSQL enforces the limits, because this process may halt
/// or lose its connection, and the live view must continue all the same. The idle timeout is longer than
/// [`MAX_LOCKED`], in which this connection is idle. A statement may take ten minutes (the comparison reads both
/// generations), and is cancelled when the client is gone.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '30s'; \
                     SET LOCAL idle_in_transaction_session_timeout = '150s'; SET LOCAL statement_timeout = '10min'; \
                     SET LOCAL client_connection_check_interval = '1s'";

pub(super) struct Switchover<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) accept_differences: bool,
    pub(super) dry_run: bool,
}

pub(super) struct SwitchoverResult {
    pub(super) records: u64,
    pub(super) locked: Duration,
    pub(super) differences: Vec<ViewDifference>,
    pub(super) switched: bool,
}

impl Switchover<'_> {
    pub(super) async fn run(
        &self,
        replayer: &mut LogReplayer,
        progress: &(impl Fn(ReplayProgress) + Sync),
    ) -> Result<SwitchoverResult, RebuildError> {
        let mut transaction = runtime::postgres::begin_with(self.pool, BEGIN).await?;
        let live = lock_live(&mut transaction).await?;
        let started = Instant::now();
        // An error or a timeout from here on rolls the transaction back, and the live view continues.
        let targets = positions::targets(&live);
        let caught_up = async {
            let records = replayer.run_to(&targets, progress).await?;
            // Both generations may have pending effects whose event another transaction wrote.
            reconcile::all(self.pool, Generation::Live).await?;
            reconcile::all(self.pool, Generation::Next).await?;
            Ok::<_, RebuildError>(records)
        };
        let Ok(records) = timeout(MAX_LOCKED, caught_up).await else {
            return Err(RebuildError::Unsuitable(
                "the rest of the log could not be read within two minutes; run the rebuild again".to_owned(),
            ));
        };
        let records = records?;
        self.check_same_positions(&mut transaction, &live).await?;
        delete_expired(&mut transaction).await?;
        let differences = compare(&mut transaction).await?;
        let switched = !self.dry_run && (differences.is_empty() || self.accept_differences);
        if switched {
            sqlx::query("SELECT view_switch()").execute(&mut *transaction).await?;
            // Fences every materializer. Its next claim finds the new tables.
            sqlx::query("UPDATE consumer_positions SET epoch = epoch + 1 WHERE consumer = $1")
                .bind(CONSUMER)
                .execute(&mut *transaction)
                .await?;
            positions::delete(&mut transaction, REBUILD).await?;
            // A partition that was added meanwhile is not locked: its records were written into the old tables.
            if positions_of(&mut transaction, CONSUMER).await? != live {
                let message = "a partition was added during the rebuild; run it again";
                return Err(RebuildError::Unsuitable(message.to_owned()));
            }
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let locked = started.elapsed();
        if switched && let Err(error) = drop_retired(self.pool).await {
            // The switch is done. The old tables use disk space until the next rebuild, erasure or `view abandon`.
            warn!(%error, "Dropping the tables of the old view failed; drop them with: triggers view abandon");
        }
        Ok(SwitchoverResult { records, locked, differences, switched })
    }

    /// Fails if the positions of the rebuild differ from the live ones: an operator may have repaired a live position
    /// during the rebuild, and then the rebuild has read another log.
    async fn check_same_positions(
        &self,
        connection: &mut PgConnection,
        live: &[ViewPosition],
    ) -> Result<(), RebuildError> {
        let rebuilt = positions_of(connection, REBUILD).await?;
        for position in live {
            if !rebuilt.contains(position) {
                let message = format!(
                    "the position of {}[{}] differs from that of the live view; start again with --restart",
                    position.topic, position.partition
                );
                return Err(RebuildError::Unsuitable(message));
            }
        }
        Ok(())
    }
}

/// Deletes rows below the retention floor from the next generation. Records retention gaps for events below the floor
/// that the live view still has: the switch drops them.
async fn delete_expired(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "SELECT view_record_gaps_before('view.events', (SELECT floor FROM retention_floor))",
        "DELETE FROM view_next.events WHERE accepted_at < (SELECT floor FROM retention_floor)",
        "DELETE FROM view_next.delivery_attempts WHERE appended_at < (SELECT floor FROM retention_floor)",
        "DELETE FROM view_next.deliveries d
         WHERE NOT EXISTS (SELECT FROM view_next.delivery_attempts a
                           WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)",
        // Of events that were skipped.
        "DELETE FROM view_next.pending_effects
         WHERE effect = 'attempt' AND log_offset = -1 AND appended_at < (SELECT floor FROM retention_floor)",
        // Deliveries with a first attempt below the floor and later ones above it: the log reading skips the first one,
        // so `created_at` and `endpoints_matched` are copied.
        "UPDATE view_next.deliveries n
         SET created_at = LEAST(l.created_at, n.created_at),
             endpoints_matched = LEAST(l.endpoints_matched, n.endpoints_matched)
         FROM view.deliveries l
         WHERE l.org_id = n.org_id AND l.delivery_id = n.delivery_id
               AND (l.created_at < n.created_at OR l.endpoints_matched IS DISTINCT FROM n.endpoints_matched)
               AND NOT EXISTS (SELECT FROM view_next.delivery_attempts a
                               WHERE a.org_id = n.org_id AND a.delivery_id = n.delivery_id AND a.attempt = 1)",
    ] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Drops the tables of the previous live generation, if there are any.
pub(crate) async fn drop_retired(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = runtime::postgres::begin_with(pool, "BEGIN; SET LOCAL statement_timeout = 0").await?;
    sqlx::query("DROP SCHEMA IF EXISTS view_retired CASCADE").execute(&mut *transaction).await?;
    transaction.commit().await
}
