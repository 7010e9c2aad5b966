//! A page of the inbox. Events are kept as received JSON text: a valid payload may contain numbers that a `Value`
//! cannot hold.

use anyhow::Result;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{Client, Credential};

#[derive(Deserialize)]
pub(super) struct InboxPage {
    /// Each event's JSON text.
    pub events: Vec<Box<RawValue>>,
    /// Cursor of the next page; null on the last page.
    pub next_cursor: Option<String>,
    /// Cursor of events that arrive later.
    pub resume_cursor: Option<String>,
}

/// The fields of an event that are shown in columns.
#[derive(Deserialize)]
pub(super) struct InboxEvent {
    pub event_id: String,
    pub event_type: String,
    pub timestamp: Option<String>,
    pub status: String,
    pub payload: Box<RawValue>,
}

pub(super) async fn fetch(client: &Client, query: &[(&str, String)]) -> Result<InboxPage> {
    client.fetch(client.request(Credential::ApiKey, Method::GET, "/v1/inbox")?.query(query)).await
}

/// Reads one page as received JSON text.
pub(super) async fn fetch_text(client: &Client, query: &[(&str, String)]) -> Result<Box<RawValue>> {
    client.fetch(client.request(Credential::ApiKey, Method::GET, "/v1/inbox")?.query(query)).await
}

impl InboxPage {
    /// Decodes the events.
    pub(super) fn decode(&self) -> Result<Vec<InboxEvent>> {
        self.events.iter().map(|event| Ok(serde_json::from_str(event.get())?)).collect()
    }
}
