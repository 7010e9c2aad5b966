//! `POST /v1/events`: one event.

use http::HeaderValue;
use serde::Deserialize;

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::problem::Problem;
use crate::transport::{Answer, Call, Outcome};

/// The code of the answer to an event whose `dedup_id` was accepted before.
pub(crate) const DUPLICATE_EVENT: &str = "duplicate_event";

/// An event that is on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The id of the event; of a duplicate, that of the original.
    pub event_id: String,
    /// The place on the log, for [`InboxRequest::min_position`](crate::InboxRequest::min_position). `None`: it is not
    /// known.
    pub position: Option<String>,
    /// When the log got the event, in RFC 3339. `None`: the answer does not say.
    pub accepted_at: Option<String>,
    /// The event was stored before the attempt that was answered: by an earlier call, or by an earlier attempt of this
    /// one, whose answer was lost. The latter is possible only if `attempts` is greater than 1.
    pub duplicate: bool,
    /// Number of attempts.
    pub attempts: u32,
}

#[derive(Deserialize)]
struct AcceptedBody {
    event_id: String,
    position: Option<String>,
    timestamp: Option<String>,
    #[serde(default)]
    duplicate: bool,
}

impl Client {
    /// Sends an event, and sends it again after a failure that a retry can help with, until the
    /// [budget](crate::ClientBuilder::retry_budget) is used up. All attempts have one random `Idempotency-Key`, so the
    /// event is stored once. An event with a [`dedup_id`](Event::dedup_id) is sent without that key: the `dedup_id`
    /// does the same, for later calls too.
    ///
    /// A duplicate is no error: it is [`Accepted`] with the id of the original.
    ///
    /// An API key that compares the contents of events (`content_dedup`) does so only for events without either. This
    /// call never sends such an event.
    ///
    /// # Errors
    /// If it [is retryable](Error::is_retryable), the event may have been stored, unless it was refused with 429.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
    /// let event = triggers_client::Event::new("order.created", &serde_json::json!({"id": 7}))?;
    /// let accepted = client.send(&event.dedup_id("order-7")).await?;
    /// println!("{} {}", accepted.event_id, if accepted.duplicate { "was there" } else { "is new" });
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, event: &Event) -> Result<Accepted, Error> {
        let call = Call::post("/v1/events", event.to_json());
        let call = if event.has_dedup_id() { call } else { with_key(call, &random_name())? };
        accepted(self.transport.call(&call).await)
    }

    /// Like [`send`](Self::send), with an `Idempotency-Key` of your own, of 1 to 255 characters. A later call with this
    /// key within 24 hours is answered like the first one, as long as the event is the same. A `dedup_id` of the event
    /// is only shown, and does not find duplicates.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client, event: triggers_client::Event) {
    /// // The key is in the database with the order, so that a restarted process sends the event with it.
    /// let sent = client.send_with_key(&event, "b7a3c1e0").await;
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `send`; with the code `idempotency_key_reused` if another event was sent with this key.
    pub async fn send_with_key(&self, event: &Event, idempotency_key: &str) -> Result<Accepted, Error> {
        let call = with_key(Call::post("/v1/events", event.to_json()), idempotency_key)?;
        accepted(self.transport.call(&call).await)
    }
}

/// A name that nobody else takes.
pub(crate) fn random_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn with_key(call: Call, idempotency_key: &str) -> Result<Call, Error> {
    let value = HeaderValue::from_bytes(idempotency_key.as_bytes());
    let value = value.map_err(|_| Error::Invalid("the Idempotency-Key has a control character".to_owned()))?;
    Ok(call.header("idempotency-key", value))
}

fn accepted(outcome: Outcome) -> Result<Accepted, Error> {
    match outcome.result {
        Ok(answer) => read(&answer, outcome.attempts),
        Err(Error::Problem(problem)) => duplicate(&problem, outcome.attempts).ok_or_else(|| Error::Problem(problem)),
        Err(error) => Err(error),
    }
}

fn read(answer: &Answer, attempts: u32) -> Result<Accepted, Error> {
    let body: AcceptedBody = answer.json()?;
    let duplicate = body.duplicate || answer.header("idempotency-replayed") == Some("true");
    let AcceptedBody { event_id, position, timestamp: accepted_at, .. } = body;
    Ok(Accepted { event_id, position, accepted_at, duplicate, attempts })
}

/// The original, if the answer says that the event is a duplicate.
pub(crate) fn duplicate(problem: &Problem, attempts: u32) -> Option<Accepted> {
    let event_id = problem.event_id.clone().filter(|_| problem.code.as_deref() == Some(DUPLICATE_EVENT))?;
    Some(Accepted { event_id, position: None, accepted_at: None, duplicate: true, attempts })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(headers: HeaderMap, body: &str) -> Answer {
        Answer { status: StatusCode::CREATED, headers, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_duplicate_is_accepted_with_the_id_of_the_original() {
        let problem = Problem {
            code: Some(DUPLICATE_EVENT.to_owned()),
            event_id: Some("e-1".to_owned()),
            ..Problem::of_status(409)
        };
        let outcome = |problem: Problem| Outcome { attempts: 2, result: Err(Error::Problem(Box::new(problem))) };
        let found = accepted(outcome(problem.clone())).unwrap();
        assert_eq!((found.event_id.as_str(), found.duplicate, found.attempts), ("e-1", true, 2));
        let other = Problem { code: Some("conflict".to_owned()), ..problem };
        assert!(accepted(outcome(other)).is_err(), "another conflict is an error");
    }

    #[test]
    fn a_replayed_answer_is_a_duplicate() {
        let body = r#"{"event_id": "e-1", "position": "p", "timestamp": "2026-11-21T09:00:00.000Z", "new": 1}"#;
        let new = read(&answer(HeaderMap::new(), body), 1).unwrap();
        assert_eq!((new.duplicate, new.position.as_deref()), (false, Some("p")));
        let replayed =
            HeaderMap::from_iter([(http::HeaderName::from_static("idempotency-replayed"), "true".parse().unwrap())]);
        assert!(read(&answer(replayed, body), 1).unwrap().duplicate);
        let same_content = r#"{"event_id": "e-1", "position": null, "timestamp": null, "duplicate": true}"#;
        assert!(read(&answer(HeaderMap::new(), same_content), 1).unwrap().duplicate);
        assert!(matches!(read(&answer(HeaderMap::new(), "{}"), 1), Err(Error::Answer { status: 201, .. })));
    }

    #[test]
    fn names_are_random() {
        assert_eq!(random_name().len(), 32);
        assert_ne!(random_name(), random_name());
    }
}
