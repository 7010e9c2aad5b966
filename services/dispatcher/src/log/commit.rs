//! Commits a plan in one transaction: positions, new rows and outcomes. Repeats it until its outcome is known.

use kafka::fence::{self, Advance, CommitOutcome};
use runtime::postgres::{SqlEffect, effect};
use runtime::retry::Backoff;
use sqlx::postgres::PgPool;
use tracing::warn;

use crate::acks;
use crate::log::tracker::CommitPlan;
use crate::retry::schedule::{self, OpenLimits};

#[derive(Debug, Default)]
pub(crate) struct CommitResult {
    /// Positions that were committed.
    pub advances: Vec<Advance>,
    /// Partitions that another instance has claimed, with our epoch; nothing of them was committed.
    pub fenced: Vec<(i32, i64)>,
    /// Rows that were written, or existed already.
    pub rows: usize,
    /// Outcomes that were written.
    pub outcomes: usize,
}

/// The database refuses the transaction for a reason that does not pass: a retry would repeat it for ever.
#[derive(Debug, thiserror::Error)]
#[error("positions and delivery rows could not be written: {0}")]
pub(crate) struct CommitError(#[source] pub sqlx::Error);

/// Commits `plan`, as often as needed. Nothing of a fenced partition is committed.
///
/// # Errors
/// Only errors that a retry cannot repair.
pub(crate) async fn commit(
    pool: &PgPool,
    consumer: &str,
    mut plan: CommitPlan,
    limits: OpenLimits,
) -> Result<CommitResult, CommitError> {
    let (mut fenced, mut backoff) = (Vec::new(), Backoff::of_database());
    let mut is_committed = false;
    while !is_committed && !plan.is_empty() {
        match try_commit(pool, consumer, &plan, limits).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => wait_after(error, &mut backoff).await?,
        }
        let outcomes = commit_outcomes(pool, consumer, &plan.advances, &mut backoff).await?;
        for (advance, outcome) in std::mem::take(&mut plan.advances).into_iter().zip(outcomes) {
            match outcome {
                // One transaction: one committed position shows that all of it was committed. An advance to the same
                // offset shows nothing; then the rows are written again, which finds them.
                CommitOutcome::Committed if advance.next > advance.expected => is_committed = true,
                CommitOutcome::Fenced => {
                    plan.drop_rows(advance.partition);
                    fenced.push((advance.partition, advance.epoch));
                    continue;
                }
                CommitOutcome::Committed | CommitOutcome::Retry => {}
            }
            plan.advances.push(advance);
        }
    }
    Ok(CommitResult { rows: plan.rows.len(), outcomes: plan.outcomes.len(), advances: plan.advances, fenced })
}

/// `false`: a position did not match, and nothing was committed.
async fn try_commit(pool: &PgPool, consumer: &str, plan: &CommitPlan, limits: OpenLimits) -> Result<bool, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    if !plan.advances.is_empty() {
        let advanced = fence::advance(&mut transaction, consumer, &plan.advances).await?;
        if advanced.contains(&false) {
            transaction.rollback().await?;
            return Ok(false);
        }
    }
    schedule::insert(&mut transaction, &plan.rows, limits).await?;
    schedule::write_outcomes(&mut transaction, &plan.outcomes).await?;
    acks::store(&mut transaction, &plan.successes).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn commit_outcomes(
    pool: &PgPool,
    consumer: &str,
    advances: &[Advance],
    backoff: &mut Backoff,
) -> Result<Vec<CommitOutcome>, CommitError> {
    loop {
        match fence::commit_outcomes(pool, consumer, advances).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) => wait_after(error, backoff).await?,
        }
    }
}

async fn wait_after(error: sqlx::Error, backoff: &mut Backoff) -> Result<(), CommitError> {
    match effect(&error) {
        SqlEffect::Retry => Ok(()),
        SqlEffect::Unavailable => {
            warn!(%error, "Database unavailable; retrying the commit of positions and delivery rows.");
            backoff.pause().await;
            Ok(())
        }
        SqlEffect::Data | SqlEffect::Fatal => Err(CommitError(error)),
    }
}
