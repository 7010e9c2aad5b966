//! `POST /v1/events/batch`: many events in few requests.

use serde::Deserialize;

use crate::batch_body;
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::problem::{FieldError, Problem};
use crate::send::{Accepted, duplicate, random_name};
use crate::transport::{Answer, Attempts, Call};

/// The outcome of an event of a batch.
type ItemResult = Result<Accepted, Error>;

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchItem>,
}

/// What a request with this event alone would have been answered.
#[derive(Deserialize)]
struct BatchItem {
    status: u16,
    event_id: Option<String>,
    position: Option<String>,
    #[serde(default)]
    duplicate: bool,
    error_code: Option<String>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<FieldError>,
}

impl Client {
    /// Sends events in requests of at most 1,000 events and 4 MiB, one request after the other. Returns one result per
    /// event, in order. An event that is refused does not hold up the others.
    ///
    /// Events that failed in a way that a retry can help with are sent again, without the others. An event without a
    /// [`dedup_id`](Event::dedup_id) gets a random one first, so that a retry stores it once; it is shown with the
    /// event. With a [budget](crate::ClientBuilder::retry_budget) of zero there are no retries, and events are sent as
    /// they are.
    ///
    /// The server refuses a request with more events than the rate limit allows in a minute, with 413. Send fewer
    /// events at a time then.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
    /// use triggers_client::Event;
    ///
    /// let events = (1..=5_000).map(|id| Event::new("order.created", &id)).collect::<Result<Vec<_>, _>>()?;
    /// for (index, result) in client.send_batch(events).await.into_iter().enumerate() {
    ///     if let Err(error) = result {
    ///         eprintln!("event {index}: {error}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_batch(&self, events: impl IntoIterator<Item = Event>) -> Vec<Result<Accepted, Error>> {
        let retries = self.transport.retry.retries();
        let text = |event: Event| if retries { event.or_dedup_id(random_name).to_json() } else { event.to_json() };
        let mut texts = events.into_iter().map(text).peekable();
        let mut results = Vec::new();
        while texts.peek().is_some() {
            results.extend(self.send_texts(&batch_body::take(&mut texts)).await);
        }
        results
    }

    /// Sends events that fit into one request. Sends those again that failed, as long as that can help.
    async fn send_texts(&self, texts: &[Vec<u8>]) -> Vec<ItemResult> {
        let mut attempts = Attempts::start(self.transport.retry);
        let mut results = self.send_once(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1).await;
        while let Some(error) = results.iter().find_map(retryable).cloned() {
            if !attempts.pause_after(&error).await {
                break;
            }
            let failed = texts.iter().zip(&results).filter(|(_, result)| retryable(result).is_some());
            let again = failed.map(|(text, _)| text.as_slice()).collect::<Vec<_>>();
            let again = self.send_once(&again, attempts.made).await;
            replace_retryable(&mut results, again);
        }
        results
    }

    /// One request. Returns one result per event, also if the whole request failed.
    async fn send_once(&self, texts: &[&[u8]], attempt: u32) -> Vec<ItemResult> {
        let call = Call::post("/v1/events/batch", batch_body::join(texts));
        let answered = self.transport.attempt(&call).await;
        let results = answered.and_then(|answer| read(&answer, texts.len(), attempt));
        results.unwrap_or_else(|error| vec![Err(error); texts.len()])
    }
}

/// The error, if a retry can help with it.
fn retryable(result: &ItemResult) -> Option<&Error> {
    result.as_ref().err().filter(|error| error.is_retryable())
}

/// Puts the results of a retry in the place of those that it was made for.
fn replace_retryable(results: &mut [ItemResult], again: Vec<ItemResult>) {
    let failed = results.iter_mut().filter(|result| retryable(result).is_some());
    failed.zip(again).for_each(|(place, result)| *place = result);
}

fn read(answer: &Answer, events: usize, attempt: u32) -> Result<Vec<ItemResult>, Error> {
    let BatchAnswer { results } = answer.json()?;
    if results.len() != events {
        return Err(answer.unusable(format!("it has {} results for {events} events", results.len())));
    }
    let request_id = answer.header("x-request-id");
    Ok(results.into_iter().map(|item| item.into_result(request_id, attempt)).collect())
}

