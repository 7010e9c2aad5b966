//! `GET /v1/inbox`: pages of events.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::client::Client;
use crate::error::Error;
use crate::events::Events;
use crate::transport::Call;

/// An event of the inbox.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct InboxEvent {
    /// Its id.
    pub event_id: String,
    /// Its type, such as `order.created`.
    pub event_type: String,
    /// The payload as the producer wrote it, byte for byte.
    pub payload: Box<RawValue>,
    /// `base64`: the payload is the base64 text of binary data.
    pub payload_encoding: Option<String>,
    /// When it was accepted, in RFC 3339.
    pub timestamp: String,
    /// When it happened, as the producer says.
    pub occurred_at: Option<String>,
    /// What produced it.
    pub source: Option<String>,
    /// Its ordering key.
    pub ordering_key: Option<String>,
    /// Its metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Its dedup id.
    pub dedup_id: Option<String>,
    /// The status of its deliveries to webhook endpoints, all together.
    pub status: DeliveryStatus,
    /// Attempts of all its deliveries.
    #[serde(default)]
    pub attempts: u32,
    /// When it was acknowledged.
    pub acknowledged_at: Option<String>,
    /// Its place on the log.
    pub position: Option<String>,
    /// Only if it was asked for by the id of a duplicate: the id of the original, which is this event.
    pub duplicate_of: Option<String>,
}

impl InboxEvent {
    /// Decodes the payload.
    ///
    /// # Errors
    /// The payload has another form.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.payload.get())
    }
}

/// The status of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeliveryStatus {
    /// None has ended, or there is none.
    Pending,
    /// One waits for its next attempt.
    Retrying,
    /// All succeeded.
    Delivered,
    /// One failed for good.
    Failed,
    /// Of one delivery only: the event was acknowledged, or the endpoint deleted, before an attempt succeeded.
    Cancelled,
    /// One that this version of the client does not know.
    #[serde(other)]
    Unknown,
}

impl DeliveryStatus {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// A page of the inbox.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The events, in the order that was asked for.
    pub events: Vec<InboxEvent>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
    /// The cursor for what arrives later. It continues after the events of this page.
    pub resume_cursor: String,
    /// When the oldest event that can still be read was accepted.
    pub oldest_available: Option<String>,
    /// Events after the cursor expired before they were read. The page starts with the oldest one there is.
    #[serde(default)]
    pub gap: bool,
    /// Counts.
    pub pagination: Pagination,
}

/// Counts of a page.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Pagination {
    /// Unacknowledged events of the organization; `None` on pages with a cursor.
    pub total_undelivered: Option<u64>,
    /// There are more than `total_undelivered`, which is 10,000.
    #[serde(default)]
    pub total_is_lower_bound: bool,
}

/// A read of the inbox: what to read, and how.
///
/// ```no_run
/// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
/// let page = client.inbox().event_type("order.created").limit(100).page().await?;
/// let ids: Vec<&str> = page.events.iter().map(|event| event.event_id.as_str()).collect();
/// client.ack(ids).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it reads nothing before `page` or `events`"]
pub struct InboxRequest {
    client: Client,
    limit: Option<u32>,
    cursor: Option<String>,
    event_types: Vec<String>,
    status: Option<DeliveryStatus>,
    newest_first: bool,
    since: Option<String>,
    until: Option<String>,
    include_acknowledged: bool,
    min_positions: Vec<String>,
    wait: Option<Duration>,
}

impl Client {
    /// A read of the inbox: all unacknowledged events, the oldest first.
    pub fn inbox(&self) -> InboxRequest {
        InboxRequest {
            client: self.clone(),
            limit: None,
            cursor: None,
            event_types: Vec::new(),
            status: None,
            newest_first: false,
            since: None,
            until: None,
            include_acknowledged: false,
            min_positions: Vec::new(),
            wait: None,
        }
    }
}

impl InboxRequest {
    /// Largest number of events on a page, 1 to 1,000. Default: 50.
    pub const fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Starts after this cursor, of an earlier page or stream.
    pub fn cursor(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = Some(cursor.into());
        self
    }

