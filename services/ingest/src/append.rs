//! Accepts one event that passed all checks: recognizes duplicates and appends to the log. It is the same for the event
//! of a single request and for an item of a batch.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use http::StatusCode;
use http_server::{Problem, RequestContext};
use kafka::producer::{Appended, PublishError, Series, Submitted};
use runtime::seal::StableTokens;
use schemas::codec;
use schemas::ids::EventId;
use schemas::position::RecordPosition;
use schemas::records::{DedupKind, Event};
use tenancy::Caller;
use tenancy::record::{RecordKind, publish_problem, record_headers};
use tracing::{debug, error};
use uuid::fmt::Hyphenated;

use crate::admit::Admitted;
use crate::dedup_cache::{CachedResponse, Reserved};
use crate::hops::Hops;
use crate::metrics::{METRICS, Measured};
use crate::reply::{self, Accepted, Outcome};
use crate::state::IngestState;
use crate::turn::Turn;

type UuidText = [u8; Hyphenated::LENGTH];

/// Appends the events of one request.
pub(crate) struct Appender<'a> {
    state: &'a IngestState,
    context: &'a RequestContext,
    caller: &'a Caller,
    kind: RecordKind,
    /// The records, whose key is the organization.
    records: Series<'a, 'a>,
    /// The first event of the request that Kafka did not confirm in time.
    unconfirmed: OnceLock<Problem>,
    confirmed: Mutex<Confirmed>,
}

/// What is kept over the confirmed events of a request.
struct Confirmed {
    tokens: StableTokens,
    /// Added to the metrics with the last event.
    measured: Measured,
    /// Partition and highest offset of those that are not noted for read-your-writes yet.
    unnoted: Option<(i32, i64)>,
}

/// An event as the value of its record.
pub(crate) struct EncodedEvent {
    pub(crate) value: Vec<u8>,
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
}

impl EncodedEvent {
    pub(crate) fn of(admitted: Admitted, context: &RequestContext) -> Result<Self, Problem> {
        let value = codec::encode_event(&admitted.event).map_err(|error| {
            error!(request_id = %context.request_id, %error, "Event could not be encoded; answering 500");
            Problem::internal()
        })?;
        // The event itself is not kept until the report: it is as large as its record.
        let Event { event_id, event_type, .. } = admitted.event;
        Ok(Self { value, event_id, event_type })
    }
}

