//! `POST /events`: one event, or a batch of CloudEvents.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http_server::{BodyLimits, EVENT_BODY_BYTES, Problem, RequestContext};
use tenancy::record::RecordKind;
use tenancy::{Caller, Right};

use crate::admit::{self, Form};
use crate::append::Appender;
use crate::batch::{self, BatchBody, BatchForm};
use crate::bodies::{CloudEventBody, EventOrBatch, NewEventBody};
use crate::hops::Hops;
use crate::metrics::METRICS;
use crate::reply::AcceptedBody;
use crate::state::{IngestState, NotOverloaded};
use crate::turn::Turn;

/// Send an event
///
/// A success code means that the event is on the log and will not be lost. A `dedup_id` that was accepted within 24
/// hours is a 409 that names the original. An `Idempotency-Key` that was, with the same body, is answered like the
/// original. CloudEvents 1.0 are accepted in binary mode (`ce-*` headers), structured mode and as a batch.
#[utoipa::path(
    post, path = "/events", operation_id = "send_event", tag = "Producing",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        description = "Makes a repeated request the same event. Not for a batch.",
        example = "0192f0c1-2345-7abc-8def-0123456789ab"),
        ("triggers-hops" = Option<u8>, Header, minimum = 0, maximum = 255,
        description = "Set by webhooks: through how many of them the event came. Above 3 it is refused.",
        example = 1)),
    request_body(content(
        (NewEventBody = "application/json"),
        (CloudEventBody = "application/cloudevents+json"),
        (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 201, description = "The event is on the log.", body = AcceptedBody,
            headers(
                ("Location" = String, description = "Path of the event."),
                ("Idempotency-Replayed" = String, description = "`true` if the key was sent before; else absent."),
            )),
        (status = 200, body = EventOrBatch,
            description = "An event with the same content was accepted before (for keys with `content_dedup`), or a \
                           batch was accepted."),
        (status = 207, description = "Not all events of a batch were accepted.", body = BatchBody),
    ),
    security(("key" = ["produce"])),
    extensions(("x-error-codes" = json!([
        "invalid_event", "duplicate_event", "idempotency_key_reused", "batch_too_large", "loop_detected",
    ]))),
)]
pub(crate) async fn accept(
    State(state): State<IngestState>,
    _: NotOverloaded,
    context: RequestContext,
    caller: Caller,
    request: Request,
) -> Response {
    answer(try_accept(&state, &context, &caller, request).await)
}

/// The response of an accept route; counts refused requests.
pub(crate) fn answer(outcome: Result<Response, Problem>) -> Response {
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
    let hops = Hops::of(&parts.headers)?;
    let form = match Form::of(&parts.headers)? {
        Form::Batch => {
            return batch::accept_as(BatchForm::CloudEvents, hops, state, context, caller, parts, body).await;
        }
        form => form,
    };
    let limits = BodyLimits::new(EVENT_BODY_BYTES, &parts.extensions);
    let body = http_server::read_body(&parts.headers, body, limits).await?;
    let admitted = admit::admit(caller, &parts.headers, &form, &body, context.traceparent.clone())?;
    let outcome = Appender::new(state, context, caller, EVENT, &hops).accept(admitted, Turn::only()).await?;
    Ok(outcome.into_response(context.dialect))
}
