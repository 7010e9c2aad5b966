//! What the accept routes do apart from Kafka, PostgreSQL and sockets, for `loadtests/micro`. A request costs more: its
//! head is parsed and its key looked up before, and its records are handed to the producer in between.

use axum::response::Response;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Uri, header};
use http_server::{Problem, RequestContext};
use runtime::seal::{SealingKey, StableTokens};
use schemas::batch as batch_json;
use schemas::ids::OrgId;
use schemas::position::RecordPosition;
use tenancy::record::record_headers;
use tenancy::{Caller, Right};
use uuid::fmt::Hyphenated;

use crate::admit::{self, Form};
use crate::append::EncodedEvent;
use crate::batch::results::Results;
use crate::hops::Hops;
use crate::reply::{self, Accepted, Outcome};

/// Append time of all records, milliseconds since the Unix epoch.
const APPENDED_AT_MS: i64 = 1_795_000_000_123;

/// Handles requests of one key. Each record gets the next offset of partition 0.
pub struct Handler {
    caller: Caller,
    headers: HeaderMap,
    uri: Uri,
    sealing: SealingKey,
    next_offset: i64,
}

impl Handler {
    /// A key of a new organization, without limits.
    pub fn new() -> Self {
        let headers = HeaderMap::from_iter([
            (header::HOST, HeaderValue::from_static("127.0.0.1:8080")),
            (header::AUTHORIZATION, HeaderValue::from_static("Bearer trg_0123456789abcdef0123456789abcdef")),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let caller = Caller::unlimited(OrgId::generate());
        let (uri, sealing) = (Uri::from_static("/v1/events"), SealingKey::from_bytes([7; 32]));
        Self { caller, headers, uri, sealing, next_offset: 0 }
    }

    /// `POST /v1/events` with this body. `submit` gets the value of the record. A dedup key is computed, but no
    /// duplicate looked up.
    ///
    /// # Errors
    /// The answer to a request that is refused.
    pub fn event(&mut self, body: &[u8], submit: impl FnOnce(&[u8])) -> Result<Response, Problem> {
        let (context, mut tokens) = self.start()?;
        let form = Form::of(&self.headers)?;
        let admitted = admit::admit(&self.caller, &self.headers, &form, body, context.traceparent.clone())?;
        let EncodedEvent { value, event_id, event_type } = EncodedEvent::of(admitted, &context)?;
        submit(&value);
        drop(value);
        let position = Some(self.append(&mut tokens));
        let accepted = Accepted { event_id, event_type, accepted_at_ms: Some(APPENDED_AT_MS), position };
        Ok(Outcome::Accepted(accepted).into_response(context.dialect))
    }

    /// `POST /v1/events/batch` with this body. `submit` gets the value of each record.
    ///
    /// # Errors
    /// The answer to a request that is refused as a whole.
    pub fn batch(&mut self, body: &[u8], mut submit: impl FnMut(&[u8])) -> Result<Response, Problem> {
        let (context, mut tokens) = self.start()?;
        let items = batch_json::events(body).map_err(|invalid| admit::problem_of(invalid, "invalid_request"))?;
        // Without limits it does not wait.
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        self.caller.count_events(0, count).now_or_never().unwrap_or(Ok(()))?;
        let (mut results, mut submitted) = (Results::new(context.dialect), Vec::with_capacity(items.len()));
        results.make_room_for(items.len());
        for item in items {
            let (index, text) = (results.reserve(), item.text().as_bytes());
            let admitted = admit::admit_item(&self.caller, text, item.parse(), context.traceparent.clone())?;
            let EncodedEvent { value, event_id, event_type } = EncodedEvent::of(admitted, &context)?;
            submit(&value);
            submitted.push((index, event_id, event_type));
        }
        for (index, event_id, event_type) in submitted {
            let position = Some(self.append(&mut tokens));
            let accepted = Accepted { event_id, event_type, accepted_at_ms: Some(APPENDED_AT_MS), position };
            results.set(index, Outcome::Accepted(accepted));
        }
        results.into_response(None)
    }

    /// What is made once for a request.
    fn start(&self) -> Result<(RequestContext, StableTokens), Problem> {
        let context = RequestContext::new(&self.headers, &self.uri);
        self.caller.require(Right::Produce)?;
        let hops = Hops::of(&self.headers)?;
        let mut key_id = [0; Hyphenated::LENGTH];
        self.caller.key_id.as_uuid().hyphenated().encode_lower(&mut key_id);
        let mut headers = record_headers(&context, &key_id);
        headers.extend(hops.record_header());
        std::hint::black_box(headers);
        Ok((context, reply::position_tokens(&self.sealing, self.caller.org_id)))
    }

    fn append(&mut self, tokens: &mut StableTokens) -> String {
        let offset = self.next_offset;
        self.next_offset += 1;
        tokens.seal(&RecordPosition { partition: 0, offset, appended_at_ms: APPENDED_AT_MS }.to_bytes())
    }
}

impl Default for Handler {
    fn default() -> Self {
        Self::new()
    }
}
