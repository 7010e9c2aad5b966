//! Replays: the failed deliveries of an endpoint are retried in bulk, batch by batch, by any dispatcher. The cursor
//! moves in the transaction that schedules a batch, so a replay survives a restart and schedules nothing twice.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, OrgId, ReplayId};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::endpoints::store;
use crate::retry::schedule::{self, OpenLimits};

/// Running replays of an organization.
pub(crate) const MAX_RUNNING: i64 = 3;
/// A count of a dry run ends here.
pub(crate) const MAX_COUNTED: i64 = 10_000;
/// Deliveries of one batch.
const BATCH_ROWS: i64 = 500;
/// Time between two batches of a replay: it schedules at most 500 deliveries a second.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a replay waits whose organization has too much open.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Ended replays are deleted after this.
const KEPT_DAYS: i32 = 30;

/// Which failed deliveries of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub org_id: OrgId,
    pub endpoint: EndpointId,
    /// Created at this time or later.
    pub from: Option<OffsetDateTime>,
    /// Created before this time.
    pub before: OffsetDateTime,
    /// `None`: all.
    pub event_types: Option<Vec<String>>,
}

/// A replay and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub id: ReplayId,
    pub selection: Selection,
    pub status: String,
    pub matched: i64,
    pub scheduled: i64,
    pub created_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    /// The last delivery that was looked at.
    cursor: Option<(OffsetDateTime, DeliveryId)>,
}

impl FromRow<'_, PgRow> for Replay {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let cursor_at: Option<OffsetDateTime> = row.try_get("cursor_created_at")?;
        let cursor_id: Option<Uuid> = row.try_get("cursor_delivery_id")?;
        Ok(Self {
            id: ReplayId::from_uuid(row.try_get("id")?),
            selection: Selection {
                org_id: OrgId::from_uuid(row.try_get("org_id")?),
                endpoint: EndpointId::from_uuid(row.try_get("endpoint_id")?),
                from: row.try_get("created_from")?,
                before: row.try_get("created_before")?,
                event_types: row.try_get("event_types")?,
            },
            status: row.try_get("status")?,
            matched: row.try_get("matched")?,
            scheduled: row.try_get("scheduled")?,
            created_at: row.try_get("created_at")?,
            ended_at: row.try_get("ended_at")?,
            cursor: cursor_at.zip(cursor_id.map(DeliveryId::from_uuid)),
        })
    }
}

/// The next deliveries of a selection after a cursor, in its order.
async fn next_batch(
    connection: &mut PgConnection,
    selection: &Selection,
    cursor: Option<(OffsetDateTime, DeliveryId)>,
    limit: i64,
) -> Result<Vec<(OffsetDateTime, DeliveryId)>, sqlx::Error> {
    let (after, id) = cursor.unzip();
    let rows: Vec<(OffsetDateTime, Uuid)> = sqlx::query_as(
        "SELECT created_at, delivery_id FROM contract.deliveries
         WHERE org_id = $1 AND endpoint_id = $2 AND status = 'failed' AND created_at >= COALESCE($3, '-infinity')
               AND created_at < $4 AND ($5::text[] IS NULL OR event_type = ANY ($5))
               AND (created_at, delivery_id) > (COALESCE($6, '-infinity'), $7)
         ORDER BY created_at, delivery_id LIMIT $8",
    )
    .persistent(false)
    .bind(selection.org_id.as_uuid())
    .bind(selection.endpoint.as_uuid())
    .bind(selection.from)
    .bind(selection.before)
    .bind(selection.event_types.as_deref())
    .bind(after)
    .bind(id.map_or(Uuid::nil(), |id| id.as_uuid()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(at, id)| (at, DeliveryId::from_uuid(id))).collect())
}

/// How many deliveries a selection has; [`MAX_COUNTED`] means as many or more.
pub(crate) async fn count(connection: &mut PgConnection, selection: &Selection) -> Result<usize, sqlx::Error> {
    Ok(next_batch(connection, selection, None, MAX_COUNTED).await?.len())
}

