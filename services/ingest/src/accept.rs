//! `POST /events`: validates one event, appends it to the log, and responds.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{BodyLimits, EVENT_BODY_BYTES, Problem, RequestContext};
use kafka::producer::{Appended, ProducerRecord};
use schemas::codec;
use schemas::ids::OrgId;
use schemas::position::{LogPosition, TOKEN_PURPOSE};
use schemas::records::{Dedup, DedupKind, Event};
use tenancy::record::{RecordKind, publish_problem, record_headers};
use tenancy::{Caller, Right};
use tracing::{debug, error};

use crate::admit::{self, Admitted, Form};
use crate::dedup_cache::{CachedResponse, Reserved};
use crate::metrics::METRICS;
use crate::reply::Accepted;
use crate::state::IngestState;

pub(crate) async fn accept(
    State(state): State<IngestState>,
    context: RequestContext,
    caller: Caller,
    request: Request,
) -> Response {
    let outcome = try_accept(&state, &context, &caller, request).await;
    outcome.unwrap_or_else(|problem| {
        METRICS.refused.with_label_values(&[problem.error_code()]).inc();
        problem.into_response()
    })
}

const EVENT: RecordKind = RecordKind {
    noun: "event",
    after_refusal: "the event was not stored",
    in_doubt: "repeat the request with the same Idempotency-Key",
};

/// Takes the request itself rather than a parsed body, so that the body of a refused request is not read.
async fn try_accept(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.require(Right::Produce)?;
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let limits = BodyLimits::new(EVENT_BODY_BYTES, &parts.extensions);
    let body = http_server::read_body(&parts.headers, body, limits).await?;
    let admitted = admit::admit(caller, &parts.headers, &form, &body, context.traceparent.clone())?;
    let Some(dedup) = admitted.event.dedup.clone() else {
        let accepted = append(state, context, caller, admitted).await?;
        return Ok(accepted.into_response(context.dialect));
    };
    accept_with_dedup(state, context, caller, admitted, &dedup).await
}

/// Accepts an event with a dedup key: answers a duplicate from the cache or the view; else appends and caches.
async fn accept_with_dedup(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    admitted: Admitted,
    dedup: &Dedup,
) -> Result<Response, Problem> {
    match state.dedup_cache.find_or_reserve(&admitted.event, dedup).await? {
        Reserved::Duplicate(CachedResponse { accepted, body_hash }) => {
            if dedup.kind == DedupKind::IdempotencyKey && body_hash != dedup.body_hash {
                let detail = "this Idempotency-Key was used within the last 24 hours with another body, or other \
                              attributes of its event";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
            }
            METRICS.duplicates.with_label_values(&[dedup.kind.as_str()]).inc();
            Ok(accepted.into_duplicate(dedup.kind, context.dialect))
        }
        Reserved::Original(reservation) => {
            // If the client disconnects, the reservation is dropped; if the append fails, it is removed. Neither
            // blocks a retry.
            match append(state, context, caller, admitted).await {
                Ok(accepted) => {
                    reservation.complete(accepted.clone());
                    Ok(accepted.into_response(context.dialect))
                }
                Err(problem) => {
                    reservation.fail(problem.clone());
                    Err(problem)
                }
            }
        }
    }
}

/// Appends the event, waits for the delivery report, and returns the event's position.
async fn append(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    admitted: Admitted,
) -> Result<Accepted, Problem> {
    let Event { org_id, event_id, .. } = admitted.event;
    let value = codec::encode_event(&admitted.event).map_err(|error| {
        error!(request_id = %context.request_id, %error, "Event could not be encoded; answering 500");
        Problem::internal()
    })?;
    let mut key = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let mut key_id = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let key = org_id.as_uuid().hyphenated().encode_lower(&mut key).as_bytes();
    let key_id = caller.key_id.as_uuid().hyphenated().encode_lower(&mut key_id).as_bytes();
    let record_headers = record_headers(context, key_id);
    let started = Instant::now();
    let outgoing =
        ProducerRecord { topic: &state.topic, key: Some(key), value: Some(&value), headers: &record_headers };
    let outcome = state.producer.publish(outgoing).await;
    METRICS.append_seconds.observe(started.elapsed().as_secs_f64());
    let appended = outcome.map_err(|error| publish_problem(context, EVENT, &error))?;
    METRICS.accepted.inc();
    let (partition, offset) = (appended.partition, appended.offset);
    debug!(request_id = %context.request_id, %event_id, partition, offset, "Event accepted");
    let position = position(state, org_id, &appended);
    Ok(Accepted { event_id, event_type: admitted.event.event_type, accepted_at_ms: appended.timestamp_ms, position })
}

/// The position token; also stores the offset for read-your-writes. `None` when Kafka reported no offset: for a batch
/// that the producer resent, Kafka may confirm that it has it without an offset.
fn position(state: &IngestState, org_id: OrgId, appended: &Appended) -> Option<String> {
    if appended.offset < 0 {
        return None;
    }
    state.written.note(org_id.as_uuid(), appended.partition, appended.offset, Instant::now());
    // Epoch 0: ingest writes to the newest log epoch without knowing its number.
    let position = LogPosition { log_epoch: 0, partition: appended.partition, offset: appended.offset };
    Some(state.sealing.seal_stable_token(TOKEN_PURPOSE, org_id.as_uuid().as_bytes(), &position.to_bytes()))
}
