//! `GET /inbox`: one page; with `wait`, a long poll.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef as _, State};
use axum::response::{IntoResponse, Response};
use http_server::{Dialect, LongPollWait, Problem, QueryParams, RequestContext, ResponseReservation, Timestamp};
use schemas::ids::OrgId;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use tenancy::{Authenticator, Caller, Consumer, PresentedKey, ReadError};
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::advance_cursor::advance_cursor;
use super::bounds::read_bounds;
use super::cursor::{InboxCursor, SortOrder, UnreadRange};
use super::item::{InboxItem, InboxRow, event_example};
use super::merge::{PartitionRows, merge};
use super::page_bytes::{PAGE_BYTES, PageBytes};
use super::query::{self, COUNTED_EXACTLY, PartitionQuery};
use super::request::{DeliveryStatus, ListDefaults, ListRequest};
use super::time_window::find_window;
use crate::position_token;
use crate::state::InboxState;

/// How often a waiting read by status polls the view: a status changes without a new event.
const STATUS_RECHECK: Duration = Duration::from_millis(500);
/// Because it asks the database twice a second, a waiting read by status counts like this many that wait for events.
const STATUS_POLL_PLACES: u64 = 50;

/// A page of the inbox.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "events": [event_example()],
    "next_cursor": null,
    "resume_cursor": "AQIDBAUGBwg",
    "has_more": false,
    "oldest_available": "2026-11-21T09:00:00.123Z",
    "gap": false,
    "pagination": {
        "limit": 50,
        "cursor": null,
        "next_cursor": null,
        "has_more": false,
        "total_undelivered": 1,
        "total_count": 1
    }
}))]
struct InboxPage {
    events: Vec<InboxItem>,
    /// Continues after this page; null without more.
    next_cursor: Option<String>,
    /// Continues after this page, also with events that arrive later.
    resume_cursor: String,
    has_more: bool,
    /// When the oldest event that can still be read was accepted.
    oldest_available: Option<Timestamp>,
    /// Whether events after the cursor expired before they were read. The page then starts at the oldest event.
    gap: bool,
    pagination: Pagination,
}

