//! One per organization: acknowledges a part of what the reader is shown, by every way there is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::FutureProducer;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{Ground, Tenant, native};
use crate::faults::ledger::Ack;

/// One event in so many is acknowledged.
const ACKNOWLEDGE_EVERY: u64 = 3;
/// Events that wait to be acknowledged until they are delivered; older ones are left alone.
const WAITING: usize = 500;
/// How often those that wait are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Acknowledges what it is told of until nobody tells any more. What waits then is left alone: where acknowledging is
/// slow, that may be much.
pub async fn acknowledge(
    ground: Arc<Ground>,
    tenant: usize,
    producer: FutureProducer,
    mut shown: mpsc::Receiver<Uuid>,
    stop: watch::Receiver<bool>,
) {
    let Some(of) = ground.tenants.get(tenant) else { return };
    let mut count = 0_u64;
    let mut waiting: VecDeque<(u64, Uuid)> = VecDeque::new();
    loop {
        match tokio::time::timeout(LOOK, shown.recv()).await {
            Ok(None) => return,
            Ok(Some(id)) => {
                count += 1;
                if count.is_multiple_of(ACKNOWLEDGE_EVERY) {
                    waiting.push_back((count, id));
                }
                // All that has come before the next look.
                if !shown.is_empty() {
                    continue;
                }
            }
            Err(_) => {}
        }
        while waiting.len() > WAITING {
            waiting.pop_front();
        }
        acknowledge_delivered(&ground, tenant, of, &producer, &mut waiting, &stop).await;
    }
}

/// An acknowledged event is not delivered any more, which is right, and would look like a lost delivery: so it is
/// waited for.
async fn acknowledge_delivered(
    ground: &Ground,
    tenant: usize,
    of: &Tenant,
    producer: &FutureProducer,
    waiting: &mut VecDeque<(u64, Uuid)>,
    stop: &watch::Receiver<bool>,
) {
    let is_ready = |id: Uuid| of.endpoints.iter().all(|endpoint| ground.receiver.has_answered(endpoint, id));
    let (ready, left): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|(_, id)| is_ready(*id));
    waiting.extend(left);
    for (nth, id) in ready {
        if *stop.borrow() {
            return;
        }
        let begun = Instant::now();
        // Before it is asked for: should this be cut off, it may hold all the same.
        ground.ledger.note_ack(tenant, id, Ack::Unknown, begun);
        let confirmed = match (nth / ACKNOWLEDGE_EVERY) % 4 {
            0 => by_list(ground, &of.key, id).await,
            1 => by_delete(ground, &of.key, id).await,
            is_json => native::acknowledge(producer, &ground.topics.acks, of.org, id, is_json == 2).await,
        };
        if confirmed {
            ground.ledger.note_ack(tenant, id, Ack::Confirmed, begun);
        }
    }
}

async fn by_list(ground: &Ground, key: &str, id: Uuid) -> bool {
    let body = json!({"event_ids": [id]}).to_string();
    match ground.api.post("/v1/inbox/ack", key, body, None).await {
        Ok((200 | 202, answer)) => {
            let confirmed = String::from_utf8_lossy(&answer).contains("\"acknowledged\":1");
            if !confirmed {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                ground.ledger.complain(format!("the acknowledgement of {id}, which was shown, answered {answer}"));
            }
            confirmed
        }
        Ok((status, answer)) => note_refusal(ground, id, status, &answer),
        Err(_) => false,
    }
}

async fn by_delete(ground: &Ground, key: &str, id: Uuid) -> bool {
    match ground.api.delete(&format!("/v1/events/{id}"), key).await {
        Ok((202 | 204, _)) => true,
        Ok((status, answer)) => note_refusal(ground, id, status, &answer),
        Err(_) => false,
    }
}

/// Only "try again later" may be answered to whoever acknowledges what it was shown.
fn note_refusal(ground: &Ground, id: Uuid, status: u16, answer: &[u8]) -> bool {
    if status != 503 && status != 429 {
        let answer = String::from_utf8_lossy(answer);
        ground.ledger.complain(format!("the acknowledgement of {id}, which was shown, answered {status}: {answer}"));
    }
    false
}
