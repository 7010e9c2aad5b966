//! A delivery: one event on its way to one endpoint, the outcome of an attempt, and what it changes in the schedule.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use schemas::event_json::RESERVED_TYPE_PREFIX;
use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use time::OffsetDateTime;

use crate::lane::{EndpointLane, LaneKey};

/// What a request needs of an event. All deliveries of the event share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutboundEvent {
    pub org_id: OrgId,
    /// Also the `webhook-id`.
    pub event_id: EventId,
    pub event_type: String,
    /// Append time on the log.
    pub accepted_at: OffsetDateTime,
    /// JSON text, byte for byte.
    pub payload: String,
    /// How binary data became the payload, as the webhook says it.
    pub payload_encoding: Option<Cow<'static, str>>,
    /// W3C trace context, if the record had one.
    pub traceparent: Option<String>,
    /// Through how many webhooks it came.
    pub hops: i32,
    /// Endpoints that matched the event when it was read from the log. `None`: its row is of an earlier version.
    pub endpoints_matched: Option<u32>,
    /// Whether the organization has an endpoint with `ack_on_success`. Only of an event from the log.
    pub counts_successes: bool,
    pub log_epoch: i32,
    pub partition: i32,
    pub offset: i64,
}

/// Partition of events that are on no log: those of tests.
pub(crate) const TEST_PARTITION: i32 = -1;

impl OutboundEvent {
    /// Whether it tests an endpoint: it is sent once.
    pub(crate) fn is_test(&self) -> bool {
        self.partition == TEST_PARTITION
    }

    /// Whether the system itself wrote it to the log.
    pub(crate) fn is_of_system(&self) -> bool {
        self.event_type.starts_with(RESERVED_TYPE_PREFIX) && !self.is_test()
    }

    /// Approximate size in memory, bytes.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.event_type.len() + self.traceparent.as_ref().map_or(0, String::len) + 128
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Every instance computes the same id.
    pub id: DeliveryId,
    pub endpoint_id: EndpointId,
    pub event: Arc<OutboundEvent>,
    pub round: Round,
    /// Of an ordered endpoint. `None`: it waits for no other delivery.
    pub lane: Option<LaneKey>,
}

/// Each manual retry of a delivery starts a round of attempts. Their numbers go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Round {
    /// 0: it was never retried by hand.
    pub number: u32,
    /// Attempts made in the rounds before.
    pub attempts_before: u32,
}

impl Delivery {
    pub(crate) fn new(endpoint_id: EndpointId, event: Arc<OutboundEvent>) -> Self {
        let id = DeliveryId::of(endpoint_id, event.event_id);
        Self { id, endpoint_id, event, round: Round::default(), lane: None }
    }

    pub(crate) fn endpoint_lane(&self) -> Option<EndpointLane> {
        self.lane.map(|key| EndpointLane { endpoint: self.endpoint_id, key })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The endpoint accepted the event, and the attempt is reported.
    Delivered,
    /// The last attempt failed, and it is reported.
    Failed,
    /// The attempt failed and is reported; the next one is due after this time, in a request with at most so many
    /// events.
    Retry { after: Duration, batch_limit: Option<u32> },
    /// Nothing was sent through no fault of the endpoint, and nothing is reported; the same attempt is due after this
    /// time.
    NotAttempted { after: Duration },
    /// Kafka did not accept the report. The same attempt is repeated, whatever the endpoint answered: delivery is at
    /// least once, and every attempt is reported.
    Unreported,
}

/// What an attempt changes in the delivery's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowUpdate {
    pub state: RowState,
    /// Attempts made so far.
    pub attempts: u32,
    /// Time until the next attempt; `None`: the delivery is finished.
    pub due_after: Option<Duration>,
    /// The most events that may share its next request; `None`: as before.
    pub batch_limit: Option<u32>,
}

impl RowUpdate {
    pub(crate) fn finished(state: RowState, attempts: u32) -> Self {
        Self { state, attempts, due_after: None, batch_limit: None }
    }

    pub(crate) fn pending(attempts: u32, due_after: Duration) -> Self {
        Self { state: RowState::Pending, attempts, due_after: Some(due_after), batch_limit: None }
    }
}

/// How long an attempt whose report failed waits before it is repeated.
const UNREPORTED_DELAY: Duration = Duration::from_secs(5);

impl AttemptOutcome {
    /// What attempt number `attempt` (1 is the first) changes.
    pub(crate) fn row_update(self, attempt: u32) -> RowUpdate {
        match self {
            Self::Delivered => RowUpdate::finished(RowState::Delivered, attempt),
            Self::Failed => RowUpdate::finished(RowState::Failed, attempt),
            Self::Retry { after, batch_limit } => RowUpdate { batch_limit, ..RowUpdate::pending(attempt, after) },
            Self::NotAttempted { after } => RowUpdate::pending(attempt.saturating_sub(1), after),
            Self::Unreported => RowUpdate::pending(attempt.saturating_sub(1), UNREPORTED_DELAY),
        }
    }
}

/// State of a row of `delivery_schedule`. Rust never writes `held`: only SQL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowState {
    /// Waits for its next attempt, or the attempt is in flight.
    Pending,
    Delivered,
    /// The last attempt failed.
    Failed,
    /// The event was acknowledged, or the endpoint deleted, before an attempt succeeded.
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

/// PostgreSQL and Avro have signed integers only. The numbers of this crate are checked to be small.
pub(crate) fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// An event of type "a" with an id of its own, at the start of partition 0, for tests and benchmarks.
#[cfg(any(test, feature = "bench"))]
pub(crate) fn outbound_event(org_id: OrgId) -> OutboundEvent {
    OutboundEvent {
        org_id,
        event_id: EventId::generate(),
        event_type: "a".to_owned(),
        accepted_at: OffsetDateTime::now_utc(),
        payload: "{}".to_owned(),
        payload_encoding: None,
        traceparent: None,
        hops: 0,
        endpoints_matched: None,
        counts_successes: false,
        log_epoch: 1,
        partition: 0,
        offset: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_has_the_same_attempt_again() {
        let after = Duration::from_secs(2);
        for attempt in [1, 3] {
            let update = AttemptOutcome::NotAttempted { after }.row_update(attempt);
            assert_eq!(update, RowUpdate::pending(attempt - 1, after));
        }
    }
}