#[derive(Serialize, ToSchema)]
struct Pagination {
    limit: usize,
    /// The cursor of the request.
    cursor: Option<String>,
    /// As above.
    next_cursor: Option<String>,
    /// As above.
    has_more: bool,
    /// Events that are not acknowledged, exact up to 10,000; null on a page with a cursor.
    total_undelivered: Option<i64>,
    /// The same as `total_undelivered`.
    total_count: Option<i64>,
    /// True if there are, or a second ago were, more than 10,000; else absent.
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

impl ReadPage {
    /// Its events that are not acknowledged.
    fn open(&self) -> i64 {
        let open = self.rows.iter().filter(|row| row.acknowledged_at.is_none()).count();
        i64::try_from(open).unwrap_or(i64::MAX)
    }
}

/// Read the inbox
///
/// Events that are not acknowledged, oldest first. Store `resume_cursor` after each page and go on from there: no event
/// is skipped or repeated. A page has 2 MiB at most. With `wait`, an empty page waits for the first event.
#[utoipa::path(
    get, path = "/inbox", operation_id = "list_inbox", tag = "Consuming",
    params(
        ("limit" = Option<i64>, Query, description = "Events on a page. Default 50.", minimum = 1, maximum = 1000,
            example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` or `resume_cursor` of an earlier page."),
        ("order" = inline(Option<SortOrder>), Query, example = "asc",
            description = "By the time of acceptance. Default asc."),
        ("event_type" = Option<Vec<String>>, Query, description = "One of these types.", max_items = 100,
            example = json!(["order.created"])),
        ("status" = Option<DeliveryStatus>, Query, description = "Summary of the deliveries.", example = "failed"),
        ("since" = Option<Timestamp>, Query, description = "Accepted at this time or later.",
            example = "2026-11-21T09:00:00Z"),
        ("until" = Option<Timestamp>, Query, description = "Accepted before this time.",
            example = "2026-11-22T09:00:00Z"),
        ("include_acknowledged" = Option<bool>, Query, description = "Acknowledged events too.", example = true),
        ("min_position" = Option<Vec<String>>, Query, max_items = 100,
            description = "`position` of accepted events: the page is read when they can be seen."),
        ("wait" = Option<i64>, Query, description = "Seconds to wait for a first event.", minimum = 0, maximum = 30,
            example = 20),
    ),
    responses((status = 200, description = "A page.", body = InboxPage)),
    security(("key" = ["consume"])),
)]
pub(super) async fn list(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    presented: PresentedKey,
    context: RequestContext,
    params: QueryParams,
) -> Result<Response, Problem> {
    let organization = caller.org_id;
    let mut request = ListRequest::parse(&params, defaults(context.dialect), &state.inbox.sealing, organization)?;
    let lists_all_open = request.cursor.is_none() && request.filter.lists_all_open();
    request.filter.restrict(caller.event_types.as_deref());
    state.inbox.read_your_writes.catch_up(organization, &request.min_positions).await;
    let started = Instant::now();
    let page = read_or_wait(&state, &caller, &request).await?;
    let waited = if request.wait.is_zero() { Duration::ZERO } else { started.elapsed() };
    if !waited.is_zero() {
        // A key that was revoked during the wait must not see later events.
        presented.authenticate_again(&Authenticator::from_ref(&state)).await?;
    }
    let (page, reservation) = page;
    // Counted after the wait, because new events change the count.
    let open = match request.cursor {
        Some(_) => None,
        None if lists_all_open && !page.has_more => Some(page.open()),
        None => Some(count_open(&state, &caller).await?),
    };
    let mut response = Json(page_response(&state, organization, request, page, open)).into_response();
    if let Some(reservation) = reservation {
        response.extensions_mut().insert(reservation);
    }
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
    let mut tokens = position_token::tokens(key, organization);
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
        events: page.rows.into_iter().map(|row| InboxItem::new(row, &mut tokens)).collect(),
    }
}

/// A page, and what it takes of the response budget.
type CountedPage = (ReadPage, Option<ResponseReservation>);

/// Reads a page. Reads an empty page again when an event arrives, until the request's wait is over or the process
/// stops.
async fn read_or_wait(state: &InboxState, caller: &Caller, request: &ListRequest) -> Result<CountedPage, Problem> {
    let deadline = Instant::now() + request.wait;
    let page = read(state, caller, request).await?;
    if !page.0.rows.is_empty() || request.wait.is_zero() {
        return Ok(page);
    }
    let places = if request.filter.status.is_some() { STATUS_POLL_PLACES } else { 1 };
    let permits = caller.shares().take_long_poll(caller.key_id, places)?;
    let mut waiter = state.inbox.notifier.wait_for(caller.org_id, permits);
    loop {
        let page = read(state, caller, request).await?;
        if !page.0.rows.is_empty() || Instant::now() >= deadline {
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

async fn read(state: &InboxState, caller: &Caller, request: &ListRequest) -> Result<CountedPage, ReadError> {
    let mut bytes = PageBytes::new(caller.shares().holder());
    let reading =
        async { read_page(&mut *state.inbox.pool.acquire().await?, caller.org_id, request, &mut bytes).await };
    let page = caller.shares().read(reading).await?;
    Ok((page, bytes.into_reservation()))
}

async fn count_open(state: &InboxState, caller: &Caller) -> Result<i64, ReadError> {
    if state.inbox.many_open.has(caller.key_id) {
        return Ok(COUNTED_EXACTLY + 1);
    }
    let counting = async {
        let types = caller.event_types.as_deref();
        query::count_open(&mut *state.inbox.pool.acquire().await?, caller.org_id, types).await
    };
    let open = caller.shares().read(counting).await?;
    if open > COUNTED_EXACTLY {
        state.inbox.many_open.note(caller.key_id);
    }
    Ok(open)
}

async fn read_page(
    connection: &mut PgConnection,
    organization: OrgId,
    request: &ListRequest,
    bytes: &mut PageBytes,
) -> Result<ReadPage, ReadError> {
    // Read before the rows: the filter excludes every event up to these offsets that is not on the page.
    let bounds = read_bounds(connection, organization).await?;
    let newest = bounds.newest();
    let mut cursor = request
        .cursor
        .as_ref()
        .map_or_else(|| InboxCursor::start(request.order, &newest), |(_, cursor)| cursor.clone());
    let gap = cursor.skip_dropped(&bounds.dropped, &bounds.oldest()) && request.cursor.is_some();
    let mut sources = Vec::with_capacity(bounds.partitions.len());
    // An organization has events in several partitions only after partitions were added.
    let max_bytes = PAGE_BYTES / bounds.partitions.len().max(1);
    for partition in bounds.partitions.iter().filter(|_| !request.filter.is_empty()) {
        if let Some(range) = cursor.range(partition.partition) {
            let window = find_window(connection, organization, partition, &request.filter).await?;
            let limit = request.limit;
            let filter = &request.filter;
            let query = PartitionQuery { organization, bounds: partition, range, window, filter, limit, max_bytes };
            sources.push(read_partition(connection, &query, bytes).await?);
        }
    }
    let mut page_bytes = 0;
    let merged = merge(sources, request.order, request.limit, |row: &InboxRow| {
        page_bytes += row.bytes();
        page_bytes <= PAGE_BYTES
    });
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
    query: &PartitionQuery<'_>,
    bytes: &mut PageBytes,
) -> Result<PartitionRows<InboxRow>, ReadError> {
    // The usual poll: there is nothing new.
    if matches!(query.range, UnreadRange::After(Some(epoch_offset)) if epoch_offset >= query.bounds.newest) {
        return Ok(PartitionRows { partition: query.bounds.partition, rows: Vec::new(), more: false });
    }
    query::read_events(connection, query, bytes).await
}
