//! After all faults, rebuilds and replays the system must still work: one more event goes all the way, from a request
//! to the inbox and the receiver.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use uuid::Uuid;

use super::check::Violation;
use super::client::Api;
use super::system::System;
use super::view;

const POLL: Duration = Duration::from_millis(200);
/// Names the event.
const TAG: &str = "one-more";

/// Sends an event of a new organization and waits until it is listed and delivered; what did not come within `patience`
/// is the violation.
pub async fn goes_on(system: &System, patience: Duration) -> Option<Violation> {
    let failed = one_more(system, Instant::now() + patience).await.err()?;
    Some(Violation::new("not-going-on", format!("{failed:#}")))
}

async fn one_more(system: &System, deadline: Instant) -> anyhow::Result<()> {
    let tenants = system.tenants("end").await.context("making organizations")?;
    let tenant =
        tenants.iter().find(|tenant| !tenant.endpoints.is_empty()).context("no organization has an endpoint")?;
    let body = json!({"event_type": "fault.end", "payload": {"tag": TAG, "org": tenant.org}}).to_string();
    let id = loop {
        match accepted(&system.api, &tenant.key, &body).await {
            Ok(id) => break id,
            Err(error) if Instant::now() > deadline => return Err(error.context("one more event was not accepted")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let (mut is_shown, mut is_delivered) = (false, false);
    while !(is_shown && is_delivered) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "one more event, {id} of {}, was accepted; in the inbox: {is_shown}, at its endpoints: {is_delivered}",
            tenant.org
        );
        tokio::time::sleep(POLL).await;
        is_shown = view::inbox(&system.api, &tenant.key, deadline).await?.iter().any(|row| row.id == id);
        is_delivered = tenant.endpoints.iter().all(|endpoint| system.receiver.has_answered(endpoint, id));
    }
    Ok(())
}

/// The id that the event got. It may be sent again: it has a name.
async fn accepted(api: &Api, key: &str, body: &str) -> anyhow::Result<Uuid> {
    let (status, answer) = api.post("/v1/events", key, body.to_owned(), Some(TAG)).await?;
    let told = || format!("it was answered with {status}: {}", String::from_utf8_lossy(&answer));
    // The second answer is one to a repeat, with the original's id.
    anyhow::ensure!(matches!(status, 201 | 409), "{}", told());
    let reply: Value = serde_json::from_slice(&answer).with_context(told)?;
    let id = reply["event_id"].as_str().with_context(told)?;
    id.parse::<Uuid>().with_context(told)
}
