//! The operation behind every ack route: find the events, write one record for each that is open, wait until the view
//! shows it.
//!
//! Idempotent: what is acknowledged already is answered from the view and written no more. So whatever goes wrong,
//! repeating is safe.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use platform::fence::Positions;
use platform::http::{Problem, RecordKind, RequestContext, Timestamp};
use platform::kafka::producer::{Appended, Outgoing};
use schemas::codec;
use schemas::ids::{EventId, OrgId};
use schemas::records::Ack;
use tenancy::{Caller, Right};

use super::target;
use crate::inbox::InboxState;
use crate::inbox::state::Inbox;

/// How long the view may take to show an ack before the answer is 202.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);
/// Records of one request on their way at once: enough to fill a batch, too few to fill the producer.
const AT_ONCE: usize = 256;

/// Whatever was stored, acknowledging again is safe.
const ACK: RecordKind =
    RecordKind { noun: "acknowledgement", after_refusal: "repeating it is safe", in_doubt: "repeating it is safe" };

/// What became of a request.
pub(super) struct Outcome {
    /// By the id as it was named; what is absent does not exist for the caller.
    pub(super) acknowledged: HashMap<EventId, Acknowledged>,
    /// The view shows all of it. Otherwise it is on the log, and the view will.
    pub(super) is_shown: bool,
}

/// An event that is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    /// Of the event, which for a duplicate's id is the original.
    pub(super) event_id: EventId,
    /// Append time of its ack; absent only while the view does not show it and Kafka did not say.
    pub(super) at: Option<Timestamp>,
}

/// Acknowledges `ids`, which are distinct.
pub(super) async fn acknowledge(
    state: &InboxState,
    caller: &Caller,
    context: &RequestContext,
    ids: &[EventId],
) -> Result<Outcome, Problem> {
    caller.require(Right::Consume)?;
    let targets = target::find(&state.inbox, caller, ids).await?;
    let mut known: HashMap<EventId, Option<Timestamp>> =
        targets.values().map(|t| (t.event_id, t.acknowledged_at)).collect();
    let open: Vec<EventId> = known.iter().filter(|(_, at)| at.is_none()).map(|(id, _)| *id).collect();
    let mut is_shown = true;
    if !open.is_empty() {
        let appended = publish(&state.inbox, caller, context, &open).await?;
        known.extend(
            appended.iter().map(|(id, appended)| (*id, appended.timestamp_ms.and_then(Timestamp::from_millis))),
        );
        let shown = wait_until_shown(&state.inbox, caller.org_id, &appended).await;
        is_shown = open.iter().all(|id| shown.contains_key(id));
        known.extend(shown.into_iter().map(|(id, at)| (id, Some(at))));
    }
    let acknowledged = |target: &target::Target| Acknowledged {
        event_id: target.event_id,
        at: known.get(&target.event_id).copied().flatten(),
    };
    Ok(Outcome {
        acknowledged: targets.iter().map(|(named, target)| (*named, acknowledged(target))).collect(),
        is_shown,
    })
}

/// Writes the records. On an error some may be on the log, which does no harm.
async fn publish(
    inbox: &Inbox,
    caller: &Caller,
    context: &RequestContext,
    open: &[EventId],
) -> Result<Vec<(EventId, Appended)>, Problem> {
    let key = caller.org_id.to_string();
    let key_id = caller.key_id.to_string();
    let record_headers = context.record_headers(key_id.as_bytes());
    let (key, record_headers) = (key.as_bytes(), record_headers.as_slice());
    let append = |event_id: EventId| async move {
        let value = codec::encode_ack(&Ack { org_id: caller.org_id, event_id }).map_err(|error| {
            tracing::error!(%error, "An ack could not be encoded.");
            Problem::internal()
        })?;
        let record =
            Outgoing { topic: &inbox.acks_topic, key: Some(key), value: Some(&value), headers: record_headers };
        let appended = inbox.producer.publish(record).await.map_err(|error| context.publish_problem(ACK, &error))?;
        Ok((event_id, appended))
    };
    stream::iter(open.iter().copied().map(append)).buffer_unordered(AT_ONCE).try_collect().await
}

/// Waits until the view has passed the records, and reads what it then says. What it does not show in time, or cannot
/// be read, is absent.
async fn wait_until_shown(
    inbox: &Inbox,
    organization: OrgId,
    appended: &[(EventId, Appended)],
) -> HashMap<EventId, Timestamp> {
    let mut goals: BTreeMap<i32, i64> = BTreeMap::new();
    for (_, appended) in appended {
        let goal = goals.entry(appended.partition).or_default();
        *goal = appended.offset.saturating_add(1).max(*goal);
    }
    let is_passed = |positions: &Positions| {
        goals.iter().all(|(partition, goal)| {
            positions.get(&inbox.acks_topic, *partition).is_some_and(|position| position.next_offset >= *goal)
        })
    };
    // Reached or not: the view is asked next, and says what it shows.
    inbox.positions.wait_until(SHOWN_WITHIN, is_passed).await;
    let events: Vec<EventId> = appended.iter().map(|(id, _)| *id).collect();
    // The acks are on the log: not being able to look is no reason to say that they are not.
    inbox.within_budget(target::acknowledged(&inbox.pool, organization, &events)).await.unwrap_or_default()
}
