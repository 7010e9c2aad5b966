//! When the pass commits, and what it does with the outcome. What a transaction holds is `intake`'s, carrying it
//! through is `commit`'s.

use std::time::{Duration, Instant};

use platform::kafka::consumer::finished;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::Pass;
use crate::CONSUMER;
use crate::commit::{self, CommitError, Committed};
use crate::metrics::METRICS;
use crate::run::DispatchError;

/// Rows that wait, from which on a commit does not wait for its interval.
const COMMIT_ROWS: usize = 500;
/// Bytes of rows in one transaction: a statement is built, sent and parsed as a whole.
const MAX_PLAN_BYTES: usize = 16 * 1024 * 1024;
/// How long the last commits may take when the database does not answer.
const LAST_COMMIT: Duration = Duration::from_secs(5);

impl Pass {
    /// Puts everything that is open into the schedule, commits while the partitions are still claimed, and is done with
    /// them. Attempts go on under leases.
    ///
    /// # Errors
    /// What trying again does not mend. A database that does not answer is no error: what is not committed is delivered
    /// again.
    pub(crate) async fn let_go(&mut self) -> Result<(), DispatchError> {
        self.intake.spill_all(None);
        self.commit_in_time().await?;
        self.intake.drop_all();
        Ok(())
    }

    pub(super) async fn commit_in_time(&mut self) -> Result<(), DispatchError> {
        match tokio::time::timeout(LAST_COMMIT, self.commit_all()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                warn!("The last commit was not done in time; what it held is delivered again.");
                Ok(())
            }
        }
    }

    /// Commits everything there is, also what came up while an earlier commit ran.
    async fn commit_all(&mut self) -> Result<(), DispatchError> {
        loop {
            if self.committing.is_some() {
                let outcome = finished(&mut self.committing).await?;
                self.committed(outcome)?;
            }
            if !self.intake.has_progress() {
                return Ok(());
            }
            self.begin_commit();
        }
    }

    pub(super) fn commit_if_due(&mut self) {
        let due =
            self.last_commit.elapsed() >= self.config.commit_interval || self.intake.rows_waiting() >= COMMIT_ROWS;
        if due && self.committing.is_none() && self.intake.has_progress() {
            self.begin_commit();
        }
    }

    fn begin_commit(&mut self) {
        let pool = self.parts.pool.clone();
        let plan = self.intake.plan(MAX_PLAN_BYTES);
        METRICS.spilled.inc_by(plan.rows.len() as u64);
        self.committing =
            Some(AbortOnDropHandle::new(tokio::spawn(async move { commit::commit(&pool, CONSUMER, plan).await })));
    }

    pub(super) fn committed(&mut self, outcome: Result<Committed, CommitError>) -> Result<(), DispatchError> {
        let committed = outcome?;
        self.last_commit = Instant::now();
        self.intake.committed(&committed.moved);
        for (partition, epoch) in committed.lost {
            if self.intake.lose(partition, epoch) {
                self.lost.push(partition);
            }
        }
        if committed.rows > 0 {
            self.parts.scheduled.notify_one();
        }
        Ok(())
    }
}
