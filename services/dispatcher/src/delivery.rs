//! What is delivered: one event as it was read from the log, on its way to one endpoint. How a delivery goes is
//! `flight`'s and `intake`'s business, its row that of `rows`.

use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use time::OffsetDateTime;

/// What a request needs of an event; shared by all its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub org_id: OrgId,
    /// Its id, which is also the `webhook-id`.
    pub event_id: EventId,
    pub event_type: String,
    /// Append time on the log.
    pub accepted_at: OffsetDateTime,
    /// JSON text, byte for byte.
    pub payload: String,
    /// W3C trace context, if the record had one.
    pub traceparent: Option<String>,
    /// Where it stands on the log.
    pub log_epoch: i32,
    pub partition: i32,
    pub offset: i64,
}

impl Accepted {
    /// Bytes it holds on to, about.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.event_type.len() + self.traceparent.as_ref().map_or(0, String::len) + 128
    }
}

/// One event's way to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// The same whoever computes it.
    pub id: DeliveryId,
    pub endpoint_id: EndpointId,
    pub event: Arc<Accepted>,
}

impl Delivery {
    /// The delivery of `event` to the endpoint.
    pub(crate) fn new(endpoint_id: EndpointId, event: Arc<Accepted>) -> Self {
        Self { id: DeliveryId::of(endpoint_id, event.event_id), endpoint_id, event }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landing {
    /// Taken, and reported to the log.
    Delivered,
    /// Not taken, and no attempt is left; reported.
    Failed,
    /// Not taken; reported; to be tried again.
    Retry { after: Duration },
    /// However it ended, the log could not be told. The same attempt is made again: at least once, and nothing goes
    /// unreported.
    Unreported,
}

/// What an attempt's end means for its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The delivery has ended.
    Ended {
        state: RowState,
        /// Attempts made in all.
        attempts: u32,
    },
    /// It goes on.
    Again {
        /// Attempts made so far.
        attempts: u32,
        /// When the next one is due.
        after: Duration,
    },
}

/// How long an attempt whose report failed waits before it is made again.
const UNREPORTED_DELAY: Duration = Duration::from_secs(5);

impl Landing {
    /// What the end of attempt number `attempt` means.
    pub(crate) fn outcome(self, attempt: u32) -> Outcome {
        match self {
            Self::Delivered => Outcome::Ended { state: RowState::Delivered, attempts: attempt },
            Self::Failed => Outcome::Ended { state: RowState::Failed, attempts: attempt },
            Self::Retry { after } => Outcome::Again { attempts: attempt, after },
            Self::Unreported => Outcome::Again { attempts: attempt.saturating_sub(1), after: UNREPORTED_DELAY },
        }
    }
}

/// State of a row of `delivery_schedule`, as Rust writes it; `held` is written in SQL alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowState {
    /// Waits for its next attempt, or one is being made.
    Pending,
    /// Taken.
    Delivered,
    /// Given up.
    Failed,
    /// Acknowledged or its endpoint deleted before it succeeded.
    Cancelled,
}

impl RowState {
    /// The name in the database.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
