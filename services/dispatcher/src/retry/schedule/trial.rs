//! Schedules the test of an endpoint: one attempt with an event that is on no log.

use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use crate::delivery::{Delivery, OutboundEvent, TEST_PARTITION};
use crate::retry::schedule::spill::{self, NewRow, WaitsFor};
use crate::retry::schedule::{OpenLimits, usage};

/// Type of the event that tests an endpoint.
pub(crate) const TEST_EVENT_TYPE: &str = "triggers.test";
const TEST_PAYLOAD: &str = r#"{"message":"This is a test of your webhook endpoint. It is no event of your inbox."}"#;

/// Schedules a test that is due at once. The endpoint's event types and filter do not count.
///
/// The inner error is the reason why the organization may not have another open delivery.
pub(crate) async fn schedule_test(
    connection: &mut PgConnection,
    org_id: OrgId,
    endpoint: EndpointId,
    limits: OpenLimits,
) -> Result<Result<DeliveryId, &'static str>, sqlx::Error> {
    if let Some(reason) = usage::beyond(connection, org_id, 1, limits).await? {
        return Ok(Err(reason));
    }
    let (offset, accepted_at): (i64, OffsetDateTime) =
        sqlx::query_as("SELECT nextval('endpoint_test_numbers'), now()").fetch_one(&mut *connection).await?;
    let event = OutboundEvent {
        org_id,
        event_id: EventId::generate(),
        event_type: TEST_EVENT_TYPE.to_owned(),
        accepted_at,
        payload: TEST_PAYLOAD.to_owned(),
        payload_encoding: None,
        traceparent: None,
        hops: 0,
        endpoints_matched: None,
        counts_successes: false,
        log_epoch: 0,
        partition: TEST_PARTITION,
        offset,
    };
    let delivery = Delivery::new(endpoint, Arc::new(event));
    let id = delivery.id;
    let waits_for = WaitsFor::Attempt { attempts: 0, due_after: Duration::ZERO, lease: None, batch_limit: None };
    spill::insert(connection, &[NewRow { delivery, waits_for }], limits).await?;
    Ok(Ok(id))
}