/// An event that was handed to the producer. Dropping it does not take it back.
pub(crate) struct SubmittedEvent<'a> {
    record: Submitted<'a>,
    event_id: EventId,
    event_type: String,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(
        state: &'a IngestState,
        context: &'a RequestContext,
        caller: &'a Caller,
        kind: RecordKind,
        hops: &Hops,
    ) -> Self {
        let text = |id: uuid::Uuid| -> UuidText {
            let mut text = [0; Hyphenated::LENGTH];
            id.hyphenated().encode_lower(&mut text);
            text
        };
        let (org_id, key_id) = (text(caller.org_id.as_uuid()), text(caller.key_id.as_uuid()));
        let mut headers = record_headers(context, &key_id);
        headers.extend(hops.record_header());
        let records = state.0.producer.series(&state.0.topic, Some(&org_id), &headers);
        let tokens = reply::position_tokens(&state.0.sealing, caller.org_id);
        let confirmed = Mutex::new(Confirmed { tokens, measured: Measured::default(), unnoted: None });
        Self { state, context, caller, kind, records, unconfirmed: OnceLock::new(), confirmed }
    }

    /// Answers a duplicate from the cache or the view; else appends the event when it is its turn.
    pub(crate) async fn accept(&self, admitted: Admitted, mut turn: Turn<'_>) -> Result<Outcome, Problem> {
        let Some(dedup) = admitted.event.dedup.clone() else {
            return self.append(admitted, turn).await.map(Outcome::Accepted);
        };
        match self.state.0.dedup_cache.find_or_reserve(&admitted.event, &dedup, &mut turn).await? {
            Reserved::Duplicate(CachedResponse { accepted, body_hash, is_type_known }) => {
                if dedup.kind == DedupKind::IdempotencyKey && body_hash != dedup.body_hash {
                    let detail = "this Idempotency-Key was used within the last 24 hours with another body, or other \
                                  attributes of its event";
                    return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
                }
                METRICS.duplicates.with_label_values(&[dedup.kind.as_str()]).inc();
                // The other kinds of keys are of equal events, which have one type.
                let is_hidden = dedup.kind == DedupKind::DedupId && !self.may_see(&accepted, is_type_known);
                Ok(if is_hidden { Outcome::HiddenDuplicate } else { Outcome::Duplicate(accepted, dedup.kind) })
            }
            Reserved::Original(reservation) => {
                // If the client disconnects, the reservation is dropped; if the append fails, it is removed. Neither
                // blocks a retry.
                match self.append(admitted, turn).await {
                    Ok(accepted) => {
                        reservation.complete(accepted.clone());
                        Ok(Outcome::Accepted(accepted))
                    }
                    Err(problem) => {
                        reservation.fail(problem.clone());
                        Err(problem)
                    }
                }
            }
        }
    }

    fn may_see(&self, original: &Accepted, is_type_known: bool) -> bool {
        self.caller.event_types.is_none() || is_type_known && self.caller.allows_event_type(&original.event_type)
    }

    /// The answer to an event of this request that may have been stored, if there is one.
    pub(crate) fn unconfirmed(&self) -> Option<&Problem> {
        self.unconfirmed.get()
    }

    /// Appends the event, waits for the delivery report, and returns the event's position.
    async fn append(&self, admitted: Admitted, turn: Turn<'_>) -> Result<Accepted, Problem> {
        let encoded = EncodedEvent::of(admitted, self.context)?;
        turn.wait().await;
        let submitted = self.submit(encoded);
        drop(turn);
        let accepted = self.confirmed(&mut submitted?).await;
        self.note_written();
        accepted
    }

    /// Hands an event without a dedup key to the producer. The caller has seen that it is its turn, and calls
    /// [`Self::note_written`] before it answers.
    pub(crate) fn append_next(&self, admitted: Admitted) -> Result<SubmittedEvent<'a>, Problem> {
        self.submit(EncodedEvent::of(admitted, self.context)?)
    }

    fn submit(&self, encoded: EncodedEvent) -> Result<SubmittedEvent<'a>, Problem> {
        let EncodedEvent { value, event_id, event_type } = encoded;
        let submitted = if self.unconfirmed.get().is_some() {
            // Waiting out the time for one part of a batch after the other would take too long.
            Err(PublishError::Failed("an earlier event of the request was not confirmed".to_owned()))
        } else {
            self.records.submit(Some(&value))
        };
        match submitted {
            Ok(record) => Ok(SubmittedEvent { record, event_id, event_type }),
            Err(error) => Err(self.problem_of(&error)),
        }
    }

    /// Waits for the delivery report. It may be dropped and called again until it returns.
    pub(crate) async fn confirmed(&self, event: &mut SubmittedEvent<'_>) -> Result<Accepted, Problem> {
        let reported = event.record.report().await;
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.measured.append_seconds.observe(event.record.submitted_at().elapsed().as_secs_f64());
        let appended = reported.map_err(|error| self.problem_of(&error))?;
        confirmed.measured.accepted.inc();
        let (event_id, event_type) = (event.event_id, std::mem::take(&mut event.event_type));
        let (partition, offset) = (appended.partition, appended.offset);
        debug!(request_id = %self.context.request_id, %event_id, partition, offset, "Event accepted");
        let position = self.position(&mut confirmed, &appended);
        Ok(Accepted { event_id, event_type, accepted_at_ms: appended.timestamp_ms, position })
    }

    /// The position token; also keeps the offset for read-your-writes. `None` when Kafka did not report offset and
    /// append time: for a batch that the producer resent, Kafka may confirm that it has it without an offset.
    fn position(&self, confirmed: &mut Confirmed, appended: &Appended) -> Option<String> {
        if appended.offset < 0 {
            return None;
        }
        match &mut confirmed.unnoted {
            Some((partition, offset)) if *partition == appended.partition => *offset = appended.offset.max(*offset),
            // Partitions were added during the request.
            Some(other) => self.note(std::mem::replace(other, (appended.partition, appended.offset))),
            none => *none = Some((appended.partition, appended.offset)),
        }
        let appended_at_ms = appended.timestamp_ms?;
        let position = RecordPosition { partition: appended.partition, offset: appended.offset, appended_at_ms };
        Some(confirmed.tokens.seal(&position.to_bytes()))
    }

    /// Notes the confirmed events, so that a client that got the answer finds them in the inbox of this instance.
    pub(crate) fn note_written(&self) {
        let unnoted = {
            let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            confirmed.measured.add_to_metrics();
            confirmed.unnoted.take()
        };
        if let Some(last) = unnoted {
            self.note(last);
        }
    }

    fn note(&self, (partition, offset): (i32, i64)) {
        self.state.0.written.note(self.caller.org_id.as_uuid(), partition, offset, Instant::now());
    }

    fn problem_of(&self, error: &PublishError) -> Problem {
        let problem = publish_problem(self.context, self.kind, error);
        if matches!(error, PublishError::Unknown(_)) {
            // A later one changes nothing.
            self.unconfirmed.set(problem.clone()).ok();
        }
        problem
    }
}
