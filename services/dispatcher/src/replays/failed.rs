//! Pages of failed deliveries for a replay.

use schemas::ids::DeliveryId;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::Cursor;
use super::selection::Selection;

/// The next failed deliveries of a selection after a cursor, the oldest first.
pub(super) async fn next_page(
    connection: &mut PgConnection,
    selection: &Selection,
    cursor: Cursor,
    limit: i64,
) -> Result<Vec<(OffsetDateTime, DeliveryId)>, sqlx::Error> {
    let rows: Vec<(OffsetDateTime, Uuid)> = sqlx::query_as(
        "SELECT created_at, delivery_id FROM contract.deliveries
         WHERE org_id = $1 AND endpoint_id = $2 AND status = 'failed' AND created_at >= COALESCE($3, '-infinity')
               AND created_at < COALESCE($4, 'infinity') AND ($5::text[] IS NULL OR event_type = ANY ($5))
               AND (created_at, delivery_id) > (COALESCE($6, '-infinity'), $7)
         ORDER BY created_at, delivery_id LIMIT $8",
    )
    .persistent(false)
    .bind(selection.org_id.as_uuid())
    .bind(selection.endpoint.as_uuid())
    .bind(selection.from.map(|start| start.at))
    .bind(selection.before)
    .bind(selection.event_types.as_deref())
    .bind(cursor.at)
    .bind(cursor.delivery.map_or(Uuid::nil(), |id| id.as_uuid()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(at, id)| (at, DeliveryId::from_uuid(id))).collect())
}
