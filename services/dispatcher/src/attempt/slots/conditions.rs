//! Shares what dispatchers know of endpoints, in `endpoint_conditions`: leases places on rate limits, writes conditions
//! that changed, and takes over those of other dispatchers.
//!
//! While PostgreSQL does not answer, no places are leased. That delays nothing: no attempt starts then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::ids::EndpointId;
use sqlx::postgres::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::Slots;
use super::condition::{CircuitState, ConditionChange, StoredCondition};
use super::shared_rate::{Lease, SharedRate};
use super::table::RateAsk;
use crate::endpoints::disabling::{self, DisablingReason};
use crate::metrics::METRICS;

/// Endpoints of one statement.
const BATCH: usize = 1000;
/// Conditions that are taken over at the start. The others are found out again.
const MAX_ADOPTED: i64 = 10_000;
/// An endpoint's condition is written and read once in so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// Other dispatchers' changes of this time are read. Longer than a late statement.
const RECENT: Duration = Duration::from_secs(5);
/// A condition that did not change for so long is deleted, and not taken over.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long places are not asked for again after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// Shares conditions until `shutdown`. An endpoint that fails for `disable_after` is disabled.
pub(crate) async fn run(slots: Slots, pool: PgPool, disable_after: Option<Duration>, shutdown: CancellationToken) {
    let sharing = Sharing { slots, pool, writer: Uuid::new_v4(), disable_after };
    shutdown.run_until_cancelled(async { tokio::join!(sharing.lease(), sharing.exchange()) }).await;
}

/// Takes over the open circuits and the pauses that dispatchers have written, before the first attempt.
pub(crate) async fn adopt_stored(slots: &Slots, pool: &PgPool) {
    match read(pool, Uuid::nil(), FORGOTTEN_AFTER, true).await {
        Ok(stored) => slots.adopt(&stored),
        Err(error) => warn!(%error, "Conditions of endpoints could not be read; starting without open circuits."),
    }
}

struct Sharing {
    slots: Slots,
    pool: PgPool,
    /// Names this process.
    writer: Uuid,
    disable_after: Option<Duration>,
}

impl Sharing {
    async fn lease(&self) {
        loop {
            self.slots.asked.notified().await;
            loop {
                let asks = self.slots.take_asks(BATCH);
                if asks.is_empty() {
                    break;
                }
                let asked = Instant::now();
                match lease(&self.pool, &asks).await {
                    Ok(leases) => self.slots.answer(&asks, leases, asked),
                    Err(error) => {
                        warn!(%error, "Places on rate limits could not be leased; trying again.");
                        self.slots.answer(&asks, HashMap::new(), asked);
                    }
                }
            }
        }
    }

    async fn exchange(&self) {
        let mut next_sweep = Instant::now();
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.write_changes().await {
                warn!(%error, "Conditions of endpoints could not be written; trying again.");
            }
            match read(&self.pool, self.writer, RECENT, false).await {
                Ok(stored) => self.slots.adopt(&stored),
                Err(error) => warn!(%error, "Conditions of endpoints could not be read; trying again."),
            }
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP_INTERVAL;
                match sweep(&self.pool).await {
                    Ok(0) => {}
                    Ok(rows) => info!(rows, "Old conditions of endpoints deleted."),
                    Err(error) => warn!(%error, "Old conditions of endpoints not deleted; trying again in a minute."),
                }
            }
        }
    }

    async fn write_changes(&self) -> Result<(), sqlx::Error> {
        let changes = self.slots.take_changes(BATCH);
        if changes.is_empty() {
            return Ok(());
        }
        match write(&self.pool, self.writer, &changes).await {
            Ok(failing) => self.disable(failing).await,
            Err(error) => {
                self.slots.put_back(changes);
                Err(error)
            }
        }
    }

    /// Disables endpoints that have failed for too long. One that could not be disabled is reported again.
    async fn disable(&self, failing: Vec<(EndpointId, Duration)>) -> Result<(), sqlx::Error> {
        let Some(least) = self.disable_after else { return Ok(()) };
        for (id, _) in failing.into_iter().filter(|(_, lasts)| *lasts >= least) {
            disabling::disable(&self.pool, id, DisablingReason::Failing(least), true).await?;
        }
        Ok(())
    }
}

impl Slots {
    fn take_asks(&self, max: usize) -> Vec<RateAsk> {
        self.lock().take_asks(max)
    }

    fn answer(&self, asks: &[RateAsk], mut leases: HashMap<EndpointId, Result<Lease, Duration>>, asked: Instant) {
        let now = Instant::now();
        let mut table = self.lock();
        for ask in asks {
            match leases.remove(&ask.endpoint_id).unwrap_or(Err(ERROR_PAUSE)) {
                Ok(lease) => table.granted(ask.endpoint_id, lease, asked, now),
                Err(after) => table.refused(ask.endpoint_id, after, now),
            }
        }
    }

    fn take_changes(&self, max: usize) -> Vec<ConditionChange> {
        self.lock().take_changes(max)
    }

    fn put_back(&self, changes: Vec<ConditionChange>) {
        self.lock().put_back(changes);
    }