    /// Only events of this type. Call it again for one more.
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_types.push(event_type.into());
        self
    }

    /// Only events whose deliveries have this status.
    pub const fn status(mut self, status: DeliveryStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// The newest first. A stream of [`events`](Self::events) is always oldest first.
    pub const fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// Only events accepted at this time or later, in RFC 3339.
    pub fn since(mut self, timestamp: impl Into<String>) -> Self {
        self.since = Some(timestamp.into());
        self
    }

    /// Only events accepted before this time, in RFC 3339.
    pub fn until(mut self, timestamp: impl Into<String>) -> Self {
        self.until = Some(timestamp.into());
        self
    }

    /// Acknowledged events too.
    pub const fn include_acknowledged(mut self) -> Self {
        self.include_acknowledged = true;
        self
    }

    /// The read waits until the inbox has this [position](crate::Accepted::position). Call it again for one more.
    pub fn min_position(mut self, position: impl Into<String>) -> Self {
        self.min_positions.push(position.into());
        self
    }

    /// An empty page is answered only after this time: the server waits for a first event. At most 30 s; in whole
    /// seconds, rounded up. Default: a page does not wait, and a stream waits 30 s.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Reads one page.
    ///
    /// # Errors
    /// Any [`Error`]. With the code `invalid_request` one of the settings is out of range.
    pub async fn page(&self) -> Result<Page, Error> {
        let wait = Duration::from_secs(self.wait_seconds());
        let call = Call::get("/v1/inbox").query(self.query()).wait(wait);
        self.client.transport.call(&call).await.result?.json()
    }

    /// A stream of all events, those that arrive later too.
    pub fn events(self) -> Events {
        Events::new(self)
    }

    /// The request of a stream that starts here.
    pub(crate) fn of_stream(self) -> Self {
        Self { newest_first: false, wait: self.wait.or(Some(Duration::from_secs(30))), ..self }
    }

    /// The request of the page after this cursor. The view has reached the positions already.
    pub(crate) fn continue_after(&mut self, cursor: String) {
        self.cursor = Some(cursor);
        self.min_positions.clear();
    }

    pub(crate) fn current_cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn wait_seconds(&self) -> u64 {
        let wait = self.wait.unwrap_or_default();
        wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        query.extend(self.cursor.iter().map(|cursor| ("cursor", cursor.clone())));
        query.extend(self.event_types.iter().map(|event_type| ("event_type", event_type.clone())));
        query.extend(self.status.map(|status| ("status", status.name().to_owned())));
        query.extend(self.newest_first.then(|| ("order", "desc".to_owned())));
        query.extend(self.since.iter().map(|since| ("since", since.clone())));
        query.extend(self.until.iter().map(|until| ("until", until.clone())));
        query.extend(self.include_acknowledged.then(|| ("include_acknowledged", "true".to_owned())));
        query.extend(self.min_positions.iter().map(|position| ("min_position", position.clone())));
        query.extend(self.wait.map(|_| ("wait", self.wait_seconds().to_string())));
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> InboxRequest {
        Client::builder().url("http://127.0.0.1:1").key("k").build().unwrap().inbox()
    }

    fn query(request: &InboxRequest) -> String {
        let pair = |(name, value): (&str, String)| format!("{name}={value}");
        request.query().into_iter().map(pair).collect::<Vec<_>>().join("&")
    }

    #[test]
    fn each_setting_is_a_parameter() {
        assert_eq!(query(&inbox()), "", "the defaults are those of the server");
        let request = inbox().limit(7).cursor("c").event_type("a").event_type("b").status(DeliveryStatus::Failed);
        let request = request.newest_first().since("s").until("u").include_acknowledged().min_position("p");
        assert_eq!(
            query(&request.wait(Duration::from_secs(3))),
            "limit=7&cursor=c&event_type=a&event_type=b&status=failed&order=desc&since=s&until=u\
             &include_acknowledged=true&min_position=p&wait=3"
        );
        assert_eq!(query(&inbox().wait(Duration::from_millis(1))), "wait=1", "rounded up: 0 would not wait");
    }

    #[test]
    fn a_stream_waits_and_continues_after_each_page() {
        let mut request = inbox().newest_first().min_position("p").event_type("a").of_stream();
        assert_eq!(query(&request), "event_type=a&min_position=p&wait=30");
        request.continue_after("c".to_owned());
        assert_eq!(query(&request), "cursor=c&event_type=a&wait=30");
        assert_eq!(query(&inbox().wait(Duration::ZERO).of_stream()), "wait=0", "a wait of the caller is kept");
    }

    #[test]
    fn a_page_keeps_payloads_and_ignores_new_members() {
        let text = r#"{"events": [{"event_id": "e", "id": "e", "event_type": "a", "type": "a", "new": [1],
            "payload": {"b": 1.10, "a":12345678901234567890}, "timestamp": "t", "created_at": "t", "occurred_at": null,
            "source": null, "ordering_key": null, "metadata": {"k": "v"}, "dedup_id": null, "status": "parked",
            "attempts": 0, "acknowledged_at": null, "leased_until": null, "position": "p"}],
            "next_cursor": null, "resume_cursor": "r", "has_more": false, "oldest_available": null, "gap": true,
            "pagination": {"limit": 50, "cursor": null, "total_undelivered": 10000, "total_is_lower_bound": true}}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert_eq!(page.events[0].payload.get(), r#"{"b": 1.10, "a":12345678901234567890}"#);
        assert_eq!(page.events[0].status, DeliveryStatus::Unknown, "a new status is no error");
        assert_eq!(page.events[0].payload_as::<BTreeMap<String, f64>>().unwrap()["b"], 1.1);
        assert!(page.gap && page.pagination.total_is_lower_bound);
        assert_eq!((page.next_cursor, page.resume_cursor.as_str()), (None, "r"));
    }
}
