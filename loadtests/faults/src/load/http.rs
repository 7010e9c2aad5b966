//! Sends events by HTTP: plain, with `Idempotency-Key`, and with `dedup_id`. Retries where that is safe, and repeats
//! some events on purpose.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use uuid::Uuid;

use super::context::Naming;
use super::sender::Sender;
use crate::ledger::SendOutcome;

/// Every n-th named event is sent again on purpose.
const REPEAT_EVERY: u64 = 7;
/// How many accepted events are candidates for a repetition.
const MAX_RECENT: usize = 20;
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends until the sender has to stop.
pub(super) async fn send(mut sender: Sender, naming: Naming) {
    let mut recent: VecDeque<String> = VecDeque::new();
    for seq in 0.. {
        let started = Instant::now();
        let tag = sender.tag(seq);
        if until_accepted(&sender, naming, &tag).await {
            recent.push_back(tag);
            if recent.len() > MAX_RECENT {
                recent.pop_front();
            }
        }
        if naming != Naming::None
            && seq % REPEAT_EVERY == REPEAT_EVERY - 1
            && let Some(old) = recent.front().cloned()
        {
            once(&sender, naming, &old).await;
        }
        if !sender.wait_for_turn(started).await {
            return;
        }
    }
}

/// Sends one event until it is accepted. Retries a refusal always, and an unknown outcome only if the event is named.
/// Returns whether it was accepted.
async fn until_accepted(sender: &Sender, naming: Naming, tag: &str) -> bool {
    loop {
        match once(sender, naming, tag).await {
            SendOutcome::Accepted { .. } => return true,
            SendOutcome::Unknown if naming == Naming::None => return false,
            _ if sender.is_stopping() => return false,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Sends one event once and records the outcome.
pub(super) async fn once(sender: &Sender, naming: Naming, tag: &str) -> SendOutcome {
    let Some(tenant) = sender.tenant() else { return SendOutcome::Refused };
    let body = sender.body(tag, naming == Naming::DedupId);
    let idempotency_key = (naming == Naming::IdempotencyKey).then_some(tag);
    let started = Instant::now();
    let reply = sender.context.api.post("/v1/events", &tenant.key, body, idempotency_key).await;
    let outcome = match reply {
        // Without a connection nothing was stored.
        Err(error) if is_unconnected(&error) => SendOutcome::Refused,
        Err(_) => SendOutcome::Unknown,
        Ok((status, body)) => outcome_of(status, &body).unwrap_or_else(|| {
            let body = String::from_utf8_lossy(&body);
            sender
                .context
                .ledger
                .record_unexpected_answer(format!("POST /v1/events of {tag} answered {status}: {body}"));
            SendOutcome::Unknown
        }),
    };
    sender.record(tag, started, outcome.clone());
    outcome
}

fn is_unconnected(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

#[derive(Deserialize)]
struct AcceptReply {
    event_id: Option<Uuid>,
    detail: Option<String>,
}

/// The outcome that an answer means; `None` if the API must not answer this.
fn outcome_of(status: u16, body: &[u8]) -> Option<SendOutcome> {
    let reply: AcceptReply = serde_json::from_slice(body).ok()?;
    match (status, reply.event_id) {
        (201, Some(id)) => Some(SendOutcome::Accepted { id: Some(id), replayed: false }),
        // A repetition; the id is the original's.
        (409, Some(id)) => Some(SendOutcome::Accepted { id: Some(id), replayed: true }),
        (503, _) if reply.detail.is_some_and(|detail| detail.contains("may have been stored")) => {
            Some(SendOutcome::Unknown)
        }
        (503 | 429, _) => Some(SendOutcome::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_the_event_is_stored() {
        let id = Uuid::from_u128(1);
        let accepted = |replayed| Some(SendOutcome::Accepted { id: Some(id), replayed });
        let with_id = format!(r#"{{"event_id":"{id}"}}"#);
        assert_eq!(outcome_of(201, with_id.as_bytes()), accepted(false));
        assert_eq!(outcome_of(409, with_id.as_bytes()), accepted(true));
        assert_eq!(
            outcome_of(503, br#"{"detail":"the event may have been stored: repeat"}"#),
            Some(SendOutcome::Unknown)
        );
        assert_eq!(outcome_of(503, br#"{"detail":"the event was not stored"}"#), Some(SendOutcome::Refused));
        assert_eq!(outcome_of(429, br#"{"detail":"too many"}"#), Some(SendOutcome::Refused));
        assert_eq!(outcome_of(500, br#"{"detail":"internal"}"#), None);
        assert_eq!(outcome_of(201, b"{}"), None);
        assert_eq!(outcome_of(404, br#"{"detail":"not found"}"#), None);
    }
}
