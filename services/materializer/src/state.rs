//! The state that the routes of the inbox, of acknowledgements and of rejected records share.

use std::sync::Arc;

use axum::extract::FromRef;
use kafka::fence::PositionsPoller;
use kafka::producer::Producer;
use kafka::read_your_writes::RecentWrites;
use runtime::seal::SealingKey;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tenancy::Authenticator;
use tokio_util::sync::CancellationToken;

use crate::inbox::ManyOpen;
use crate::notifier::NewEventNotifier;
use crate::read_your_writes::ReadYourWrites;

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
    pub(crate) many_open: ManyOpen,
}

impl FromRef<InboxState> for Authenticator {
    fn from_ref(state: &InboxState) -> Self {
        state.authenticator.clone()
    }
}

impl InboxState {
    /// `pool` must have the [`tenancy::READ_SETTINGS`]. `written` is where the accept routes of this instance record
    /// accepted events, for read-your-writes.
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
            many_open: ManyOpen::default(),
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
