//! When positions and rows are committed, and what the result changes in the tracker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::consumer::finished;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::config::CONSUMER;
use crate::dependencies::Dependencies;
use crate::error::DispatchError;
use crate::log::commit::{self, CommitError, CommitResult};
use crate::log::tracker::DeliveryTracker;
use crate::metrics::METRICS;
use crate::retry::schedule::OpenLimits;

/// With so many rows a commit does not wait for its interval.
const COMMIT_ROWS: usize = 500;
/// Bytes of rows in one transaction: a statement is built, sent and parsed as a whole.
const MAX_PLAN_BYTES: usize = 16 * 1024 * 1024;
/// How long the commit of everything may take if the database does not answer.
const COMMIT_ALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Commits plans of the tracker, one at a time.
pub(super) struct Committer {
    pool: PgPool,
    limits: OpenLimits,
    rows_added: Arc<Notify>,
    running: Option<AbortOnDropHandle<Result<CommitResult, CommitError>>>,
    last_commit: Instant,
    /// Partitions that were fenced and are not reported to the session yet.
    pub(super) fenced: Vec<i32>,
}

impl Committer {
    pub(super) fn new(dependencies: &Dependencies) -> Self {
        Self {
            pool: dependencies.pool.clone(),
            limits: dependencies.limits,
            rows_added: dependencies.rows_added.clone(),
            running: None,
            last_commit: Instant::now(),
            fenced: Vec::new(),
        }
    }

    /// The result of the running commit; pending while none is running. Safe to cancel.
    pub(super) async fn finished(&mut self) -> Result<CommitResult, DispatchError> {
        Ok(finished(&mut self.running).await??)
    }

    pub(super) fn apply(&mut self, result: CommitResult, tracker: &mut DeliveryTracker) {
        self.last_commit = Instant::now();
        tracker.committed(&result.advances);
        for (partition, epoch) in result.fenced {
            if tracker.drop_fenced(partition, epoch) {
                self.fenced.push(partition);
            }
        }
        // An outcome may let a lane go on.
        if result.rows > 0 || result.outcomes > 0 {
            self.rows_added.notify_one();
        }
    }

    pub(super) fn start_if_due(&mut self, tracker: &mut DeliveryTracker, interval: Duration) {
        let is_due = self.last_commit.elapsed() >= interval || tracker.rows_waiting() >= COMMIT_ROWS;
        if is_due && self.running.is_none() && tracker.has_progress() {
            self.start(tracker);
        }
    }

    /// Commits everything, including progress that is made while an earlier commit is running. A timeout is no error:
    /// uncommitted deliveries are repeated.
    ///
    /// # Errors
    /// Errors that a retry cannot repair.
    pub(super) async fn commit_all(&mut self, tracker: &mut DeliveryTracker) -> Result<(), DispatchError> {
        let committing = async {
            loop {
                if self.running.is_some() {
                    let result = self.finished().await?;
                    self.apply(result, tracker);
                }
                if !tracker.has_progress() {
                    return Ok(());
                }
                self.start(tracker);
            }
        };
        tokio::time::timeout(COMMIT_ALL_TIMEOUT, committing).await.unwrap_or_else(|_| {
            warn!("Database did not answer before the partitions were released; uncommitted deliveries are repeated.");
            Ok(())
        })
    }

    fn start(&mut self, tracker: &mut DeliveryTracker) {
        let (pool, limits, plan) = (self.pool.clone(), self.limits, tracker.plan(MAX_PLAN_BYTES));
        for (reason, count) in &plan.spilled {
            METRICS.spilled.with_label_values(&[reason.as_str()]).inc_by(*count);
        }
        let commit = tokio::spawn(async move { commit::commit(&pool, CONSUMER, plan, limits).await });
        self.running = Some(AbortOnDropHandle::new(commit));
    }
}
