//! The state that the routes of the inbox, of acknowledgements and of rejected records share.

use std::sync::Arc;

use axum::extract::FromRef;
use http_server::Problem;
use kafka::fence::PositionsPoller;
use kafka::producer::Producer;
use kafka::read_your_writes::RecentWrites;
use runtime::postgres::SqlEffect;
use runtime::seal::SealingKey;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, OrganizationShares};
use tokio_util::sync::CancellationToken;

use crate::notifier::NewEventNotifier;
use crate::read_your_writes::ReadYourWrites;

/// Settings of the connections of [`InboxState`]. An index returns a page in its order. With old statistics of a time
/// partition that has grown, the planner expects few rows and prefers a sort. Where only a sort remains, its high cost
/// must not start the JIT compiler.
pub const READ_SETTINGS: &[(&str, &str)] = &[("enable_sort", "off"), ("jit", "off"), ("statement_timeout", "5000")];

/// Shared by all requests. Cloning is cheap.
#[derive(Clone)]
pub struct InboxState {
    authenticator: Authenticator,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) struct Inbox {
    pub(crate) pool: PgPool,
    pub(crate) producer: Producer,
    pub(crate) events_topic: String,
    pub(crate) acks_topic: String,
    pub(crate) sealing: SealingKey,
    /// Polls the projector's positions; shared by all requests that wait for the view.
    pub(crate) positions: PositionsPoller,
    pub(crate) read_your_writes: ReadYourWrites,
    pub(crate) notifier: NewEventNotifier,
}

impl FromRef<InboxState> for Authenticator {
    fn from_ref(state: &InboxState) -> Self {
        state.authenticator.clone()
    }
}

impl InboxState {
    /// `pool` must have the [`READ_SETTINGS`]. `written` is where the accept routes of this instance record accepted
    /// events, for read-your-writes.
    pub fn new(
        authenticator: Authenticator,
        pool: PgPool,
        producer: Producer,
        topics: TopicNames,
        sealing: SealingKey,
        written: RecentWrites,
    ) -> Self {
        let positions = PositionsPoller::new(pool.clone(), crate::projector::CONSUMER);
        let inbox = Inbox {
            read_your_writes: ReadYourWrites::new(&topics.events, written, positions.clone()),
            notifier: NewEventNotifier::new(pool.clone(), &topics.events, positions.clone()),
            pool,
            producer,
            events_topic: topics.events,
            acks_topic: topics.acks,
            sealing,
            positions,
        };
        Self { authenticator, inbox: Arc::new(inbox), shutdown: CancellationToken::new() }
    }

    /// Long polls answer at once when `shutdown` is cancelled; otherwise a shutdown would wait for them.
    #[must_use]
    pub fn until(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Number of requests that wait for events.
    pub fn waiting(&self) -> usize {
        self.inbox.notifier.waiting()
    }

    /// Whether the positions of the projector are being read, because a request waits for the view.
    pub fn is_polling(&self) -> bool {
        self.inbox.positions.is_polling()
    }
}

/// The view could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewReadError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// No answer in time: a server that hangs refuses no connection.
    #[error("PostgreSQL did not answer in time")]
    TimedOut,
    /// The organization, or all together, hold too much already.
    #[error("refused: {}", .0.detail())]
    Refused(Problem),
}

impl From<Problem> for ViewReadError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<ViewReadError> for Problem {
    fn from(error: ViewReadError) -> Self {
        let is_transient = match &error {
            ViewReadError::Refused(problem) => return problem.clone(),
            ViewReadError::TimedOut => true,
            ViewReadError::Sql(error) => {
                matches!(runtime::postgres::effect(error), SqlEffect::Unavailable | SqlEffect::Retry)
            }
        };
        if is_transient {
            tracing::warn!(%error, "PostgreSQL is unavailable for an inbox read; answering 503");
            return Self::unavailable("the inbox cannot be read at the moment; nothing is lost, try again", 2);
        }
        tracing::error!(%error, "Inbox read failed; answering 500");
        Self::internal()
    }
}

impl Inbox {
    /// Runs `reading` with a timeout of 5 s, in one of the places in the database that the organization has. PostgreSQL
    /// ends the statement at about the same time, see [`READ_SETTINGS`]: sqlx cannot cancel one, and the connection
    /// would stay in use.
    pub(crate) async fn read<T, E>(
        &self,
        organization: &OrganizationShares,
        reading: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ViewReadError>
    where
        ViewReadError: From<E>,
    {
        const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
        let _place = organization.take_read().await?;
        match tokio::time::timeout(TIMEOUT, reading).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(ViewReadError::TimedOut),
        }
    }
}
