//! What the routes of the inbox, of the acknowledgements and of the rejected records work with.

use std::sync::Arc;

use axum::extract::FromRef;
use platform::fence::PositionsPoller;
use platform::http::Problem;
use platform::kafka::producer::Producer;
use platform::postgres::SqlEffect;
use platform::read_your_writes::RecentWrites;
use platform::seal::SealingKey;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tenancy::Authenticator;
use tokio_util::sync::CancellationToken;

use super::notifier::NewEventNotifier;
use super::read_your_writes::ReadYourWrites;

/// What the connections of [`InboxState`] are to be set to. A page comes out of an index in its order. The planner
/// would rather sort what it takes for a few rows, in a part of the view that has grown since it was last looked at;
/// and where nothing but a sort is left, that must not make it compile the statement.
pub const READ_SETTINGS: &[(&str, &str)] = &[("enable_sort", "off"), ("jit", "off")];

/// The parts, shared by all requests. Cloning is cheap.
#[derive(Clone)]
pub struct InboxState {
    authenticator: Authenticator,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) shutdown: CancellationToken,
}

/// What outlives a request.
pub(crate) struct Inbox {
    pub(crate) pool: PgPool,
    pub(crate) producer: Producer,
    pub(crate) events_topic: String,
    pub(crate) acks_topic: String,
    pub(crate) sealing: SealingKey,
    /// Of the projector: the only reader of positions here, shared by all who wait for the view.
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
    /// Puts the parts together. `pool` has the [`READ_SETTINGS`]; `written` is what the accept routes of this instance
    /// note down, for read-your-writes.
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

    /// Long polls answer at once when `shutdown` is cancelled; otherwise they hold a stop up for as long as they wait.
    #[must_use]
    pub fn until(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// How many requests wait for events at the moment.
    pub fn waiting(&self) -> usize {
        self.inbox.notifier.waiting()
    }

    /// Whether the positions of the projector are being read, because somebody waits for the view.
    pub fn is_polling(&self) -> bool {
        self.inbox.positions.is_polling()
    }
}

/// The view could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// It says nothing within the budget: a server that hangs refuses no connection.
    #[error("PostgreSQL did not answer in time")]
    TimedOut,
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let is_passing = match &error {
            ReadError::TimedOut => true,
            ReadError::Sql(error) => {
                matches!(platform::postgres::effect(error), SqlEffect::Unavailable | SqlEffect::Retry)
            }
        };
        if is_passing {
            tracing::warn!(%error, "The view cannot be read.");
            return Self::unavailable("the inbox cannot be read at the moment; nothing is lost, try again", 2);
        }
        tracing::error!(%error, "Reading the view failed.");
        Self::internal()
    }
}

impl Inbox {
    /// Runs `reading` within the budget of a request, whatever becomes of the database.
    pub(crate) async fn within_budget<T>(
        &self,
        reading: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, ReadError> {
        const BUDGET: std::time::Duration = std::time::Duration::from_secs(5);
        match tokio::time::timeout(BUDGET, reading).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(ReadError::TimedOut),
        }
    }
}
