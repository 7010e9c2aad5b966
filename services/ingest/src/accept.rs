//! `POST /events`: one event, or a batch of CloudEvents.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http_server::{BodyLimits, EVENT_BODY_BYTES, Problem, RequestContext};
use tenancy::record::RecordKind;
use tenancy::{Caller, Right};

use crate::admit::{self, Form};
use crate::append::Appender;
use crate::batch::{self, BatchForm};
use crate::metrics::METRICS;
use crate::state::IngestState;
use crate::turn::Turn;

pub(crate) async fn accept(
    State(state): State<IngestState>,
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
    let form = match Form::of(&parts.headers)? {
        Form::Batch => return batch::accept_as(BatchForm::CloudEvents, state, context, caller, parts, body).await,
        form => form,
    };
    let limits = BodyLimits::new(EVENT_BODY_BYTES, &parts.extensions);
    let body = http_server::read_body(&parts.headers, body, limits).await?;
    let admitted = admit::admit(caller, &parts.headers, &form, &body, context.traceparent.clone())?;
    let outcome = Appender::new(state, context, caller, EVENT).accept(admitted, Turn::only()).await?;
    Ok(outcome.into_response(context.dialect))
}
