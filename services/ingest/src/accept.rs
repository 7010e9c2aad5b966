//! `POST /events`: the handler, and appending one event.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use platform::http::{BodyLimits, EVENT_BODY_BYTES, Problem, RecordKind, RequestContext};
use platform::kafka::producer::{Appended, Outgoing};
use schemas::codec;
use schemas::ids::OrgId;
use schemas::position::{Place, TOKEN_PURPOSE};
use schemas::records::{Dedup, DedupKind, Event};
use tenancy::{Caller, Right};
use tracing::{debug, error};

use crate::IngestState;
use crate::admit::{self, Admitted, Form};
use crate::metrics::METRICS;
use crate::repeats::{Known, Place as RepeatPlace};
use crate::reply::Accepted;

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

/// Takes the request whole: its headers are read where they are, and nothing is read of a body that will not be taken.
async fn try_accept(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.require(Right::Produce)?;
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let body = platform::http::read(&parts.headers, body, BodyLimits::new(EVENT_BODY_BYTES, &parts.extensions)).await?;
    let admitted = admit::admit(caller, &parts.headers, &form, &body, context.traceparent.clone())?;
    let Some(dedup) = admitted.event.dedup.clone() else {
        let accepted = append(state, context, caller, admitted).await?;
        return Ok(accepted.into_response(context.dialect));
    };
    accept_named(state, context, caller, admitted, &dedup).await
}

/// Accepts an event whose repeats can be recognized: answers what is known, else appends it and remembers.
async fn accept_named(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    admitted: Admitted,
    dedup: &Dedup,
) -> Result<Response, Problem> {
    match state.repeats.find(&admitted.event, dedup).await? {
        RepeatPlace::Taken(Known { accepted, body_hash }) => {
            if dedup.kind == DedupKind::IdempotencyKey && body_hash != dedup.body_hash {
                let detail = "this Idempotency-Key was used within the last 24 hours with another body, or other attributes of its event";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
            }
            METRICS.repeats.with_label_values(&[dedup.kind.as_str()]).inc();
            Ok(accepted.into_repeat(dedup.kind, context.dialect))
        }
        RepeatPlace::Free(reservation) => {
            // A client that leaves now drops the reservation, a failure gives it up: nothing stays in the way of a
            // retry.
            match append(state, context, caller, admitted).await {
                Ok(accepted) => {
                    reservation.fill(accepted.clone());
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

/// Appends the event and answers with its place, once the log has it.
async fn append(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    admitted: Admitted,
) -> Result<Accepted, Problem> {
    let Event { org_id, event_id, .. } = admitted.event;
    let value = codec::encode_event(&admitted.event).map_err(|error| {
        error!(request_id = %context.request_id, %error, "An admitted event could not be encoded.");
        Problem::internal()
    })?;
    let mut key = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let mut key_id = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let key = org_id.as_uuid().hyphenated().encode_lower(&mut key).as_bytes();
    let key_id = caller.key_id.as_uuid().hyphenated().encode_lower(&mut key_id).as_bytes();
    let record_headers = context.record_headers(key_id);
    let begun = Instant::now();
    let outgoing = Outgoing { topic: &state.topic, key: Some(key), value: Some(&value), headers: &record_headers };
    let outcome = state.producer.publish(outgoing).await;
    METRICS.append_seconds.observe(begun.elapsed().as_secs_f64());
    let appended = outcome.map_err(|error| context.publish_problem(EVENT, &error))?;
    METRICS.accepted.inc();
    debug!(request_id = %context.request_id, %event_id, partition = appended.partition, offset = appended.offset, "Accepted an event.");
    let position = position(state, org_id, &appended);
    Ok(Accepted { event_id, event_type: admitted.event.event_type, accepted_at_ms: appended.timestamp_ms, position })
}

/// The sealed place, which is also noted for read-your-writes. `None` when Kafka did not say: it knows a batch that it
/// was sent twice, but not where it is.
fn position(state: &IngestState, org_id: OrgId, appended: &Appended) -> Option<String> {
    if appended.offset < 0 {
        return None;
    }
    state.written.note(org_id.as_uuid(), appended.partition, appended.offset, Instant::now());
    // Epoch 0: ingest does not know in which log epoch it writes, only that it is the newest.
    let place = Place { log_epoch: 0, partition: appended.partition, offset: appended.offset };
    Some(state.sealing.seal_token(TOKEN_PURPOSE, org_id.as_uuid().as_bytes(), &place.to_bytes()))
}
