//! The operation behind every ack route: find the events, write one record for each unacknowledged event, wait until
//! the view shows the acks.
//!
//! Idempotent: an acknowledged event is answered from the view without a new record. Repeating a request is always
//! safe.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use http_server::{Problem, RequestContext, Timestamp};
use kafka::fence::Positions;
use kafka::producer::{Appended, ProducerRecord};
use schemas::codec;
use schemas::ids::EventId;
use schemas::records::Ack;
use tenancy::Caller;
use tenancy::record::{RecordKind, publish_problem, record_headers};

use super::target;
use crate::state::Inbox;
use crate::state::InboxState;

/// How long the view may take to show an ack before the answer is 202.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);
/// Records of one request in flight at once: enough to fill a batch, too few to fill the producer's queue.
const MAX_IN_FLIGHT: usize = 256;

/// Acknowledging again is safe, whether the record was stored or not.
const ACK: RecordKind =
    RecordKind { noun: "acknowledgement", after_refusal: "repeating it is safe", in_doubt: "repeating it is safe" };

pub(super) struct AckOutcome {
    /// By the id in the request. An absent id does not exist for the caller.
    pub(super) acknowledged: HashMap<EventId, AcknowledgedEvent>,
    /// Whether the view shows all acks. Otherwise they are on the log, and the view will show them.
    pub(super) is_shown: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AcknowledgedEvent {
    /// The original's id when the request named a duplicate.
    pub(super) event_id: EventId,
    /// Append time of its ack; absent only if the view does not show it and Kafka did not report the time.
    pub(super) at: Option<Timestamp>,
}

/// Acknowledges `ids`, which are distinct.
pub(super) async fn acknowledge(
    state: &InboxState,
    caller: &Caller,
    context: &RequestContext,
    ids: &[EventId],
) -> Result<AckOutcome, Problem> {
    let targets = target::find_targets(&state.inbox, caller, ids).await?;
    let mut acknowledged_at: HashMap<EventId, Option<Timestamp>> =
        targets.values().map(|t| (t.event_id, t.acknowledged_at)).collect();
    let unacknowledged: Vec<EventId> =
        acknowledged_at.iter().filter(|(_, at)| at.is_none()).map(|(id, _)| *id).collect();
    let mut is_shown = true;
    if !unacknowledged.is_empty() {
        let appended = publish(&state.inbox, caller, context, &unacknowledged).await?;
        acknowledged_at.extend(
            appended.iter().map(|(id, appended)| (*id, appended.timestamp_ms.and_then(Timestamp::from_millis))),
        );
        let shown = wait_until_shown(&state.inbox, caller, &appended).await;
        is_shown = unacknowledged.iter().all(|id| shown.contains_key(id));
        acknowledged_at.extend(shown.into_iter().map(|(id, at)| (id, Some(at))));
    }
    let acknowledged = |target: &target::AckTarget| AcknowledgedEvent {
        event_id: target.event_id,
        at: acknowledged_at.get(&target.event_id).copied().flatten(),
    };
    Ok(AckOutcome {
        acknowledged: targets.iter().map(|(named, target)| (*named, acknowledged(target))).collect(),
        is_shown,
    })
}

/// Writes the records. After an error some may be on the log, which does no harm.
async fn publish(
    inbox: &Inbox,
    caller: &Caller,
    context: &RequestContext,
    unacknowledged: &[EventId],
) -> Result<Vec<(EventId, Appended)>, Problem> {
    let key = caller.org_id.to_string();
    let key_id = caller.key_id.to_string();
    let record_headers = record_headers(context, key_id.as_bytes());
    let (key, record_headers) = (key.as_bytes(), record_headers.as_slice());
    let append = |event_id: EventId| async move {
        let value = codec::encode_ack(&Ack { org_id: caller.org_id, event_id }).map_err(|error| {
            tracing::error!(%error, "Encoding an ack failed; the request fails");
            Problem::internal()
        })?;
        let record =
            ProducerRecord { topic: &inbox.acks_topic, key: Some(key), value: Some(&value), headers: record_headers };
        let appended = inbox.producer.publish(record).await.map_err(|error| publish_problem(context, ACK, &error))?;
        Ok((event_id, appended))
    };
    stream::iter(unacknowledged.iter().copied().map(append)).buffer_unordered(MAX_IN_FLIGHT).try_collect().await
}

/// Waits until the projector has applied the records, and reads the ack times from the view. An ack that the view does
/// not show in time is absent, and so is every ack if the view cannot be read.
async fn wait_until_shown(
    inbox: &Inbox,
    caller: &Caller,
    appended: &[(EventId, Appended)],
) -> HashMap<EventId, Timestamp> {
    let mut goals: BTreeMap<i32, i64> = BTreeMap::new();
    for (_, appended) in appended {
        let goal = goals.entry(appended.partition).or_default();
        *goal = appended.offset.saturating_add(1).max(*goal);
    }
    let are_applied = |positions: &Positions| {
        goals.iter().all(|(partition, goal)| {
            positions.get(&inbox.acks_topic, *partition).is_some_and(|position| position.next_offset >= *goal)
        })
    };
    // Also after a timeout: the view may show some of the acks.
    inbox.positions.wait_until(VIEW_TIMEOUT, are_applied).await;
    let events: Vec<EventId> = appended.iter().map(|(id, _)| *id).collect();
    // The acks are on the log, so a failed read must not fail the request.
    let reading = target::acknowledged_at_by_id(&inbox.pool, caller.org_id, &events);
    caller.shares().read(reading).await.unwrap_or_default()
}