    fn adopt(&self, stored: &[StoredCondition]) {
        let now = Instant::now();
        let mut table = self.lock();
        stored.iter().for_each(|stored| table.adopt(*stored, now));
    }
}

/// Inserts missing rows. One of a deleted endpoint would be left when its organization is erased: with the lock, either
/// the erasure finds the row, or the endpoint is deleted here.
async fn insert(connection: &mut PgConnection, endpoints: Vec<Uuid>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO endpoint_conditions (endpoint_id, org_id)
         SELECT e.id, e.org_id FROM endpoints e
         WHERE e.id = ANY ($1) AND e.deleted_at IS NULL
               AND NOT EXISTS (SELECT FROM endpoint_conditions c WHERE c.endpoint_id = e.id)
         ORDER BY e.id FOR SHARE OF e
         ON CONFLICT DO NOTHING",
    )
    .bind(endpoints)
    .execute(connection)
    .await?;
    Ok(())
}

/// Leases places. An endpoint without an answer was not there.
async fn lease(pool: &PgPool, asks: &[RateAsk]) -> Result<HashMap<EndpointId, Result<Lease, Duration>>, sqlx::Error> {
    let by_id: HashMap<Uuid, RateAsk> = asks.iter().map(|ask| (ask.endpoint_id.as_uuid(), *ask)).collect();
    let mut transaction = runtime::postgres::begin(pool).await?;
    let ids: Vec<Uuid> = asks.iter().map(|ask| ask.endpoint_id.as_uuid()).collect();
    insert(&mut transaction, ids.clone()).await?;
    // In this order, so that two dispatchers lock the rows in one order.
    let rows: Vec<(Uuid, i64, f64, Option<i64>, i64)> = sqlx::query_as(
        "SELECT endpoint_id, (extract(epoch FROM next_free_at) * 1000000)::bigint, rate_share,
                CASE WHEN reduced_at > '-infinity' THEN (extract(epoch FROM reduced_at) * 1000000)::bigint END,
                (extract(epoch FROM now()) * 1000000)::bigint
         FROM endpoint_conditions WHERE endpoint_id = ANY ($1) ORDER BY endpoint_id FOR UPDATE",
    )
    .bind(ids)
    .fetch_all(&mut *transaction)
    .await?;
    let (mut leases, mut changed) = (HashMap::new(), Vec::new());
    for (id, next_free_us, share, reduced_us, now_us) in rows {
        let Some(ask) = by_id.get(&id) else { continue };
        let mut shared = SharedRate { next_free_us, share, reduced_us };
        let lease = shared.lease(ask.limit, ask.feedback, now_us);
        METRICS.places_leased.inc_by(lease.map_or(0, |lease| u64::from(lease.count)));
        METRICS.rates_reduced.inc_by(u64::from(shared.reduced_us != reduced_us));
        leases.insert(ask.endpoint_id, lease);
        changed.push((id, shared));
    }
    sqlx::query(
        "UPDATE endpoint_conditions c
         SET next_free_at = to_timestamp(0) + make_interval(secs => t.next_free_us / 1000000.0), rate_share = t.share,
             reduced_at = COALESCE(to_timestamp(0) + make_interval(secs => t.reduced_us / 1000000.0), '-infinity'),
             updated_at = CASE WHEN c.updated_at < now() - interval '10 minutes' THEN now() ELSE c.updated_at END
         FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[], $4::bigint[])
              AS t (endpoint_id, next_free_us, share, reduced_us)
         WHERE c.endpoint_id = t.endpoint_id",
    )
    .bind(changed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(changed.iter().map(|(_, shared)| shared.next_free_us).collect::<Vec<_>>())
    .bind(changed.iter().map(|(_, shared)| shared.share).collect::<Vec<_>>())
    .bind(changed.iter().map(|(_, shared)| shared.reduced_us).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(leases)
}

/// Writes changes. A success alone makes no row. Returns the endpoints that fail, and for how long.
async fn write(
    pool: &PgPool,
    writer: Uuid,
    changes: &[ConditionChange],
) -> Result<Vec<(EndpointId, Duration)>, sqlx::Error> {
    let ids: Vec<Uuid> = changes.iter().map(|change| change.endpoint_id.as_uuid()).collect();
    let is_kept = |change: &&ConditionChange| change.condition.is_some() || change.is_failing == Some(true);
    let kept = changes.iter().filter(is_kept).map(|change| change.endpoint_id.as_uuid()).collect();
    let mut transaction = runtime::postgres::begin(pool).await?;
    insert(&mut transaction, kept).await?;
    // In this order, so that two dispatchers lock the rows in one order.
    sqlx::query("SELECT FROM endpoint_conditions WHERE endpoint_id = ANY ($1) ORDER BY endpoint_id FOR UPDATE")
        .bind(&ids)
        .execute(&mut *transaction)
        .await?;
    let failing = update(&mut transaction, writer, &ids, changes).await?;
    transaction.commit().await?;
    Ok(failing)
}

async fn update(
    connection: &mut PgConnection,
    writer: Uuid,
    ids: &[Uuid],
    changes: &[ConditionChange],
) -> Result<Vec<(EndpointId, Duration)>, sqlx::Error> {
    let now = Instant::now();
    let seconds = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
    let circuit = |change: &ConditionChange| change.condition.map(|condition| condition.circuit.as_str());
    let retry_after = |change: &ConditionChange| match change.condition?.circuit {
        CircuitState::Open { until } => Some(seconds(until)),
        CircuitState::Closed | CircuitState::HalfOpen => None,
    };
    let stopped_for = |change: &ConditionChange| change.condition?.stopped_until.map(seconds);
    let max_in_flight = |change: &ConditionChange| i32::try_from(change.condition?.max_in_flight).ok();
    let failing: Vec<(Uuid, Option<f64>)> = sqlx::query_as(
        "UPDATE endpoint_conditions c
         SET circuit = COALESCE(t.circuit, c.circuit),
             circuit_retry_at = CASE WHEN t.circuit IS NULL THEN c.circuit_retry_at
                                     ELSE now() + make_interval(secs => t.retry_after) END,
             stopped_until = greatest(c.stopped_until, now() + make_interval(secs => t.stopped_for)),
             max_in_flight = COALESCE(t.max_in_flight, c.max_in_flight),
             failing_since = CASE WHEN t.is_failing THEN COALESCE(c.failing_since, now())
                                  WHEN t.is_failing IS NULL THEN c.failing_since END,
             last_failed_at = CASE WHEN t.is_failing THEN now() WHEN t.is_failing IS NULL THEN c.last_failed_at END,
             writer = CASE WHEN t.circuit IS NULL THEN c.writer ELSE $7 END, updated_at = now()
         FROM UNNEST($1::uuid[], $2::text[], $3::double precision[], $4::double precision[], $5::integer[],
                     $6::boolean[]) AS t (endpoint_id, circuit, retry_after, stopped_for, max_in_flight, is_failing)
         WHERE c.endpoint_id = t.endpoint_id
               AND (t.circuit IS NOT NULL OR t.is_failing OR c.failing_since IS NOT NULL)
         RETURNING c.endpoint_id,
                   CASE WHEN t.is_failing
                        THEN extract(epoch FROM c.last_failed_at - c.failing_since)::double precision END",
    )
    .bind(ids)
    .bind(changes.iter().map(circuit).collect::<Vec<_>>())
    .bind(changes.iter().map(retry_after).collect::<Vec<_>>())
    .bind(changes.iter().map(stopped_for).collect::<Vec<_>>())
    .bind(changes.iter().map(max_in_flight).collect::<Vec<_>>())
    .bind(changes.iter().map(|change| change.is_failing).collect::<Vec<_>>())
    .bind(writer)
    .fetch_all(connection)
    .await?;
    let lasts = |(id, seconds): (Uuid, Option<f64>)| Some((EndpointId::from_uuid(id), duration(seconds?)));
    Ok(failing.into_iter().filter_map(lasts).collect())
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Open circuits and pauses that others have written within this time. `is_start`: those of a process that died while
/// it probed an endpoint too.
async fn read(
    pool: &PgPool,
    writer: Uuid,
    within: Duration,
    is_start: bool,
) -> Result<Vec<StoredCondition>, sqlx::Error> {
    let rows: Vec<(Uuid, Option<f64>, Option<f64>, i64)> = sqlx::query_as(
        "SELECT endpoint_id,
                CASE WHEN circuit = 'open' OR $4 AND circuit = 'half_open'
                     THEN greatest(extract(epoch FROM circuit_retry_at - now()), 0)::double precision END,
                CASE WHEN stopped_until > now()
                     THEN extract(epoch FROM stopped_until - now())::double precision END,
                (extract(epoch FROM updated_at) * 1000000)::bigint
         FROM endpoint_conditions
         WHERE updated_at >= now() - make_interval(secs => $1) AND writer <> $2
               AND (circuit = 'open' OR $4 AND circuit = 'half_open' OR stopped_until > now())
         ORDER BY updated_at DESC LIMIT $3",
    )
    .persistent(false)
    .bind(within.as_secs_f64())
    .bind(writer)
    .bind(MAX_ADOPTED)
    .bind(is_start)
    .fetch_all(pool)
    .await?;
    let stored = |(endpoint_id, retry_after, stopped_for, version): (_, Option<f64>, Option<f64>, _)| StoredCondition {
        endpoint_id: EndpointId::from_uuid(endpoint_id),
        retry_after: retry_after.map(duration),
        stopped_for: stopped_for.map(duration),
        version,
    };
    Ok(rows.into_iter().map(stored).collect())
}

/// Deletes rows that say nothing any more, at most a batch.
async fn sweep(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "DELETE FROM endpoint_conditions WHERE endpoint_id IN (
             SELECT endpoint_id FROM endpoint_conditions
             WHERE updated_at < now() - make_interval(secs => $1) AND failing_since IS NULL
                   AND (stopped_until IS NULL OR stopped_until < now())
             ORDER BY updated_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .persistent(false)
    .bind(FORGOTTEN_AFTER.as_secs_f64())
    .bind(BATCH as i64)
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}
