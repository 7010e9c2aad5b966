//! Rows of replays.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, OrgId, ReplayId};
use schemas::position::LogPosition;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::selection::{Only, Selection, Start};

/// Running replays of an organization.
pub(crate) const MAX_RUNNING: i64 = 3;
/// Ended replays are deleted after this.
const KEPT_DAYS: i32 = 30;

/// What a running replay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The ends of the log are not noted yet.
    Starting,
    /// The dispatcher and the view have not reached them.
    Log,
    /// The view has not reached the reports of the attempts until then.
    Reports,
    Scheduling,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Log => "log",
            Self::Reports => "reports",
            Self::Scheduling => "scheduling",
        }
    }

    fn parse(text: &str) -> Result<Self, sqlx::Error> {
        [Self::Starting, Self::Log, Self::Reports, Self::Scheduling]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown stage of a replay: {text}").into()))
    }
}

/// The last delivery or event that a replay has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// When the delivery was created, or the event accepted.
    pub at: Option<OffsetDateTime>,
    pub delivery: Option<DeliveryId>,
    pub event: Option<LogPosition>,
}

/// A replay and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub id: ReplayId,
    pub selection: Selection,
    pub status: String,
    pub matched: i64,
    pub scheduled: i64,
    pub delivered: i64,
    pub failed: i64,
    pub created_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub(super) stage: Stage,
    is_held_back: bool,
    pub(super) cursor: Cursor,
}

impl Replay {
    /// What a running replay waits for, in a word.
    pub(crate) fn waits_for(&self) -> Option<&'static str> {
        match self.stage {
            _ if self.status != "running" => None,
            Stage::Scheduling => self.is_held_back.then_some("open_deliveries"),
            Stage::Starting | Stage::Log | Stage::Reports => Some("log"),
        }
    }

    /// Which part of what it has scheduled has ended, in thousandths that are rounded down.
    #[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
    pub(crate) fn progress(&self) -> f64 {
        let ended = self.delivered.saturating_add(self.failed);
        match self.scheduled {
            0 if self.status == "running" => 0.0,
            0 => 1.0,
            scheduled => (i128::from(ended) * 1000 / i128::from(scheduled)).clamp(0, 1000) as f64 / 1000.0,
        }
    }

    /// When the last delivery that it has looked at was created, or the last event accepted.
    pub(crate) fn reached(&self) -> Option<OffsetDateTime> {
        self.cursor.at
    }
}

impl FromRow<'_, PgRow> for Replay {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let only: String = row.try_get("only_status")?;
        let partition: Option<i32> = row.try_get("from_partition")?;
        let record = partition.zip(row.try_get("from_offset")?);
        let from: Option<OffsetDateTime> = row.try_get("created_from")?;
        let cursor_partition: Option<i32> = row.try_get("cursor_log_partition")?;
        let cursor_epoch: Option<i32> = row.try_get("cursor_log_epoch")?;
        let epoch_and_offset = cursor_epoch.zip(row.try_get("cursor_log_offset")?);
        Ok(Self {
            id: ReplayId::from_uuid(row.try_get("id")?),
            selection: Selection {
                org_id: OrgId::from_uuid(row.try_get("org_id")?),
                endpoint: EndpointId::from_uuid(row.try_get("endpoint_id")?),
                only: Only::parse(&only)
                    .ok_or_else(|| sqlx::Error::Decode(format!("unknown kind of a replay: {only}").into()))?,
                from: from.map(|at| Start { at, record }),
                before: row.try_get("created_before")?,
                event_types: row.try_get("event_types")?,
            },
            status: row.try_get("status")?,
            matched: row.try_get("matched")?,
            scheduled: row.try_get("scheduled")?,
            delivered: row.try_get("delivered")?,
            failed: row.try_get("failed")?,
            created_at: row.try_get("created_at")?,
            ended_at: row.try_get("ended_at")?,
            stage: Stage::parse(row.try_get("stage")?)?,
            is_held_back: row.try_get("is_held_back")?,
            cursor: Cursor {
                at: row.try_get("cursor_created_at")?,
                delivery: row.try_get::<Option<Uuid>, _>("cursor_delivery_id")?.map(DeliveryId::from_uuid),
                event: cursor_partition.zip(epoch_and_offset).map(|(partition, (log_epoch, offset))| LogPosition {
                    log_epoch,
                    partition,
                    offset,
                }),
            },
        })
    }
}

