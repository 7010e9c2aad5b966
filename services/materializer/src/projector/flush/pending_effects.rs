//! Pending effects: acks and attempts that were read before their event. They are applied when the event's id appears.

use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::attempts;
use crate::columns::column;

/// Applies the pending effects of these ids. An effect whose event is missing stays: the record that was read may not
/// own the id, or a duplicate came before its original. Pending attempts of a duplicate are deleted: a duplicate never
/// becomes an event.
///
/// `ids` must include the ids of duplicates: an effect may name an id that turned out to be a duplicate later.
pub(crate) async fn apply(connection: &mut PgConnection, ids: &[(OrgId, EventId)]) -> Result<(), sqlx::Error> {
    // The update also touches events of which only the status must be computed, because it locks their rows: see
    // `attempts::compute_statuses`.
    let touched: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
        "WITH arrived AS (
             SELECT DISTINCT t.org_id, t.event_id AS named, COALESCE(i.canonical_id, t.event_id) AS event_id
             FROM UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id) LEFT JOIN event_ids i USING (org_id, event_id)
         ), taken AS (
             DELETE FROM pending_effects p USING arrived a
             WHERE p.org_id = a.org_id AND p.event_id = a.named
                   AND (EXISTS (SELECT FROM events e WHERE e.org_id = a.org_id AND e.event_id = a.event_id)
                        OR (p.effect = 'attempt' AND a.named <> a.event_id))
             RETURNING a.org_id, a.named, a.event_id, p.effect, p.appended_at
         ), effects AS (
             SELECT org_id, event_id, min(appended_at) FILTER (WHERE effect = 'ack') AS acknowledged_at,
                    bool_or(effect = 'attempt') AS is_attempted
             FROM taken WHERE effect = 'ack' OR named = event_id GROUP BY org_id, event_id
         )
         UPDATE events e SET acknowledged_at = LEAST(e.acknowledged_at, effects.acknowledged_at)
         FROM effects WHERE e.org_id = effects.org_id AND e.event_id = effects.event_id
         RETURNING e.org_id, e.event_id, effects.is_attempted",
    )
    .bind(column(ids, |(org, _)| org.as_uuid()))
    .bind(column(ids, |(_, id)| id.as_uuid()))
    .fetch_all(&mut *connection)
    .await?;
    let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) =
        touched.into_iter().filter(|(.., is_attempted)| *is_attempted).map(|(org, id, _)| (org, id)).unzip();
    if orgs.is_empty() {
        return Ok(());
    }
    attempts::compute_statuses(connection, &orgs, &ids).await
}
