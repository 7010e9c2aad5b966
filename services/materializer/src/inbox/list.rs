//! `GET /inbox`: one page, waited for when asked.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef as _, State};
use axum::response::{IntoResponse, Response};
use platform::http::{DeliberateWait, Dialect, Problem, QueryParams, RequestContext, Timestamp};
use schemas::ids::OrgId;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use tenancy::{Authenticator, Caller, Presented, Right};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::cursor::{Cursor, Order, Range};
use super::item::{EventRow, Item};
use super::merge::{Source, merge};
use super::page;
use super::query::{self, COUNTED_EXACTLY, Extent, Slice};
use super::request::{Defaults, ListRequest};
use super::seek;
use super::state::{InboxState, ReadError};

/// How often a read by status looks again while it waits: a status changes without anything arriving.
const STATUS_RECHECK: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Body {
    events: Vec<Item>,
    next_cursor: Option<String>,
    resume_cursor: String,
    has_more: bool,
    /// When the oldest event that can still be read was accepted.
    oldest_available: Option<Timestamp>,
    /// Events behind the cursor were dropped before they were read: their retention was over. The page begins at the
    /// oldest.
    gap: bool,
    pagination: Pagination,
}

#[derive(Serialize)]
struct Pagination {
    limit: usize,
    cursor: Option<String>,
    next_cursor: Option<String>,
    has_more: bool,
    total_undelivered: Option<i64>,
    total_count: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_is_lower_bound: bool,
}

/// What was read, and how far.
struct Page {
    rows: Vec<EventRow>,
    has_more: bool,
    cursor: Cursor,
    oldest_at: Option<OffsetDateTime>,
    gap: bool,
}

pub(super) async fn list(
    State(state): State<InboxState>,
    caller: Caller,
    presented: Presented,
    context: RequestContext,
    params: QueryParams,
) -> Result<Response, Problem> {
    caller.require(Right::Consume)?;
    let organization = caller.org_id;
    let mut request = ListRequest::parse(&params, defaults(context.dialect), &state.inbox.sealing, organization)?;
    request.filter.restrict(caller.event_types.as_deref());
    state.inbox.read_your_writes.catch_up(organization, &request.min_positions).await;
    let begun = Instant::now();
    let page = read_or_wait(&state, organization, &request).await?;
    let waited = if request.wait.is_zero() { Duration::ZERO } else { begun.elapsed() };
    if !waited.is_zero() {
        // A key that was revoked meanwhile gets nothing of what came after.
        presented.still_counts(&Authenticator::from_ref(&state)).await?;
    }
    // Counted last: what is waited for changes the count.
    let open = match request.cursor {
        Some(_) => None,
        None => Some(count_open(&state, organization, caller.event_types.as_deref()).await?),
    };
    let mut response = Json(body(&state, organization, request, page, open)).into_response();
    response.extensions_mut().insert(DeliberateWait(waited));
    Ok(response)
}

fn defaults(dialect: Dialect) -> Defaults {
    match dialect {
        Dialect::Canonical => Defaults { limit: 50, order: Order::Ascending },
        Dialect::Api => Defaults { limit: 100, order: Order::Descending },
    }
}

fn body(state: &InboxState, organization: OrgId, request: ListRequest, page: Page, open: Option<i64>) -> Body {
    let key = &state.inbox.sealing;
    let next_cursor = page.has_more.then(|| page.cursor.seal(key, organization));
    let total = open.map(|open| open.min(COUNTED_EXACTLY));
    Body {
        resume_cursor: page.cursor.resume().seal(key, organization),
        has_more: page.has_more,
        oldest_available: page.oldest_at.map(Timestamp),
        gap: page.gap,
        pagination: Pagination {
            limit: request.limit,
            cursor: request.cursor.map(|(token, _)| token),
            next_cursor: next_cursor.clone(),
            has_more: page.has_more,
            total_undelivered: total,
            total_count: total,
            total_is_lower_bound: open.is_some_and(|open| open > COUNTED_EXACTLY),
        },
        next_cursor,
        events: page.rows.into_iter().map(|row| Item::new(row, key, organization)).collect(),
    }
}

