//! Acknowledges a part of the events that a tail shows, in all possible ways. There is one per organization.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::FutureProducer;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::context::{RoundContext, Tenant};
use super::native;
use crate::ledger::AckState;

/// Every n-th event is acknowledged.
const ACKNOWLEDGE_EVERY: u64 = 3;
/// How many events may wait for their delivery; older ones are never acknowledged.
const MAX_WAITING: usize = 500;
/// How often the waiting events are checked.
const POLL: Duration = Duration::from_millis(100);

/// Acknowledges the events of `shown` until that channel is closed. Events that wait then are not acknowledged: if
/// acknowledging is slow, there may be many.
pub(super) async fn acknowledge(
    context: Arc<RoundContext>,
    tenant: usize,
    producer: FutureProducer,
    mut shown: mpsc::Receiver<Uuid>,
    stop: watch::Receiver<bool>,
) {
    let Some(of) = context.tenants.get(tenant) else { return };
    let mut count = 0_u64;
    let mut waiting: VecDeque<(u64, Uuid)> = VecDeque::new();
    loop {
        match tokio::time::timeout(POLL, shown.recv()).await {
            Ok(None) => return,
            Ok(Some(id)) => {
                count += 1;
                if count.is_multiple_of(ACKNOWLEDGE_EVERY) {
                    waiting.push_back((count, id));
                }
                // Drains the channel before the next check.
                if !shown.is_empty() {
                    continue;
                }
            }
            Err(_) => {}
        }
        while waiting.len() > MAX_WAITING {
            waiting.pop_front();
        }
        acknowledge_delivered(&context, tenant, of, &producer, &mut waiting, &stop).await;
    }
}

/// Acknowledges the waiting events that are delivered. An acknowledged event is no longer delivered, and the rules
/// would report its delivery as lost.
async fn acknowledge_delivered(
    context: &RoundContext,
    tenant: usize,
    of: &Tenant,
    producer: &FutureProducer,
    waiting: &mut VecDeque<(u64, Uuid)>,
    stop: &watch::Receiver<bool>,
) {
    let is_ready = |id: Uuid| of.endpoints.iter().all(|endpoint| context.receiver.has_succeeded(endpoint, id));
    let (ready, left): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|(_, id)| is_ready(*id));
    waiting.extend(left);
    for (nth, id) in ready {
        if *stop.borrow() {
            return;
        }
        let started = Instant::now();
        // Recorded before the request: if this task is aborted, the acknowledgement may hold all the same.
        context.ledger.record_ack(tenant, id, AckState::Unknown, started);
        let confirmed = match (nth / ACKNOWLEDGE_EVERY) % 4 {
            0 => by_list(context, &of.key, id).await,
            1 => by_delete(context, &of.key, id).await,
            is_json => native::acknowledge(producer, &context.topics.acks, of.org, id, is_json == 2).await,
        };
        if confirmed {
            context.ledger.record_ack(tenant, id, AckState::Confirmed, started);
        }
    }
}

async fn by_list(context: &RoundContext, key: &str, id: Uuid) -> bool {
    let body = json!({"event_ids": [id]}).to_string();
    match context.api.post("/v1/inbox/ack", key, body, None).await {
        Ok((200 | 202, answer)) => {
            let confirmed = String::from_utf8_lossy(&answer).contains("\"acknowledged\":1");
            if !confirmed {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                let message = format!("the acknowledgement of the shown event {id} answered {answer}");
                context.ledger.record_unexpected_answer(message);
            }
            confirmed
        }
        Ok((status, answer)) => check_refusal(context, id, status, &answer),
        Err(_) => false,
    }
}

async fn by_delete(context: &RoundContext, key: &str, id: Uuid) -> bool {
    match context.api.delete(&format!("/v1/events/{id}"), key).await {
        Ok((202 | 204, _)) => true,
        Ok((status, answer)) => check_refusal(context, id, status, &answer),
        Err(_) => false,
    }
}

/// The acknowledgement of a shown event may only be refused for now. Returns `false`.
fn check_refusal(context: &RoundContext, id: Uuid, status: u16, answer: &[u8]) -> bool {
    if status != 503 && status != 429 {
        let answer = String::from_utf8_lossy(answer);
        let message = format!("the acknowledgement of the shown event {id} answered {status}: {answer}");
        context.ledger.record_unexpected_answer(message);
    }
    false
}
