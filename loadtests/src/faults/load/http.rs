//! Events by HTTP: plain, with `Idempotency-Key`, with `dedup_id`; repeated where that is safe, and some of them on
//! purpose.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use uuid::Uuid;

use super::{Naming, Sender};
use crate::faults::ledger::{Outcome, Sent};

/// One named event in so many is sent again on purpose.
const REPEAT_EVERY: u64 = 7;
/// How long an accepted event stays one that may be repeated.
const REMEMBERED: usize = 20;
/// Wait before a request is repeated that was refused or had no outcome.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends until told to end.
pub async fn send(mut sender: Sender, naming: Naming) {
    let mut recent: VecDeque<String> = VecDeque::new();
    for seq in 0.. {
        let begun = Instant::now();
        let tag = sender.tag(seq);
        if until_accepted(&sender, naming, &tag).await {
            recent.push_back(tag);
            if recent.len() > REMEMBERED {
                recent.pop_front();
            }
        }
        if naming != Naming::None
            && seq % REPEAT_EVERY == REPEAT_EVERY - 1
            && let Some(old) = recent.front().cloned()
        {
            once(&sender, naming, &old).await;
        }
        if !sender.turn(begun).await {
            return;
        }
    }
}

/// Sends one event until it was accepted: after a refusal in any case, after an unknown outcome only under a name.
/// `false` when given up.
async fn until_accepted(sender: &Sender, naming: Naming, tag: &str) -> bool {
    loop {
        match once(sender, naming, tag).await {
            Outcome::Accepted { .. } => return true,
            Outcome::Unknown if naming == Naming::None => return false,
            _ if sender.stopping() => return false,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Sends one event once, and notes what came of it.
pub async fn once(sender: &Sender, naming: Naming, tag: &str) -> Outcome {
    let Some(tenant) = sender.tenant() else { return Outcome::Refused };
    let body = sender.body(tag, naming == Naming::DedupId);
    let idempotency_key = (naming == Naming::Idempotency).then_some(tag);
    let begun = Instant::now();
    let reply = sender.ground.api.post("/v1/events", &tenant.key, body, idempotency_key).await;
    let ledger = &sender.ground.ledger;
    let outcome = match reply {
        // Also a connection that was refused: it costs nothing to be careful, but a refused connection has surely
        // stored nothing.
        Err(error) if is_unconnected(&error) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
        Ok((status, body)) => judge(status, &body).unwrap_or_else(|| {
            ledger.complain(format!("POST /v1/events of {tag} answered {status}: {}", String::from_utf8_lossy(&body)));
            Outcome::Unknown
        }),
    };
    let (tenant, number) = (sender.tenant, sender.number);
    ledger.note(Sent {
        tenant,
        sender: number,
        tag: tag.to_owned(),
        begun,
        ended: Instant::now(),
        outcome: outcome.clone(),
    });
    outcome
}

fn is_unconnected(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

#[derive(Deserialize)]
struct Reply {
    event_id: Option<Uuid>,
    detail: Option<String>,
}

/// What an answer says; `None`: something that must not be answered.
fn judge(status: u16, body: &[u8]) -> Option<Outcome> {
    let reply: Reply = serde_json::from_slice(body).ok()?;
    match (status, reply.event_id) {
        (201, Some(id)) => Some(Outcome::Accepted { id: Some(id), replayed: false }),
        // The original's id: it is there already.
        (409, Some(id)) => Some(Outcome::Accepted { id: Some(id), replayed: true }),
        (503, _) if reply.detail.is_some_and(|detail| detail.contains("may have been stored")) => {
            Some(Outcome::Unknown)
        }
        (503 | 429, _) => Some(Outcome::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_what_is_stored() {
        let id = Uuid::from_u128(1);
        let accepted = |replayed| Some(Outcome::Accepted { id: Some(id), replayed });
        let with_id = format!(r#"{{"event_id":"{id}"}}"#);
        assert_eq!(judge(201, with_id.as_bytes()), accepted(false));
        assert_eq!(judge(409, with_id.as_bytes()), accepted(true));
        assert_eq!(judge(503, br#"{"detail":"the event may have been stored: repeat"}"#), Some(Outcome::Unknown));
        assert_eq!(judge(503, br#"{"detail":"the event was not stored"}"#), Some(Outcome::Refused));
        assert_eq!(judge(429, br#"{"detail":"too many"}"#), Some(Outcome::Refused));
        assert_eq!(judge(500, br#"{"detail":"internal"}"#), None);
        assert_eq!(judge(201, b"{}"), None);
        assert_eq!(judge(404, br#"{"detail":"not found"}"#), None);
    }
}
