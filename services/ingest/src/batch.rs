//! `POST /events/batch`: many events in one request, each with a result of its own.
//!
//! The framing of the body is here. [`items`] appends the events together, and [`results`] has the answer.

mod items;
pub(crate) mod results;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use http_server::{BATCH_BODY_BYTES, BodyLimits, BodyStream, EVENT_BODY_BYTES, FieldError, Problem, RequestContext};
use schemas::batch::{self, Line, Lines};
use schemas::event_json::{self, Invalid, MAX_BATCH_EVENTS, MAX_BODY_BYTES};
use tenancy::record::RecordKind;
use tenancy::{Caller, Right};

use crate::accept;
use crate::admit::{self, CLOUDEVENTS_BATCH};
use crate::append::Appender;
use crate::bodies::{CloudEventBody, NewBatchBody};
use crate::hops::Hops;
use crate::state::{IngestState, NotOverloaded};
use crate::turn::Turns;
use items::Items;
pub(crate) use results::BatchBody;

const ITEM: RecordKind = RecordKind {
    noun: "event",
    after_refusal: "the event was not stored",
    in_doubt: "send it again with its dedup_id; without one it may be stored twice",
};

/// How the body of a batch may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchForm {
    /// `{"events": [...]}`.
    Json,
    /// One event a line.
    Lines,
    /// An array of CloudEvents.
    CloudEvents,
}

impl BatchForm {
    /// # Errors
    /// 415 for an unsupported content type.
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = || {
            Problem::unsupported_media_type(
                "send application/json, application/x-ndjson or application/cloudevents-batch+json",
            )
        };
        let content_type = admit::content_type(headers).map_err(|()| unsupported())?;
        let Some(given) = content_type.map(admit::media_type) else { return Ok(Self::Json) };
        [
            ("application/json", Self::Json),
            ("application/x-ndjson", Self::Lines),
            (CLOUDEVENTS_BATCH, Self::CloudEvents),
        ]
        .into_iter()
        .find_map(|(name, form)| given.eq_ignore_ascii_case(name).then_some(form))
        .ok_or_else(unsupported)
    }
}

/// Send many events
///
/// Up to 1,000 events and 4 MiB. Events are independent: each has its own result, and those that were accepted are on
/// the log even if the next one failed. Also one event a line, as `application/x-ndjson`, or CloudEvents.
#[utoipa::path(
    post, path = "/events/batch", operation_id = "send_batch", tag = "Producing",
    params(("triggers-hops" = Option<u8>, Header, minimum = 0, maximum = 255,
        description = "Set by webhooks: through how many of them each event came. Above 3 they are refused.",
        example = 1)),
    request_body(content(
        (NewBatchBody = "application/json"),
        (String = "application/x-ndjson"),
        (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "All events are on the log.", body = BatchBody, example = json!({
            "results": [{"index": 0, "status": 201, "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
                "position": "q83vEjRWeJA", "message": "event accepted"}],
            "accepted": 1, "duplicates": 0, "rejected": 0,
        })),
        (status = 207, description = "Not all events were accepted.", body = BatchBody),
    ),
    security(("key" = ["produce"])),
    extensions(("x-error-codes" = json!(["batch_too_large", "loop_detected"]))),
)]
pub(crate) async fn accept(
    State(state): State<IngestState>,
    _: NotOverloaded,
    context: RequestContext,
    caller: Caller,
    request: Request,
) -> Response {
    accept::answer(try_accept(&state, &context, &caller, request).await)
}

async fn try_accept(
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.require(Right::Produce)?;
    let (parts, body) = request.into_parts();
    let hops = Hops::of(&parts.headers)?;
    let form = BatchForm::of(&parts.headers)?;
    accept_as(form, hops, state, context, caller, parts, body).await
}

