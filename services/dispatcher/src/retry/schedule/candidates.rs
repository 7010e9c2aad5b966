//! Due rows of endpoints with batched delivery, for the choice of those that share a request.

use std::collections::HashMap;

use schemas::ids::{DeliveryId, EndpointId};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::attempt::body::{ENVELOPE_BYTES, TYPE_FACTOR};
use crate::batch::gather::DueRow;
use crate::delivery::TEST_PARTITION;

/// Reads the first due rows of endpoints, at most so many of each, those due for longest first. The queues of the
/// endpoints are locked; the rows are not. Rows of a lane are none of them. A test goes alone, and so does a row
/// without an event.
pub(crate) async fn candidates(
    connection: &mut PgConnection,
    endpoints: &[(EndpointId, usize)],
) -> Result<HashMap<EndpointId, Vec<DueRow<DeliveryId>>>, sqlx::Error> {
    let mut found: HashMap<EndpointId, Vec<DueRow<DeliveryId>>> = HashMap::new();
    if endpoints.is_empty() {
        return Ok(found);
    }
    // The size of a payload is read without the payload.
    let rows: Vec<(Uuid, Uuid, i64, Option<i32>)> = sqlx::query_as(
        "SELECT due.endpoint_id, due.delivery_id,
                COALESCE(octet_length(e.payload), 0) + $3 * octet_length(due.event_type)::bigint
                + COALESCE(octet_length(e.traceparent), 0) + $4,
                CASE WHEN due.log_partition = $5 OR e.payload IS NULL THEN 1 ELSE due.batch_limit END
         FROM UNNEST($1::uuid[], $2::bigint[]) AS wanted (endpoint_id, max_rows)
         JOIN endpoint_queues q ON q.endpoint_id = wanted.endpoint_id
         CROSS JOIN LATERAL (
             SELECT d.endpoint_id, d.delivery_id, d.event_type, d.log_partition, d.log_epoch, d.log_offset, d.due_at,
                    d.batch_limit
             FROM delivery_schedule d
             WHERE d.state = 'pending' AND d.refusal IS NULL AND d.lane IS NULL
                   AND d.endpoint_id = wanted.endpoint_id AND d.due_at >= q.first_due_at AND d.due_at <= now()
             ORDER BY d.due_at LIMIT wanted.max_rows
         ) AS due
         LEFT JOIN delivery_events e ON e.log_partition = due.log_partition AND e.log_epoch = due.log_epoch
                                        AND e.log_offset = due.log_offset
         ORDER BY due.due_at, due.log_partition, due.log_epoch, due.log_offset",
    )
    .persistent(false)
    .bind(endpoints.iter().map(|(endpoint, _)| endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(endpoints.iter().map(|(_, max_rows)| i64::try_from(*max_rows).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(i64::try_from(TYPE_FACTOR).unwrap_or(i64::MAX))
    .bind(i64::try_from(ENVELOPE_BYTES).unwrap_or(i64::MAX))
    .bind(TEST_PARTITION)
    .fetch_all(connection)
    .await?;
    for (endpoint, delivery, bytes, limit) in rows {
        found.entry(EndpointId::from_uuid(endpoint)).or_default().push(DueRow {
            id: DeliveryId::from_uuid(delivery),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            limit: limit.and_then(|limit| u32::try_from(limit).ok()),
        });
    }
    Ok(found)
}
