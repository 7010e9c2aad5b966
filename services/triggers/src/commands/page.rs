//! A page of the inbox as the commands read it: events stay the text they came as, because a valid payload may hold
//! what no `Value` can.

use anyhow::Result;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{As, Client};

#[derive(Deserialize)]
pub(super) struct Page {
    /// Each event's JSON text.
    pub events: Vec<Box<RawValue>>,
    /// Goes on; null on the last page.
    pub next_cursor: Option<String>,
    /// Goes on with what arrives later.
    pub resume_cursor: Option<String>,
}

/// What a person sees of an event.
#[derive(Deserialize)]
pub(super) struct Event {
    pub event_id: String,
    pub event_type: String,
    pub timestamp: Option<String>,
    pub status: String,
    pub payload: Box<RawValue>,
}

pub(super) async fn fetch(client: &Client, query: &[(&str, String)]) -> Result<Page> {
    client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(query)).await
}

/// Reads one page as the text it came as.
pub(super) async fn fetch_text(client: &Client, query: &[(&str, String)]) -> Result<Box<RawValue>> {
    client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(query)).await
}

impl Page {
    /// The events, read as far as people look at them.
    pub(super) fn read(&self) -> Result<Vec<Event>> {
        self.events.iter().map(|event| Ok(serde_json::from_str(event.get())?)).collect()
    }
}