/// Accepts a batch of this form. The caller has the right to produce.
pub(crate) async fn accept_as(
    form: BatchForm,
    hops: Hops,
    state: &IngestState,
    context: &RequestContext,
    caller: &Caller,
    parts: Parts,
    body: Body,
) -> Result<Response, Problem> {
    if admit::has_idempotency_key(&parts.headers) {
        let reason = "is for a single event; give each event of a batch its dedup_id";
        let details = vec![FieldError { field: "Idempotency-Key".to_owned(), reason: reason.to_owned() }];
        return Err(Problem::invalid("invalid_request", format!("Idempotency-Key {reason}")).with_details(details));
    }
    let appender = Appender::new(state, context, caller, ITEM, &hops);
    let turns = Turns::default();
    let mut items = Items::new(&appender, &turns, caller, context);
    let limits = BodyLimits::new(BATCH_BODY_BYTES, &parts.extensions);
    let end = if form == BatchForm::Lines {
        let stream = BodyStream::new(&parts.headers, body, &limits)?;
        read_lines(&mut items, caller, stream).await
    } else {
        let body = http_server::read_body(&parts.headers, body, limits).await?;
        read_array(&mut items, caller, form, &body).await
    };
    let results = items.finish().await;
    match end {
        Ok(()) => results.into_response(appender.unconfirmed()),
        Err(problem) => Err(results.into_problem(problem)),
    }
}

/// Appends the items of a body that has arrived.
async fn read_array(items: &mut Items<'_>, caller: &Caller, form: BatchForm, body: &[u8]) -> Result<(), Problem> {
    let framed = if form == BatchForm::CloudEvents { batch::array(body) } else { batch::events(body) };
    let framed = framed.map_err(|invalid| admit::problem_of(invalid, "invalid_request"))?;
    count(caller, 0, framed.len()).await?;
    items.make_room_for(framed.len());
    for item in framed {
        let text = item.text();
        if text.len() > EVENT_BODY_BYTES { items.too_large() } else { items.add(text.as_bytes(), item.parse()).await }
    }
    Ok(())
}

/// Appends each line when it has arrived.
async fn read_lines(items: &mut Items<'_>, caller: &Caller, mut stream: BodyStream) -> Result<(), Problem> {
    let mut lines = Lines::new(MAX_BODY_BYTES);
    while let Some(piece) = items.until(stream.next()).await? {
        let mut rest = &*piece;
        // One more than is allowed is enough to refuse the rest.
        let most = MAX_BATCH_EVENTS + 1 - items.count();
        let arrived: Vec<Line<'_>> = std::iter::from_fn(|| lines.next(&mut rest)).take(most).collect();
        add_lines(items, caller, arrived).await?;
        stream.count_kept(lines.held_bytes())?;
    }
    add_lines(items, caller, lines.finish().into_iter().collect()).await?;
    check_count(items.count())
}

async fn add_lines(items: &mut Items<'_>, caller: &Caller, mut lines: Vec<Line<'_>>) -> Result<(), Problem> {
    let total = items.count() + lines.len();
    // The events up to the largest number are accepted: those before were accepted when this one arrived.
    lines.truncate(MAX_BATCH_EVENTS - items.count());
    count(caller, items.count(), lines.len()).await?;
    items.make_room_for(lines.len());
    for line in lines {
        match line {
            Line::Text(text) => items.add(&text, event_json::parse(&text)).await,
            Line::TooLong => items.too_large(),
        }
    }
    if total > MAX_BATCH_EVENTS { check_count(total) } else { Ok(()) }
}

fn check_count(events: usize) -> Result<(), Problem> {
    let wrong = batch::wrong_count(events).map(|error| Invalid::Fields(vec![error]));
    wrong.map_or(Ok(()), |invalid| Err(admit::problem_of(invalid, "invalid_request")))
}

/// Counts events of a batch for the rate limits, before they are accepted. `before`: events that were counted already.
async fn count(caller: &Caller, before: usize, events: usize) -> Result<(), Problem> {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    caller.count_events(number(before), number(events)).await
}