/// Starts a replay. `None`: one of the endpoint is running, or too many of the organization are.
pub(crate) async fn create(
    connection: &mut PgConnection,
    selection: &Selection,
) -> Result<Option<ReplayId>, sqlx::Error> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "INSERT INTO replays (id, org_id, endpoint_id, only_status, created_from, created_before, event_types)
         SELECT $1, $2, $3, 'failed', $4, $5, $6
         WHERE (SELECT count(*) FROM replays WHERE org_id = $2 AND status = 'running') < $7
         ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(ReplayId::generate().as_uuid())
    .bind(selection.org_id.as_uuid())
    .bind(selection.endpoint.as_uuid())
    .bind(selection.from)
    .bind(selection.before)
    .bind(selection.event_types.as_deref())
    .bind(MAX_RUNNING)
    .fetch_optional(connection)
    .await?;
    Ok(id.map(ReplayId::from_uuid))
}

/// A replay of the organization.
pub(crate) async fn get(pool: &PgPool, org_id: OrgId, id: ReplayId) -> Result<Option<Replay>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM replays WHERE org_id = $1 AND id = $2")
        .bind(org_id.as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(pool)
        .await
}

/// Cancels a replay: it schedules nothing more. One that has ended stays as it is. `false`: there is no such replay.
pub(crate) async fn cancel(connection: &mut PgConnection, org_id: OrgId, id: ReplayId) -> Result<bool, sqlx::Error> {
    let changed = sqlx::query(
        "UPDATE replays SET ended_at = COALESCE(ended_at, now()),
                            status = CASE status WHEN 'running' THEN 'cancelled' ELSE status END
         WHERE org_id = $1 AND id = $2",
    )
    .bind(org_id.as_uuid())
    .bind(id.as_uuid())
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// Deletes replays that ended long ago.
pub(crate) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM replays WHERE ended_at < now() - make_interval(days => $1)")
        .bind(KEPT_DAYS)
        .execute(pool)
        .await?;
    Ok(())
}

/// Schedules batches until `shutdown`. Every dispatcher may run this.
pub(crate) async fn run(pool: PgPool, limits: OpenLimits, shutdown: CancellationToken) {
    let working = async {
        loop {
            match step(&pool, limits).await {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(error) => {
                    warn!(%error, "Batch of a replay not scheduled; trying again.");
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(working).await;
}

/// Schedules one batch of the replay that is due for longest. `false`: none is due.
async fn step(pool: &PgPool, limits: OpenLimits) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let due: Option<Replay> = sqlx::query_as(
        "SELECT * FROM replays WHERE status = 'running' AND next_at <= now()
         ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(replay) = due else { return Ok(false) };
    let Selection { org_id, endpoint, .. } = replay.selection;
    let has_endpoint = store::exists(&mut transaction, org_id, endpoint).await?;
    if !has_endpoint || store::is_erased(&mut transaction, org_id).await? {
        cancel(&mut transaction, org_id, replay.id).await?;
        transaction.commit().await?;
        return Ok(true);
    }
    let rows = BATCH_ROWS.min(limits.rows);
    if schedule::beyond(&mut transaction, org_id, rows, limits).await?.is_some() {
        advance(&mut transaction, &replay, &[], 0, FULL_INTERVAL).await?;
    } else {
        let batch = next_batch(&mut transaction, &replay.selection, replay.cursor, rows).await?;
        let ids: Vec<DeliveryId> = batch.iter().map(|(_, id)| *id).collect();
        let scheduled = schedule::start_rounds(&mut transaction, org_id, &ids).await?;
        advance(&mut transaction, &replay, &batch, scheduled, BATCH_INTERVAL).await?;
        if (batch.len() as u64) < rows.unsigned_abs() {
            finish(&mut transaction, replay.id).await?;
        }
    }
    transaction.commit().await?;
    Ok(true)
}

/// Moves the cursor behind a batch.
async fn advance(
    connection: &mut PgConnection,
    replay: &Replay,
    batch: &[(OffsetDateTime, DeliveryId)],
    scheduled: usize,
    due_after: Duration,
) -> Result<(), sqlx::Error> {
    let (at, id) = batch.last().copied().or(replay.cursor).unzip();
    sqlx::query(
        "UPDATE replays SET matched = matched + $2, scheduled = scheduled + $3, cursor_created_at = $4,
                            cursor_delivery_id = $5, next_at = now() + make_interval(secs => $6)
         WHERE id = $1",
    )
    .bind(replay.id.as_uuid())
    .bind(i64::try_from(batch.len()).unwrap_or(i64::MAX))
    .bind(i64::try_from(scheduled).unwrap_or(i64::MAX))
    .bind(at)
    .bind(id.map(|id| id.as_uuid()))
    .bind(due_after.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}

async fn finish(connection: &mut PgConnection, id: ReplayId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE replays SET status = 'finished', ended_at = now() WHERE id = $1")
        .bind(id.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}