/// Starts a replay. `None`: one of the endpoint is running, or too many of the organization are.
pub(crate) async fn create(
    connection: &mut PgConnection,
    selection: &Selection,
) -> Result<Option<ReplayId>, sqlx::Error> {
    // One after the other, or each would count without the others.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('triggers replays'), hashtext($1::text))")
        .bind(selection.org_id.as_uuid())
        .execute(&mut *connection)
        .await?;
    let stage = if selection.only.is_of_events() { Stage::Starting } else { Stage::Scheduling };
    let (from_partition, from_offset) = selection.from.and_then(|start| start.record).unzip();
    let id: Option<Uuid> = sqlx::query_scalar(
        "INSERT INTO replays (id, org_id, endpoint_id, only_status, created_from, created_before, event_types, stage,
                              from_partition, from_offset)
         SELECT $1, $2, $3, $8, $4, $5, $6, $9, $10, $11
         WHERE (SELECT count(*) FROM replays WHERE org_id = $2 AND status = 'running') < $7
         ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(ReplayId::generate().as_uuid())
    .bind(selection.org_id.as_uuid())
    .bind(selection.endpoint.as_uuid())
    .bind(selection.from.map(|start| start.at))
    .bind(selection.before)
    .bind(selection.event_types.as_deref())
    .bind(MAX_RUNNING)
    .bind(selection.only.as_str())
    .bind(stage.as_str())
    .bind(from_partition)
    .bind(from_offset)
    .fetch_optional(connection)
    .await?;
    Ok(id.map(ReplayId::from_uuid))
}

/// A replay of the organization.
pub(crate) async fn get(pool: &PgPool, org_id: OrgId, id: ReplayId) -> Result<Option<Replay>, sqlx::Error> {
    // In one statement, so one snapshot: what is added up meanwhile is counted once.
    let row = sqlx::query(
        "SELECT r.*, COALESCE(o.delivered, 0) AS more_delivered, COALESCE(o.failed, 0) AS more_failed
         FROM replays r
              CROSS JOIN LATERAL (SELECT sum(delivered) AS delivered, sum(failed) AS failed
                                  FROM replay_outcomes WHERE replay_id = r.id) AS o
         WHERE r.org_id = $1 AND r.id = $2",
    )
    .bind(org_id.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut replay = Replay::from_row(&row)?;
    replay.delivered += row.try_get::<i64, _>("more_delivered")?;
    replay.failed += row.try_get::<i64, _>("more_failed")?;
    Ok(Some(replay))
}

/// Cancels a replay: it schedules nothing more. One that has ended stays as it is. `false`: there is no such replay.
pub(crate) async fn cancel(connection: &mut PgConnection, org_id: OrgId, id: ReplayId) -> Result<bool, sqlx::Error> {
    let changed: Option<Uuid> = sqlx::query_scalar(
        "WITH cancelled AS (
             UPDATE replays SET ended_at = COALESCE(ended_at, now()),
                                status = CASE status WHEN 'running' THEN 'cancelled' ELSE status END
             WHERE org_id = $1 AND id = $2 RETURNING id
         ), ends AS (
             DELETE FROM replay_log_ends WHERE replay_id IN (SELECT id FROM cancelled)
         )
         SELECT id FROM cancelled",
    )
    .bind(org_id.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(changed.is_some())
}

/// Deletes replays that ended long ago, and adds up the outcomes of the others that have ended.
pub(crate) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM replays WHERE ended_at < now() - make_interval(days => $1)")
        .bind(KEPT_DAYS)
        .execute(pool)
        .await?;
    sqlx::query(
        "WITH taken AS (
             DELETE FROM replay_outcomes o
             WHERE NOT EXISTS (SELECT FROM replays r WHERE r.id = o.replay_id AND r.status = 'running')
             RETURNING replay_id, delivered, failed
         )
         UPDATE replays r SET delivered = r.delivered + t.delivered, failed = r.failed + t.failed
         FROM (SELECT replay_id, sum(delivered) AS delivered, sum(failed) AS failed FROM taken GROUP BY 1) AS t
         WHERE r.id = t.replay_id",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Locks the running replay that is due for longest.
pub(super) async fn lock_due(connection: &mut PgConnection) -> Result<Option<Replay>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM replays WHERE status = 'running' AND next_at <= now()
         ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(connection)
    .await
}

