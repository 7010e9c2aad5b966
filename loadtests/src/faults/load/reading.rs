//! One reader per organization: follows its inbox by cursor. What of it is acknowledged is `acknowledging`'s, which
//! must not hold it up: how soon it shows what was accepted is what recovery is measured by.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::Ground;
use crate::faults::ledger::Shown;
use crate::faults::view::page;

/// How long the inbox is asked to wait for the next event, seconds: below every time-out.
const WAIT_SECONDS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(200);

/// Follows until told to end, and tells the ids of what it was shown; those that are not taken at once are not told.
pub async fn follow(ground: Arc<Ground>, tenant: usize, told: mpsc::Sender<Uuid>, stop: watch::Receiver<bool>) {
    let mut cursor: Option<String> = None;
    while !*stop.borrow() {
        let Some(of) = ground.tenants.get(tenant) else { return };
        let at = cursor.as_ref().map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let query = format!("limit=200&include_acknowledged=true&wait={WAIT_SECONDS}{at}");
        // A reader that got no answer asks again from where it was: that is all it takes to miss nothing.
        let Ok(page) = page(&ground.api, &of.key, &query).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        cursor = Some(page.resume_cursor);
        let shown: Vec<Shown> = page.events.into_iter().map(Shown::from).collect();
        for event in &shown {
            // Who acknowledges is behind: then some are left alone.
            let _is_full = told.try_send(event.id);
        }
        ground.ledger.note_seen(tenant, shown);
    }
}
