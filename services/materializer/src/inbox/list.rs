//! `GET /inbox`: one page; with `wait`, a long poll.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef as _, State};
use axum::response::{IntoResponse, Response};
use http_server::{Dialect, LongPollWait, Problem, QueryParams, RequestContext, Timestamp};
use schemas::ids::OrgId;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use tenancy::{Authenticator, Caller, PresentedKey, Right};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::advance_cursor::advance_cursor;
use super::bounds::{PartitionBounds, read_bounds};
use super::cursor::{InboxCursor, SortOrder, UnreadRange};
use super::item::{InboxItem, InboxRow};
use super::merge::{PartitionRows, merge};
use super::query::{self, COUNTED_EXACTLY, PartitionQuery};
use super::request::{ListDefaults, ListRequest};
use super::time_window::find_window;
use crate::state::{InboxState, ViewReadError};

/// How often a waiting read by status polls the view: a status changes without a new event.
const STATUS_RECHECK: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct InboxPage {
    events: Vec<InboxItem>,
    next_cursor: Option<String>,
    resume_cursor: String,
    has_more: bool,
    /// When the oldest event that can still be read was accepted.
    oldest_available: Option<Timestamp>,
    /// Whether events after the cursor expired before they were read. The page then starts at the oldest event.
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

struct ReadPage {
    rows: Vec<InboxRow>,
    has_more: bool,
    cursor: InboxCursor,
    oldest_at: Option<OffsetDateTime>,
    gap: bool,
}

pub(super) async fn list(
    State(state): State<InboxState>,
    caller: Caller,
    presented: PresentedKey,
    context: RequestContext,
    params: QueryParams,
) -> Result<Response, Problem> {
    caller.require(Right::Consume)?;
    let organization = caller.org_id;
    let mut request = ListRequest::parse(&params, defaults(context.dialect), &state.inbox.sealing, organization)?;
    request.filter.restrict(caller.event_types.as_deref());
    state.inbox.read_your_writes.catch_up(organization, &request.min_positions).await;
    let started = Instant::now();
    let page = read_or_wait(&state, organization, &request).await?;
    let waited = if request.wait.is_zero() { Duration::ZERO } else { started.elapsed() };
    if !waited.is_zero() {
        // A key that was revoked during the wait must not see later events.
        presented.authenticate_again(&Authenticator::from_ref(&state)).await?;
    }
    // Counted after the wait, because new events change the count.
    let open = match request.cursor {
        Some(_) => None,
        None => Some(count_open(&state, organization, caller.event_types.as_deref()).await?),
    };
    let mut response = Json(page_response(&state, organization, request, page, open)).into_response();
    response.extensions_mut().insert(LongPollWait(waited));
    Ok(response)
}

fn defaults(dialect: Dialect) -> ListDefaults {
    match dialect {
        Dialect::Canonical => ListDefaults { limit: 50, order: SortOrder::Ascending },
        Dialect::Api => ListDefaults { limit: 100, order: SortOrder::Descending },
    }
}

fn page_response(
    state: &InboxState,
    organization: OrgId,
    request: ListRequest,
    page: ReadPage,
    open: Option<i64>,
) -> InboxPage {
    let key = &state.inbox.sealing;
    let next_cursor = page.has_more.then(|| page.cursor.seal(key, organization));
    let total = open.map(|open| open.min(COUNTED_EXACTLY));
    InboxPage {
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
        events: page.rows.into_iter().map(|row| InboxItem::new(row, key, organization)).collect(),
    }
}

/// Reads a page. Reads an empty page again when an event arrives, until the request's wait is over or the process
/// stops.
async fn read_or_wait(state: &InboxState, organization: OrgId, request: &ListRequest) -> Result<ReadPage, Problem> {
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

async fn read(state: &InboxState, organization: OrgId, request: &ListRequest) -> Result<ReadPage, ViewReadError> {
    let reading = async { read_page(&mut *state.inbox.pool.acquire().await?, organization, request).await };
    state.inbox.within_budget(reading).await
}

async fn count_open(
    state: &InboxState,
    organization: OrgId,
    event_types: Option<&[String]>,
) -> Result<i64, ViewReadError> {
    let counting =
        async { query::count_open(&mut *state.inbox.pool.acquire().await?, organization, event_types).await };
    state.inbox.within_budget(counting).await
}

async fn read_page(
    connection: &mut PgConnection,
    organization: OrgId,
    request: &ListRequest,
) -> Result<ReadPage, sqlx::Error> {
    // Read before the rows: the filter excludes every event up to these offsets that is not on the page.
    let bounds = read_bounds(connection, organization).await?;
    let newest = bounds.newest();
    let mut cursor = request
        .cursor
        .as_ref()
        .map_or_else(|| InboxCursor::start(request.order, &newest), |(_, cursor)| cursor.clone());
    let gap = cursor.skip_dropped(&bounds.dropped, &bounds.oldest()) && request.cursor.is_some();
    let mut sources = Vec::with_capacity(bounds.partitions.len());
    for partition in bounds.partitions.iter().filter(|_| !request.filter.is_empty()) {
        if let Some(range) = cursor.range(partition.partition) {
            sources.push(read_partition(connection, organization, request, partition, range).await?);
        }
    }
    let merged = merge(sources, request.order, request.limit);
    // Events that a final filter excludes stay excluded: the next page need not read them again.
    let excluded_up_to = request.filter.is_final().then_some(&newest);
    advance_cursor(&mut cursor, &merged, InboxRow::epoch_offset, excluded_up_to);
    Ok(ReadPage {
        rows: merged.rows.into_iter().map(|(_, row)| row).collect(),
        has_more: merged.has_more,
        cursor,
        gap,
        oldest_at: bounds.partitions.iter().map(|partition| partition.oldest_at).min(),
    })
}

async fn read_partition(
    connection: &mut PgConnection,
    organization: OrgId,
    request: &ListRequest,
    bounds: &PartitionBounds,
    range: UnreadRange,
) -> Result<PartitionRows<InboxRow>, sqlx::Error> {
    // The usual poll: there is nothing new.
    if matches!(range, UnreadRange::After(Some(epoch_offset)) if epoch_offset >= bounds.newest) {
        return Ok(PartitionRows { partition: bounds.partition, rows: Vec::new(), more: false });
    }
    let window = find_window(connection, organization, bounds, &request.filter).await?;
    let query = PartitionQuery { organization, bounds, range, window, filter: &request.filter, limit: request.limit };
    query::read_events(connection, &query).await
}
