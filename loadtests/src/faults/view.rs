//! The view as its readers see it: whole inboxes over HTTP, and the verdicts from the contract's SQL view.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::check::Verdicts;
use super::client::Api;
use super::ledger::Shown;

/// Wait before asking a busy system again.
const PAUSE: Duration = Duration::from_millis(200);

/// One page.
#[derive(Deserialize)]
pub struct Page {
    /// In the order of the log.
    pub events: Vec<Event>,
    /// Continues with what arrives later.
    pub resume_cursor: String,
    /// Whether there is more now.
    pub has_more: bool,
}

/// What the suite looks at in an event.
#[derive(Deserialize)]
pub struct Event {
    event_id: Uuid,
    payload: Payload,
    acknowledged_at: Option<String>,
    delivery_status: String,
}

#[derive(Deserialize)]
struct Payload {
    tag: String,
    org: Uuid,
}

impl From<Event> for Shown {
    fn from(event: Event) -> Self {
        Self {
            id: event.event_id,
            tag: event.payload.tag,
            owner: event.payload.org,
            acknowledged: event.acknowledged_at.is_some(),
            delivery_status: event.delivery_status,
        }
    }
}

/// The whole inbox behind `key`, acknowledged or not, oldest first. A system that is busy is asked again until
/// `deadline`.
pub async fn inbox(api: &Api, key: &str, deadline: Instant) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    let mut query = "limit=1000&include_acknowledged=true".to_owned();
    loop {
        let page = match page(api, key, &query).await {
            Ok(page) => page,
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        shown.extend(page.events.into_iter().map(Shown::from));
        if !page.has_more {
            return Ok(shown);
        }
        query = format!("limit=1000&include_acknowledged=true&cursor={}", page.resume_cursor);
    }
}

/// One page of an inbox.
pub async fn page(api: &Api, key: &str, query: &str) -> anyhow::Result<Page> {
    let (status, body) = api.get(&format!("/v1/inbox?{query}"), key).await?;
    if status != 200 {
        bail!("the inbox answered {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the inbox answered what it should not")
}

/// All verdicts: which event each duplicate stands for.
pub async fn verdicts(pool: &PgPool) -> anyhow::Result<Verdicts> {
    let rows = sqlx::query("SELECT org_id, event_id, canonical_id FROM contract.duplicates").fetch_all(pool).await?;
    let verdict = |row: &sqlx::postgres::PgRow| {
        Ok(((row.try_get("org_id")?, row.try_get("event_id")?), row.try_get::<Uuid, _>("canonical_id")?))
    };
    rows.iter().map(verdict).collect()
}

/// Which event the API shows under an id: `None` when it knows none.
pub async fn resolved(api: &Api, key: &str, id: Uuid) -> anyhow::Result<Option<Uuid>> {
    #[derive(Deserialize)]
    struct Found {
        event_id: Uuid,
    }
    let (status, body) = api.get(&format!("/v1/events/{id}"), key).await?;
    match status {
        200 => Ok(Some(serde_json::from_slice::<Found>(&body)?.event_id)),
        404 => Ok(None),
        _ => bail!("the event {id} was answered with {status}"),
    }
}
