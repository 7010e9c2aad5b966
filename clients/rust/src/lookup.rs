//! One event by its id, and the status of its deliveries.

use serde::Deserialize;

use crate::client::Client;
use crate::error::Error;
use crate::inbox::{DeliveryStatus, InboxEvent};
use crate::transport::Call;

/// Longest id that is sent.
const MAX_ID_BYTES: usize = 64;

/// The status of an event's deliveries to webhook endpoints, all together and each.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct EventStatus {
    /// The event; of a duplicate, the original.
    pub event_id: String,
    /// All deliveries together.
    pub status: DeliveryStatus,
    /// Attempts of all deliveries.
    pub attempts: u32,
    /// Attempts after the first one of each delivery.
    pub retry_attempts: u32,
    /// When the last retry started, in RFC 3339.
    pub last_retry_at: Option<String>,
    /// When the next retry is due.
    pub next_retry_at: Option<String>,
    /// When the last delivery failed for good.
    pub failed_at: Option<String>,
    /// When the event was acknowledged.
    pub acknowledged_at: Option<String>,
    /// Each delivery.
    pub deliveries: Vec<Delivery>,
}

/// One event on its way to one endpoint.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Delivery {
    /// Its id.
    pub delivery_id: String,
    /// The endpoint.
    pub endpoint_id: String,
    /// Its status.
    pub status: DeliveryStatus,
    /// Its attempts.
    pub attempts: u32,
    /// When the next attempt is due, in RFC 3339.
    pub next_attempt_at: Option<String>,
    /// The HTTP status of the last answer.
    pub last_status_code: Option<u16>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When the first attempt was planned.
    pub created_at: String,
}

impl Client {
    /// Reads one event, acknowledged or not. `None`: there is no such event.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
    /// if let Some(event) = client.get("01990a52-7c1e-7d7e-9a3e-2f6f0f5f2a10").await? {
    ///     println!("{}", event.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn get(&self, event_id: &str) -> Result<Option<InboxEvent>, Error> {
        self.lookup(&format!("/v1/events/{}", checked(event_id)?)).await
    }

    /// Reads the status of an event's deliveries. `None`: there is no such event.
    ///
    /// ```no_run
    /// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
    /// if let Some(status) = client.status("01990a52-7c1e-7d7e-9a3e-2f6f0f5f2a10").await? {
    ///     println!("{:?} after {} attempts", status.status, status.attempts);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn status(&self, event_id: &str) -> Result<Option<EventStatus>, Error> {
        self.lookup(&format!("/v1/events/{}/status", checked(event_id)?)).await
    }

    async fn lookup<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.transport.call(&Call::get(path)).await.result {
            Ok(answer) => answer.json().map(Some),
            Err(error) if error.code() == Some("not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The id becomes a part of the URL: a slash or dots in it would make another path.
fn checked(event_id: &str) -> Result<&str, Error> {
    let is_sane = (1..=MAX_ID_BYTES).contains(&event_id.len())
        && event_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_sane { Ok(event_id) } else { Err(Error::Invalid("this is not the id of an event".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_makes_another_path() {
        assert!(checked("01990a52-7c1e-7d7e-9a3e-2f6f0f5f2a10").is_ok());
        let long = "a".repeat(65);
        for bad in ["", "..", "a/../b", "a?b=1", "a#b", "%2e%2e", "a b", "é", &long] {
            assert!(matches!(checked(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
