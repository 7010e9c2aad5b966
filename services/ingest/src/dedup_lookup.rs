//! Looks dedup keys up in the view. One statement serves all concurrent requests; a request waits at most 20 ms.

use std::time::Duration;

use runtime::lifecycle::Supervisor;
use schemas::ids::{EventId, OrgId};
use schemas::records::DedupKind;
use schemas::unix_time::to_millis;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;
use uuid::Uuid;

use crate::metrics::METRICS;

/// How long a request waits for its lookup.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(20);
/// How long one statement may take: a server that hangs must not block the queue after its outage.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Lookups that wait; further ones are skipped.
const QUEUE: usize = 4096;
/// Lookups in one statement.
const BATCH: usize = 512;

pub(crate) type DedupKey = (OrgId, DedupKind, String);

/// Queries the view. Cloning shares the queue.
#[derive(Clone)]
pub(crate) struct DedupLookup {
    requests: mpsc::Sender<LookupRequest>,
}

struct LookupRequest {
    key: DedupKey,
    reply: oneshot::Sender<Option<OriginalEvent>>,
}

/// The event of a dedup key, as the view has it.
#[derive(Debug, Clone)]
pub(crate) struct OriginalEvent {
    pub(crate) event_id: EventId,
    /// `None`: the view does not have the event any more.
    pub(crate) event_type: Option<String>,
    /// SHA-256 of the request body, hex.
    pub(crate) body_hash: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) accepted_at_ms: i64,
    /// Partition and offset of its record; `None` when the view no longer has the event.
    pub(crate) offset: Option<(i32, i64)>,
}

impl DedupLookup {
    /// Starts the task "dedup lookup". It stops when the last clone is dropped, so that requests in flight at a
    /// shutdown are still looked up.
    pub(crate) fn start(supervisor: &mut Supervisor, pool: PgPool) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let shutdown = supervisor.shutdown();
        supervisor.spawn("dedup lookup", async move {
            serve(pool, queue).await;
            // The last clone is dropped when the HTTP server ends. If that was a failure, its own error is reported.
            shutdown.cancelled().await;
            Ok(())
        });
        Self { requests }
    }

    /// The event of the key; `None` when there is none, or when the view did not answer in time.
    pub(crate) async fn find(&self, key: &DedupKey) -> Option<OriginalEvent> {
        let (reply, received) = oneshot::channel();
        let queued = self.requests.try_send(LookupRequest { key: key.clone(), reply });
        if queued.is_err() {
            METRICS.lookups.with_label_values(&["skipped"]).inc();
            return None;
        }
        match tokio::time::timeout(REQUEST_TIMEOUT, received).await {
            Ok(Ok(found)) => {
                METRICS.lookups.with_label_values(&[if found.is_some() { "found" } else { "not_found" }]).inc();
                found
            }
            _ => {
                METRICS.lookups.with_label_values(&["unavailable"]).inc();
                None
            }
        }
    }
}

async fn serve(pool: PgPool, mut queue: mpsc::Receiver<LookupRequest>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Requests that timed out are dropped; after an outage that is all of them.
        batch.retain(|request: &LookupRequest| !request.reply.is_closed());
        if batch.is_empty() {
            continue;
        }
        match tokio::time::timeout(STATEMENT_TIMEOUT, query(&pool, &batch)).await {
            Ok(Ok(found)) => {
                for (request, original) in batch.drain(..).zip(found) {
                    // The request may have timed out meanwhile.
                    drop(request.reply.send(original));
                }
            }
            Ok(Err(error)) => {
                debug!(%error, "Dedup lookup failed; accepting the events without it");
                batch.clear();
            }
            Err(_) => {
                debug!("Dedup lookup timed out; accepting the events without it");
                batch.clear();
            }
        }
    }
}

/// (ordinal of the request, event id, body hash, acceptance time, event type, partition, offset)
type FoundRow = (i64, Uuid, String, OffsetDateTime, Option<String>, Option<i32>, Option<i64>);

async fn query(pool: &PgPool, batch: &[LookupRequest]) -> Result<Vec<Option<OriginalEvent>>, sqlx::Error> {
    let orgs: Vec<Uuid> = batch.iter().map(|request| request.key.0.as_uuid()).collect();
    let kinds: Vec<&str> = batch.iter().map(|request| request.key.1.as_str()).collect();
    let keys: Vec<&str> = batch.iter().map(|request| request.key.2.as_str()).collect();
    // `expires_at` is computed from the log's append time and compared with PostgreSQL's clock. If that clock is
    // behind, a key stays in use after its window, for as long as the clocks differ: the event is answered as a
    // duplicate, and is not written. If it is ahead, a duplicate is accepted, and the materializer, which uses the
    // log's clock only, decides.
    let rows: Vec<FoundRow> = sqlx::query_as(
        "SELECT requested.ordinal, stored.event_id, stored.body_hash, stored.accepted_at, record.event_type,
                record.log_partition, record.log_offset
         FROM UNNEST($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS requested (org_id, kind, key, ordinal)
         JOIN contract.dedup_keys stored USING (org_id, kind, key)
         LEFT JOIN LATERAL (SELECT event_type, log_partition, log_offset FROM contract.events event
                            WHERE event.org_id = stored.org_id AND event.event_id = stored.event_id
                              AND event.accepted_at = stored.accepted_at LIMIT 1) AS record ON true
         WHERE stored.expires_at > now()",
    )
    .bind(orgs)
    .bind(kinds)
    .bind(keys)
    .fetch_all(pool)
    .await?;
    let mut found: Vec<Option<OriginalEvent>> = vec![None; batch.len()];
    for (ordinal, event_id, body_hash, accepted_at, event_type, partition, offset) in rows {
        let entry = usize::try_from(ordinal - 1).ok().and_then(|index| found.get_mut(index));
        if let Some(entry) = entry {
            let (event_id, accepted_at_ms) = (EventId::from_uuid(event_id), to_millis(accepted_at));
            let offset = partition.zip(offset);
            *entry = Some(OriginalEvent { event_id, event_type, body_hash, accepted_at_ms, offset });
        }
    }
    Ok(found)
}
