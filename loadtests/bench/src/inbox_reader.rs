//! Reads the inboxes of organizations over HTTP: the cursor at their end before a run, and all events after it.
//!
//! The comparison with the accepted events is in `inbox_check`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::control_client::ControlClient;
use crate::inbox_check::{InboxCheck, InboxEntry, compare};
use crate::organizations::Organization;
use crate::recorder::AcceptedEvent;

/// Number of concurrent readers.
const READERS: usize = 4;
/// Wait before the next read of events that are not visible yet.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait before a retry after 503.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// How long a system may answer 503 before a run.
const BUSY_BUDGET: Duration = Duration::from_secs(30);

/// A cursor at the end of an inbox.
pub(crate) type Cursor = String;

#[derive(Deserialize)]
struct InboxPage {
    events: Vec<InboxEvent>,
    resume_cursor: Cursor,
    has_more: bool,
}

#[derive(Deserialize)]
struct InboxEvent {
    event_id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
}

/// Reads one page. Retries after 503 until `deadline`.
async fn page(control: &ControlClient, key: &str, query: &str, deadline: Instant) -> anyhow::Result<InboxPage> {
    let path = format!("/v1/inbox?{query}");
    loop {
        let (status, body) = control.get(&path, key).await?;
        match status {
            200 => return serde_json::from_slice(&body).with_context(|| format!("GET {path}: unexpected reply")),
            503 if Instant::now() < deadline => tokio::time::sleep(BUSY_PAUSE).await,
            _ => bail!("GET {path} answered {status}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

/// A cursor at the end of each organization's inbox, in their order.
pub(crate) async fn ends(control: &ControlClient, organizations: &[Organization]) -> anyhow::Result<Vec<Cursor>> {
    let organizations: Arc<[Organization]> = organizations.into();
    let deadline = Instant::now() + BUSY_BUDGET;
    let mut ends = vec![Cursor::new(); organizations.len()];
    let found = for_each(organizations.len(), {
        let control = control.clone();
        move |index| {
            let (control, organizations) = (control.clone(), Arc::clone(&organizations));
            async move {
                let Some(organization) = organizations.get(index) else { bail!("no organization {index}") };
                // The resume cursor of a descending page is the ascending cursor at its start.
                Ok(page(&control, &organization.key, "order=desc&limit=1&include_acknowledged=true", deadline)
                    .await?
                    .resume_cursor)
            }
        }
    })
    .await?;
    for (index, cursor) in found {
        if let Some(end) = ends.get_mut(index) {
            *end = cursor;
        }
    }
    Ok(ends)
}

/// The cursor after the oldest `skipped` events that match `filter` (`&name=value`); an inner `None` is the start.
/// `None` if the inbox has no more than these.
pub(crate) async fn cursor_after(
    control: &ControlClient,
    key: &str,
    filter: &str,
    skipped: u64,
) -> anyhow::Result<Option<Option<Cursor>>> {
    let deadline = Instant::now() + BUSY_BUDGET;
    let (mut cursor, mut left): (Option<Cursor>, u64) = (None, skipped);
    while left > 0 {
        let at = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = page(control, key, &format!("limit={}{filter}{at}", left.min(1_000)), deadline).await?;
        if !page.has_more {
            return Ok(None);
        }
        // A page may end early: its bytes are bounded.
        left -= (page.events.len() as u64).min(left);
        cursor = Some(page.resume_cursor);
    }
    Ok(Some(cursor))
}

/// The expected events of a run.
pub(crate) struct Expected {
    pub organizations: Vec<Organization>,
    /// Cursor at the end of each inbox before the run.
    pub from: Vec<Cursor>,
    /// The accepted events of each organization.
    pub accepted: Vec<Vec<AcceptedEvent>>,
}

/// Reads each inbox from its end before the run, and compares. Events may take until `deadline` to be visible.
pub(crate) async fn check(
    control: &ControlClient,
    expected: Expected,
    deadline: Instant,
) -> anyhow::Result<InboxCheck> {
    let count = expected.organizations.len();
    let expected = Arc::new(expected);
    let control = control.clone();
    let found = for_each(count, move |index| {
        let (control, expected) = (control.clone(), Arc::clone(&expected));
        async move {
            let (Some(organization), Some(from), Some(accepted)) =
                (expected.organizations.get(index), expected.from.get(index), expected.accepted.get(index))
            else {
                bail!("no organization {index}")
            };
            let shown = read(&control, &organization.key, from.clone(), accepted, deadline).await?;
            Ok(compare(accepted, &shown))
        }
    })
    .await?;
    let mut all = InboxCheck::default();
    for (_, result) in found {
        all.add(&result);
    }
    Ok(all)
}

/// Reads all events after `cursor`, until all of `accepted` are shown and the end is reached, or until `deadline`.
async fn read(
    control: &ControlClient,
    key: &str,
    mut cursor: Cursor,
    accepted: &[AcceptedEvent],
    deadline: Instant,
) -> anyhow::Result<Vec<InboxEntry>> {
    let mut open: HashSet<Uuid> = accepted.iter().map(|event| event.id).collect();
    let mut shown = Vec::with_capacity(accepted.len());
    loop {
        let page =
            page(control, key, &format!("limit=1000&include_acknowledged=true&cursor={cursor}"), deadline).await?;
        for event in &page.events {
            open.remove(&event.event_id);
            let accepted_ms = schemas::unix_time::to_millis(event.timestamp);
            shown.push(InboxEntry { id: event.event_id, accepted_ms });
        }
        cursor = page.resume_cursor;
        if !page.has_more {
            if open.is_empty() || Instant::now() >= deadline {
                return Ok(shown);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Runs `work` for every index below `count`, some concurrently. Results have their index.
async fn for_each<T, W, F>(count: usize, work: W) -> anyhow::Result<Vec<(usize, T)>>
where
    T: Send + 'static,
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (next, work) = (Arc::clone(&next), work.clone());
        readers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Relaxed);
                if index >= count {
                    return anyhow::Ok(done);
                }
                done.push((index, work(index).await?));
            }
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(done) = readers.join_next().await {
        all.extend(done.context("a reader of inboxes failed")??);
    }
    Ok(all)
}
