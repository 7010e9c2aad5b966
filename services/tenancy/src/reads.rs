//! Reads of the database for an organization: each has one of its places, and a time.

use std::time::Duration;

use http_server::Problem;
use runtime::postgres::{SqlEffect, effect};
use tracing::{error, warn};

use crate::budgets::OrganizationShares;

/// Settings of the connections that pages are read with. An index returns a page in its order: with old statistics, the
/// planner would expect few rows and prefer a sort. Where only a sort remains, its high cost must not start the JIT
/// compiler. Planning a page again for each request would take three times as long as reading it: PostgreSQL would do
/// so, because it does not know the limit when it estimates the plan for all.
pub const READ_SETTINGS: &[(&str, &str)] =
    &[("enable_sort", "off"), ("jit", "off"), ("plan_cache_mode", "force_generic_plan"), ("statement_timeout", "5000")];
/// PostgreSQL ends the statement at about the same time, see [`READ_SETTINGS`]: sqlx cannot cancel one, and the
/// connection would stay in use.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The data of an organization could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// No answer in time: a server that hangs refuses no connection.
    #[error("PostgreSQL did not answer in time")]
    TimedOut,
    /// The organization, or all together, hold too much already.
    #[error("refused: {}", .0.detail())]
    Refused(Problem),
}

impl From<Problem> for ReadError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let is_transient = match &error {
            ReadError::Refused(problem) => return problem.clone(),
            ReadError::TimedOut => true,
            ReadError::Sql(error) => matches!(effect(error), SqlEffect::Unavailable | SqlEffect::Retry),
        };
        if is_transient {
            warn!(%error, "PostgreSQL is unavailable for a read; answering 503.");
            return Self::unavailable("this cannot be read at the moment; nothing is lost, try again", 2);
        }
        error!(%error, "Read failed; answering 500.");
        Self::internal()
    }
}

impl OrganizationShares {
    /// Runs `reading` with a timeout of 5 s, in one of the places in the database that the organization has.
    ///
    /// # Errors
    /// Those of `reading`, and 503 when no place is free or the time is over.
    pub async fn read<T, E>(&self, reading: impl Future<Output = Result<T, E>>) -> Result<T, ReadError>
    where
        ReadError: From<E>,
    {
        let _place = self.take_read().await?;
        match tokio::time::timeout(TIMEOUT, reading).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(ReadError::TimedOut),
        }
    }
}