/// Looks at a locked replay again after a time.
pub(super) async fn postpone(
    connection: &mut PgConnection,
    id: ReplayId,
    after: Duration,
    is_held_back: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE replays SET next_at = now() + make_interval(secs => $2), is_held_back = $3 WHERE id = $1")
        .bind(id.as_uuid())
        .bind(after.as_secs_f64())
        .bind(is_held_back)
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves a replay to the next stage, which is due at once. `false`: it has ended, or is not in the stage before.
pub(super) async fn enter(
    connection: &mut PgConnection,
    id: ReplayId,
    before: Stage,
    next: Stage,
) -> Result<bool, sqlx::Error> {
    let changed = sqlx::query(
        "UPDATE replays SET stage = $3, next_at = now() WHERE id = $1 AND status = 'running' AND stage = $2",
    )
    .bind(id.as_uuid())
    .bind(before.as_str())
    .bind(next.as_str())
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// What a batch has done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub matched: usize,
    pub scheduled: usize,
    /// Its last delivery or event; the cursor before, if there was none.
    pub cursor: Cursor,
    pub is_end: bool,
}

/// Moves the cursor of a locked replay behind a batch, and adds up the outcomes so far. The next batch is due after
/// this time.
pub(super) async fn advance(
    connection: &mut PgConnection,
    id: ReplayId,
    batch: Batch,
    due_after: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH taken AS (DELETE FROM replay_outcomes WHERE replay_id = $1 RETURNING delivered, failed)
         UPDATE replays SET matched = matched + $2, scheduled = scheduled + $3,
                            delivered = delivered + COALESCE((SELECT sum(delivered) FROM taken), 0),
                            failed = failed + COALESCE((SELECT sum(failed) FROM taken), 0), cursor_created_at = $4,
                            cursor_delivery_id = $5, cursor_log_partition = $6, cursor_log_epoch = $7,
                            cursor_log_offset = $8, next_at = now() + make_interval(secs => $9), is_held_back = false
         WHERE id = $1",
    )
    .bind(id.as_uuid())
    .bind(i64::try_from(batch.matched).unwrap_or(i64::MAX))
    .bind(i64::try_from(batch.scheduled).unwrap_or(i64::MAX))
    .bind(batch.cursor.at)
    .bind(batch.cursor.delivery.map(|id| id.as_uuid()))
    .bind(batch.cursor.event.map(|position| position.partition))
    .bind(batch.cursor.event.map(|position| position.log_epoch))
    .bind(batch.cursor.event.map(|position| position.offset))
    .bind(due_after.as_secs_f64())
    .execute(&mut *connection)
    .await?;
    if batch.is_end {
        finish(connection, id).await?;
    }
    Ok(())
}

async fn finish(connection: &mut PgConnection, id: ReplayId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH ends AS (DELETE FROM replay_log_ends WHERE replay_id = $1)
         UPDATE replays SET status = 'finished', ended_at = now() WHERE id = $1",
    )
    .bind(id.as_uuid())
    .execute(connection)
    .await?;
    Ok(())
}
