//! One transaction for positions, new rows and outcomes, carried through whatever the database does meanwhile. What
//! goes into it is decided in `intake`.

use kafka::fence::{self, Advance, CommitOutcome};
use runtime::postgres::{SqlEffect, effect};
use runtime::retry::Backoff;
use sqlx::postgres::PgPool;
use tracing::warn;

use crate::log::tracker::Plan;
use crate::retry::schedule;

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Positions that were moved.
    pub moved: Vec<Advance>,
    /// Partitions that were claimed again, with the epoch that lost them; nothing of them was committed.
    pub lost: Vec<(i32, i64)>,
    /// Rows that were written or were there.
    pub rows: usize,
}

/// The database refuses what cannot be refused for a passing reason. Going on would repeat it for ever.
#[derive(Debug, thiserror::Error)]
#[error("the schedule could not be written: {0}")]
pub(crate) struct CommitError(#[source] pub sqlx::Error);

/// Commits `plan`, as often as it takes. Partitions that were lost are left out, whole.
///
/// # Errors
/// Only errors that a retry cannot repair.
pub(crate) async fn commit(pool: &PgPool, consumer: &str, mut plan: Plan) -> Result<Committed, CommitError> {
    let (mut committed, mut backoff) = (Committed::default(), Backoff::of_database());
    while !plan.is_empty() {
        match attempt(pool, consumer, &plan).await {
            Ok(true) => {
                committed.rows = plan.rows.len();
                committed.moved = plan.moves;
                return Ok(committed);
            }
            Ok(false) => {}
            Err(error) => wait_after(error, &mut backoff).await?,
        }
        let standings = standings(pool, consumer, &plan.moves, &mut backoff).await?;
        // One transaction: a single position that was moved shows that all of it was committed. A move that goes
        // nowhere shows nothing; then the rows are written again, which finds them there.
        let has_moved = |(one, standing): (&Advance, &CommitOutcome)| {
            one.next > one.expected && *standing == CommitOutcome::Committed
        };
        let was_committed = plan.moves.iter().zip(&standings).any(has_moved);
        let is_lost = |(_, standing): &(&Advance, &CommitOutcome)| **standing == CommitOutcome::Fenced;
        let lost: Vec<(i32, i64)> =
            plan.moves.iter().zip(&standings).filter(is_lost).map(|(one, _)| (one.partition, one.epoch)).collect();
        for (partition, _) in &lost {
            plan.forget(*partition);
        }
        committed.lost.extend(lost);
        if was_committed {
            committed.rows = plan.rows.len();
            committed.moved = plan.moves;
            return Ok(committed);
        }
    }
    Ok(committed)
}

/// `false`: a position did not match, and nothing was committed.
async fn attempt(pool: &PgPool, consumer: &str, plan: &Plan) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    if !plan.moves.is_empty() {
        let moved = fence::advance(&mut transaction, consumer, &plan.moves).await?;
        if moved.contains(&false) {
            transaction.rollback().await?;
            return Ok(false);
        }
    }
    schedule::insert(&mut transaction, &plan.rows).await?;
    schedule::write_outcomes(&mut transaction, &plan.settlements).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn standings(
    pool: &PgPool,
    consumer: &str,
    moves: &[Advance],
    backoff: &mut Backoff,
) -> Result<Vec<CommitOutcome>, CommitError> {
    loop {
        match fence::commit_outcomes(pool, consumer, moves).await {
            Ok(standings) => return Ok(standings),
            Err(error) => wait_after(error, backoff).await?,
        }
    }
}

async fn wait_after(error: sqlx::Error, backoff: &mut Backoff) -> Result<(), CommitError> {
    match effect(&error) {
        SqlEffect::Retry => Ok(()),
        SqlEffect::Unavailable => {
            warn!(%error, "The schedule cannot be written at the moment; trying again.");
            backoff.pause().await;
            Ok(())
        }
        SqlEffect::Data | SqlEffect::Fatal => Err(CommitError(error)),
    }
}
