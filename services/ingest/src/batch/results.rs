//! The answer to a batch: a result per item, in order.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_server::{Dialect, FieldError, Problem};
use schemas::ids::EventId;
use schemas::records::DedupKind;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::reply::{ACCEPTED, Outcome, SAME_CONTENT, accepted_status, duplicate_problem};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// About what the result of an accepted event takes.
const ACCEPTED_RESULT_BYTES: usize = 192;

pub(crate) struct Results {
    dialect: Dialect,
    items: Vec<ItemResult>,
    accepted: usize,
    duplicates: usize,
    /// Items that were answered 503, and the first of these answers.
    unavailable: usize,
    first_unavailable: Option<Problem>,
}

/// What a single request with this event would have been answered.
#[derive(Serialize, ToSchema)]
struct ItemResult {
    /// Place of the event in the batch, from 0.
    index: usize,
    /// As for a single event: 201 accepted, 409 duplicate, and so on.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    position: Option<String>,
    /// True if an event with the same content was accepted before; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error_code: Option<&'static str>,
    #[schema(value_type = String)]
    message: Cow<'static, str>,
    /// Where fields are to blame: which, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    details: Vec<FieldError>,
}

/// A result for each event of a batch, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResult, example = json!({
    "results": [
        {"index": 0, "status": 201, "event_id": "0192f0c1-2345-7abc-8def-0123456789ab", "position": "q83vEjRWeJA",
            "message": "event accepted"},
        {"index": 1, "status": 400, "error_code": "invalid_event", "message": "event_type is required",
            "details": [{"field": "event_type", "reason": "is required"}]}
    ],
    "accepted": 1,
    "duplicates": 0,
    "rejected": 1
}))]
pub(crate) struct BatchBody<'a> {
    results: &'a [ItemResult],
    accepted: usize,
    duplicates: usize,
    rejected: usize,
}

impl Results {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, items: Vec::new(), accepted: 0, duplicates: 0, unavailable: 0, first_unavailable: None }
    }

    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    /// That many items follow.
    pub(crate) fn make_room_for(&mut self, items: usize) {
        self.items.reserve(items);
    }

    /// The index of the next item, whose result is set later.
    pub(crate) fn reserve(&mut self) -> usize {
        let index = self.items.len();
        self.items.push(ItemResult::new(index));
        index
    }

    /// Sets the result of an item whose event is on the log.
    pub(crate) fn set(&mut self, index: usize, outcome: Outcome) {
        let result = match outcome {
            Outcome::Accepted(accepted) => {
                self.accepted += 1;
                let (event_id, status) = (Some(accepted.event_id), accepted_status(self.dialect).as_u16());
                let message = Cow::Borrowed(ACCEPTED);
                ItemResult { status, event_id, position: accepted.position, message, ..ItemResult::new(index) }
            }
            Outcome::Duplicate(original, DedupKind::DedupId) => {
                self.duplicates += 1;
                let problem = duplicate_problem(Some(original.event_id));
                let result = ItemResult::of_problem(index, &problem, self.dialect);
                ItemResult { event_id: Some(original.event_id), ..result }
            }
            Outcome::HiddenDuplicate => {
                self.duplicates += 1;
                ItemResult::of_problem(index, &duplicate_problem(None), self.dialect)
            }
            // An item has no Idempotency-Key: what is left is equal content.
            Outcome::Duplicate(original, DedupKind::Content | DedupKind::IdempotencyKey) => {
                self.duplicates += 1;
                let (status, event_id) = (StatusCode::OK.as_u16(), Some(original.event_id));
                let (position, message) = (original.position, Cow::Borrowed(SAME_CONTENT));
                ItemResult { status, event_id, position, duplicate: true, message, ..ItemResult::new(index) }
            }
        };
        self.put(result);
    }

    /// Sets the result of an item that was not accepted.
    pub(super) fn refuse(&mut self, index: usize, problem: &Problem) {
        if problem.status(self.dialect) == StatusCode::SERVICE_UNAVAILABLE {
            self.unavailable += 1;
            self.first_unavailable.get_or_insert_with(|| problem.clone());
        }
        self.put(ItemResult::of_problem(index, problem, self.dialect));
    }

    fn put(&mut self, result: ItemResult) {
        if let Some(place) = self.items.get_mut(result.index) {
            *place = result;
        }
    }

    fn rejected(&self) -> usize {
        self.items.len() - self.accepted - self.duplicates
    }

    /// The answer to the whole batch: 200, 207, or 503 when all items were answered so. `unconfirmed`: the answer to an
    /// item that may have been stored.
    pub(crate) fn into_response(self, unconfirmed: Option<&Problem>) -> Result<Response, Problem> {
        if self.unavailable == self.items.len()
            && let Some(problem) = unconfirmed.or(self.first_unavailable.as_ref()).cloned()
        {
            return Err(self.added_to(problem));
        }
        let status = if self.accepted == self.items.len() { StatusCode::OK } else { StatusCode::MULTI_STATUS };
        let (accepted, duplicates, rejected) = (self.accepted, self.duplicates, self.rejected());
        let mut body = Vec::with_capacity(ACCEPTED_RESULT_BYTES * (self.items.len() + 1));
        let results = BatchBody { results: &self.items, accepted, duplicates, rejected };
        serde_json::to_writer(&mut body, &results).map_err(|error| {
            error!(%error, "Results of a batch could not be written; answering 500");
            Problem::internal()
        })?;
        Ok((status, [(header::CONTENT_TYPE, JSON)], body).into_response())
    }

    /// The answer to a batch that was not read to its end. Says how many events were accepted before.
    pub(super) fn into_problem(self, problem: Problem) -> Problem {
        if self.items.is_empty() {
            return problem;
        }
        let detail = format!(
            "{}; {} of the {} events before were accepted, see results",
            problem.detail(),
            self.accepted,
            self.items.len()
        );
        self.added_to(problem.with_detail(detail))
    }

    fn added_to(self, problem: Problem) -> Problem {
        problem
            .with_field("accepted", self.accepted)
            .with_field("duplicates", self.duplicates)
            .with_field("rejected", self.rejected())
            .with_field("results", &self.items)
    }
}

impl ItemResult {
    fn new(index: usize) -> Self {
        Self {
            index,
            status: 0,
            event_id: None,
            position: None,
            duplicate: false,
            error_code: None,
            message: Cow::Borrowed(""),
            details: Vec::new(),
        }
    }

    fn of_problem(index: usize, problem: &Problem, dialect: Dialect) -> Self {
        Self {
            status: problem.status(dialect).as_u16(),
            error_code: Some(problem.error_code()),
            message: Cow::Owned(problem.detail().to_owned()),
            details: problem.details().to_vec(),
            ..Self::new(index)
        }
    }
}
