//! `POST /v1/inbox/ack`: acknowledges events.

use serde::Deserialize;
use serde_json::json;

use crate::client::Client;
use crate::error::Error;
use crate::transport::Call;

/// Largest number of ids in a request.
const CHUNK: usize = 1_000;

/// The outcome of an acknowledgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acknowledged {
    /// Number of events that are acknowledged now, those that were before among them.
    pub acknowledged: u64,
    /// Ids without an event.
    pub not_found: Vec<String>,
}

#[derive(Deserialize)]
struct AckAnswer {
    acknowledged: u64,
    results: Vec<AckResult>,
}

#[derive(Deserialize)]
struct AckResult {
    event_id: String,
    status: String,
}

impl Client {
    /// Acknowledges events, in requests of 1,000 ids. An acknowledged event is in the inbox no longer; it can still be
    /// read by its id. To acknowledge an event again does no harm.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
    /// let done = client.ack(["01990a52-7c1e-7d7e-9a3e-2f6f0f5f2a10"]).await?;
    /// assert!(done.not_found.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any [`Error`]. Events of earlier requests may be acknowledged: call it again.
    pub async fn ack(&self, ids: impl IntoIterator<Item = impl Into<String>>) -> Result<Acknowledged, Error> {
        let mut ids = ids.into_iter().map(Into::into);
        let mut done = Acknowledged::default();
        loop {
            let chunk: Vec<String> = ids.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(done);
            }
            let body = json!({"event_ids": chunk}).to_string().into_bytes();
            let answer = self.transport.call(&Call::post("/v1/inbox/ack", body)).await.result?;
            done.add(answer.json()?);
        }
    }
}

impl Acknowledged {
    fn add(&mut self, answer: AckAnswer) {
        self.acknowledged += answer.acknowledged;
        let missing = answer.results.into_iter().filter(|result| result.status == "not_found");
        self.not_found.extend(missing.map(|result| result.event_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcomes_of_requests_are_added() {
        let answer = |id: &str| {
            let missing = json!({"event_id": id, "status": "not_found"});
            let found = json!({"event_id": "x", "status": "acknowledged"});
            serde_json::from_value(json!({"acknowledged": 2, "failed": 1, "results": [found, missing]})).unwrap()
        };
        let mut done = Acknowledged::default();
        done.add(answer("a"));
        done.add(answer("b"));
        assert_eq!(done, Acknowledged { acknowledged: 4, not_found: vec!["a".to_owned(), "b".to_owned()] });
    }
}