impl BatchItem {
    fn into_result(self, request_id: Option<&str>, attempts: u32) -> ItemResult {
        let Self { status, event_id, position, error_code, message, details, .. } = self;
        if let Some(event_id) = event_id.clone().filter(|_| (200..300).contains(&status)) {
            return Ok(Accepted { event_id, position, accepted_at: None, duplicate: self.duplicate, attempts });
        }
        let problem = Problem {
            code: error_code,
            detail: message,
            request_id: request_id.map(str::to_owned),
            fields: details,
            event_id,
            ..Problem::of_status(status)
        };
        duplicate(&problem, attempts).ok_or_else(|| Error::Problem(Box::new(problem)))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::error::tests::{problem, timed_out};

    fn read(body: &str, events: usize) -> Result<Vec<ItemResult>, Error> {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-request-id"), "r-1".parse().unwrap())]);
        super::read(&Answer { status: StatusCode::MULTI_STATUS, headers, body: body.as_bytes().to_vec() }, events, 3)
    }

    fn id(result: &ItemResult) -> &str {
        &result.as_ref().unwrap().event_id
    }

    #[test]
    fn each_event_has_its_own_result() {
        let body = r#"{"accepted": 1, "duplicates": 2, "rejected": 2, "results": [
            {"index": 0, "status": 201, "event_id": "e-0", "position": "p", "message": "event accepted"},
            {"index": 1, "status": 409, "event_id": "e-1", "error_code": "duplicate_event", "message": "m"},
            {"index": 2, "status": 200, "event_id": "e-2", "position": "p", "duplicate": true, "message": "m"},
            {"index": 3, "status": 400, "error_code": "invalid_event", "message": "payload is missing",
             "details": [{"field": "payload", "reason": "is missing"}]},
            {"index": 4, "status": 503, "error_code": "unavailable", "message": "m"}]}"#;
        let results = read(body, 5).unwrap();
        assert_eq!(results[..3].iter().map(id).collect::<Vec<_>>(), ["e-0", "e-1", "e-2"]);
        let flags = results[..3].iter().map(|result| result.as_ref().unwrap().duplicate);
        assert_eq!(flags.collect::<Vec<_>>(), [false, true, true], "a duplicate is no error");
        assert_eq!(results[0].as_ref().unwrap().attempts, 3);
        let invalid = results[3].as_ref().unwrap_err();
        assert_eq!((invalid.code(), invalid.is_retryable()), (Some("invalid_event"), false));
        assert_eq!(invalid.problem().unwrap().fields[0].field, "payload");
        assert_eq!(invalid.problem().unwrap().request_id.as_deref(), Some("r-1"));
        assert!(results[4].as_ref().unwrap_err().is_retryable());
    }

    #[test]
    fn an_answer_without_a_result_for_each_is_refused() {
        let one = r#"{"results": [{"index": 0, "status": 201, "event_id": "e-0"}]}"#;
        assert_eq!(id(&read(one, 1).unwrap()[0]), "e-0");
        assert!(matches!(read(one, 2), Err(Error::Answer { status: 207, .. })));
        let nameless = r#"{"results": [{"index": 0, "status": 201}]}"#;
        assert!(read(nameless, 1).unwrap()[0].is_err(), "an accepted event has an id");
    }

    #[test]
    fn a_retry_replaces_only_what_it_was_made_for() {
        let accepted = |id: &str| {
            Ok(Accepted { event_id: id.to_owned(), position: None, accepted_at: None, duplicate: false, attempts: 1 })
        };
        let mut results =
            vec![Err(timed_out()), accepted("a"), Err(problem(400, "invalid_event", None)), Err(timed_out())];
        replace_retryable(&mut results, vec![accepted("b"), Err(problem(503, "unavailable", None))]);
        assert_eq!((id(&results[0]), id(&results[1])), ("b", "a"));
        assert!(!results[2].as_ref().unwrap_err().is_retryable(), "an event that was refused is not sent again");
        assert!(results[3].as_ref().unwrap_err().is_retryable(), "it is sent once more");
    }
}