/// Reads a page; an empty one is read again when something arrives, until the request's wait is over or the process
/// stops.
async fn read_or_wait(state: &InboxState, organization: OrgId, request: &ListRequest) -> Result<Page, Problem> {
    let deadline = Instant::now() + request.wait;
    let page = read(state, organization, request).await?;
    if !page.rows.is_empty() || request.wait.is_zero() {
        return Ok(page);
    }
    let Some(mut waiter) = state.inbox.notifier.wait_for(organization) else {
        return Err(Problem::unavailable("too many requests are waiting for events; come again, or leave wait out", 1));
    };
    loop {
        let page = read(state, organization, request).await?;
        if !page.rows.is_empty() || Instant::now() >= deadline {
            return Ok(page);
        }
        let recheck = request.filter.status.map_or(deadline, |_| deadline.min(Instant::now() + STATUS_RECHECK));
        tokio::select! {
            () = state.shutdown.cancelled() => return Ok(page),
            () = waiter.notified() => {}
            () = tokio::time::sleep_until(recheck) => {}
        }
    }
}

async fn read(state: &InboxState, organization: OrgId, request: &ListRequest) -> Result<Page, ReadError> {
    let reading = async { read_page(&mut *state.inbox.pool.acquire().await?, organization, request).await };
    state.inbox.within_budget(reading).await
}

async fn count_open(state: &InboxState, organization: OrgId, event_types: Option<&[String]>) -> Result<i64, ReadError> {
    let counting =
        async { query::count_open(&mut *state.inbox.pool.acquire().await?, organization, event_types).await };
    state.inbox.within_budget(counting).await
}

async fn read_page(
    connection: &mut PgConnection,
    organization: OrgId,
    request: &ListRequest,
) -> Result<Page, sqlx::Error> {
    // Read before the rows: whatever lies at or before these heads and is not on the page was not wanted.
    let holdings = query::holdings(connection, organization).await?;
    let heads = holdings.heads();
    let mut cursor =
        request.cursor.as_ref().map_or_else(|| Cursor::start(request.order, &heads), |(_, cursor)| cursor.clone());
    let gap = cursor.skip(&holdings.dropped, &holdings.oldest()) && request.cursor.is_some();
    let mut sources = Vec::with_capacity(holdings.extents.len());
    for extent in holdings.extents.iter().filter(|_| !request.filter.is_empty()) {
        if let Some(range) = cursor.range(extent.partition) {
            sources.push(read_partition(connection, organization, request, extent, range).await?);
        }
    }
    let merged = merge(sources, request.order, request.limit);
    // What did not pass a final filter never will: the next page need not go over it again.
    let passed = request.filter.is_final().then_some(&heads);
    page::turn(&mut cursor, &merged, EventRow::mark, passed);
    Ok(Page {
        rows: merged.rows.into_iter().map(|(_, row)| row).collect(),
        has_more: merged.has_more,
        cursor,
        gap,
        oldest_at: holdings.extents.iter().map(|extent| extent.oldest_at).min(),
    })
}

async fn read_partition(
    connection: &mut PgConnection,
    organization: OrgId,
    request: &ListRequest,
    extent: &Extent,
    range: Range,
) -> Result<Source<EventRow>, sqlx::Error> {
    // The usual poll: everything was read already.
    if matches!(range, Range::After(Some(mark)) if mark >= extent.newest) {
        return Ok(Source { partition: extent.partition, rows: Vec::new(), more: false });
    }
    let window = seek::window(connection, organization, extent, &request.filter).await?;
    let slice = Slice { organization, extent, range, window, filter: &request.filter, limit: request.limit };
    query::rows(connection, &slice).await
}
