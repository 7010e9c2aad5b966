//! Follows an inbox by cursor. There is one reader per organization.
//!
//! Acknowledging is a separate task, so that it does not delay the reader: recovery is measured by what the reader
//! shows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::context::RoundContext;
use crate::inbox::page;
use crate::ledger::ShownEvent;

/// Long poll of the inbox in seconds; shorter than every timeout.
const WAIT_SECONDS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the inbox until it has to stop. Sends the ids of shown events to `show`, and drops them if that is full.
pub(super) async fn follow(
    context: Arc<RoundContext>,
    tenant: usize,
    show: mpsc::Sender<Uuid>,
    stop: watch::Receiver<bool>,
) {
    let mut cursor: Option<String> = None;
    while !*stop.borrow() {
        let Some(of) = context.tenants.get(tenant) else { return };
        let at = cursor.as_ref().map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let query = format!("limit=200&include_acknowledged=true&wait={WAIT_SECONDS}{at}");
        // After an error the reader retries with the same cursor. That must be enough to miss nothing.
        let Ok(page) = page(&context.api, &of.key, &query).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        cursor = Some(page.resume_cursor);
        let shown: Vec<ShownEvent> = page.events.into_iter().map(ShownEvent::from).collect();
        for event in &shown {
            // If the acknowledger is behind, some events are not acknowledged.
            let _is_full = show.try_send(event.id);
        }
        context.ledger.record_tail(tenant, shown);
    }
}
