//! A smoke test after all faults, rebuilds and replays: one more event must come from a request to the inbox and to the
//! receiver.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::check::Violation;
use crate::client::Api;
use crate::inbox;
use crate::system::System;

const POLL: Duration = Duration::from_millis(200);
/// Tag and idempotency key of the event.
const TAG: &str = "smoke-after";

/// Sends an event of a new organization and waits until it is listed and delivered. Returns a violation if that fails
/// or takes longer than `timeout`.
pub(crate) async fn smoke_after(system: &System, timeout: Duration) -> Option<Violation> {
    let error = deliver_one(system, Instant::now() + timeout).await.err()?;
    Some(Violation::new("smoke-failed", format!("{error:#}")))
}

async fn deliver_one(system: &System, deadline: Instant) -> anyhow::Result<()> {
    let tenants = system.create_tenants("end").await.context("creating organizations")?;
    let tenant =
        tenants.iter().find(|tenant| !tenant.endpoints.is_empty()).context("no organization has an endpoint")?;
    let body = json!({"event_type": "fault.end", "payload": {"tag": TAG, "org": tenant.org}}).to_string();
    let id = loop {
        match send(&system.api, &tenant.key, &body).await {
            Ok(id) => break id,
            Err(error) if Instant::now() > deadline => return Err(error.context("the event was not accepted")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let (mut is_shown, mut is_delivered) = (false, false);
    while !(is_shown && is_delivered) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the event {id} of {} was accepted; in the inbox: {is_shown}, at its endpoints: {is_delivered}",
            tenant.org
        );
        tokio::time::sleep(POLL).await;
        is_shown = inbox::read(&system.api, &tenant.key, deadline).await?.iter().any(|row| row.id == id);
        is_delivered = tenant.endpoints.iter().all(|endpoint| system.receiver.has_succeeded(endpoint, id));
    }
    Ok(())
}

/// Sends the event and returns its id. May be retried: the event has an idempotency key.
async fn send(api: &Api, key: &str, body: &str) -> anyhow::Result<Uuid> {
    let (status, answer) = api.post("/v1/events", key, body.to_owned(), Some(TAG)).await?;
    let message = || format!("POST /v1/events answered {status}: {}", String::from_utf8_lossy(&answer));
    // 409 answers a retry, with the id of the original.
    anyhow::ensure!(matches!(status, 201 | 409), "{}", message());
    let reply: Value = serde_json::from_slice(&answer).with_context(message)?;
    let id = reply["event_id"].as_str().with_context(message)?;
    id.parse::<Uuid>().with_context(message)
}
