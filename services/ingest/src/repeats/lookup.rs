//! Looking keys up in the view: what concurrent requests ask is asked in one statement, and no request waits longer
//! than 20 ms.

use std::time::Duration;

use platform::lifecycle::Supervisor;
use schemas::ids::EventId;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;
use uuid::Uuid;

use super::Key;
use crate::metrics::METRICS;

const DEADLINE: Duration = Duration::from_millis(20);
/// How long the view is given for a batch: a server that hangs must not hang the queue for longer than its outage.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(1);
/// Questions that wait; one more goes unasked.
const QUEUE: usize = 4096;
/// Questions in one statement.
const BATCH: usize = 512;

/// Asks the view. Cloning shares the queue.
#[derive(Clone)]
pub(super) struct Lookup {
    questions: mpsc::Sender<Question>,
}

struct Question {
    key: Key,
    answer: oneshot::Sender<Option<Holder>>,
}

/// The event that has a key, as the view knows it.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) event_id: EventId,
    /// SHA-256 of its request body, hex.
    pub(super) body_hash: String,
    /// Milliseconds since the Unix epoch.
    pub(super) accepted_at_ms: Option<i64>,
}

impl Lookup {
    /// Starts the task "dedup look-up". It ends when the last clone is dropped: requests that are open at a shutdown
    /// still ask.
    pub(super) fn start(supervisor: &mut Supervisor, pool: PgPool) -> Self {
        let (questions, queue) = mpsc::channel(QUEUE);
        supervisor.spawn("dedup look-up", async move {
            serve(pool, queue).await;
            Ok(())
        });
        Self { questions }
    }

    /// Which event has the key; `None` when none has, or when it could not be learned in time.
    pub(super) async fn find(&self, key: &Key) -> Option<Holder> {
        let (answer, answered) = oneshot::channel();
        let asked = self.questions.try_send(Question { key: key.clone(), answer });
        if asked.is_err() {
            METRICS.lookups.with_label_values(&["skipped"]).inc();
            return None;
        }
        match tokio::time::timeout(DEADLINE, answered).await {
            Ok(Ok(found)) => {
                METRICS.lookups.with_label_values(&[if found.is_some() { "found" } else { "free" }]).inc();
                found
            }
            _ => {
                METRICS.lookups.with_label_values(&["unanswered"]).inc();
                None
            }
        }
    }
}

async fn serve(pool: PgPool, mut queue: mpsc::Receiver<Question>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Who gave up waiting asks nothing any more; after an outage that is everybody.
        batch.retain(|question: &Question| !question.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        match tokio::time::timeout(STATEMENT_DEADLINE, ask(&pool, &batch)).await {
            Ok(Ok(found)) => {
                for (question, known) in batch.drain(..).zip(found) {
                    // Nobody left to tell is fine.
                    drop(question.answer.send(known));
                }
            }
            Ok(Err(error)) => {
                debug!(%error, "Repeats could not be looked up.");
                batch.clear();
            }
            Err(_) => {
                debug!("Repeats were not looked up in time.");
                batch.clear();
            }
        }
    }
}

async fn ask(pool: &PgPool, batch: &[Question]) -> Result<Vec<Option<Holder>>, sqlx::Error> {
    let orgs: Vec<Uuid> = batch.iter().map(|question| question.key.0.as_uuid()).collect();
    let kinds: Vec<&str> = batch.iter().map(|question| question.key.1.as_str()).collect();
    let keys: Vec<&str> = batch.iter().map(|question| question.key.2.as_str()).collect();
    // The window's end is reckoned from the log's append time and compared with this server's clock here. While that
    // one is behind, a key whose window has just ended still counts as held, for as long as the clocks differ: the
    // event is answered as a repeat, and is not written. While it is ahead, a twin is let through, and the
    // materializer, which knows the log's clock alone, decides on it.
    let rows: Vec<(i64, Uuid, String, OffsetDateTime)> = sqlx::query_as(
        "SELECT asked.ordinal, known.event_id, known.body_hash, known.accepted_at
         FROM UNNEST($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (org_id, kind, key, ordinal)
         JOIN contract.dedup_keys known USING (org_id, kind, key)
         WHERE known.expires_at > now()",
    )
    .bind(orgs)
    .bind(kinds)
    .bind(keys)
    .fetch_all(pool)
    .await?;
    let mut found: Vec<Option<Holder>> = vec![None; batch.len()];
    for (ordinal, event_id, body_hash, accepted_at) in rows {
        let slot = usize::try_from(ordinal - 1).ok().and_then(|index| found.get_mut(index));
        if let Some(slot) = slot {
            let accepted_at_ms = Some(schemas::unix_time::to_millis(accepted_at));
            *slot = Some(Holder { event_id: EventId::from_uuid(event_id), body_hash, accepted_at_ms });
        }
    }
    Ok(found)
}
