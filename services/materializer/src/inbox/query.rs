//! Reads what an inbox page needs: the events of one partition, and the number of unacknowledged events. `select` has
//! the statement, `list` makes the page; `event` reads a single event.
//!
//! Every statement starts at the organization and walks an index in log order, so a page reads only what it returns,
//! at any depth.

use futures_util::TryStreamExt;
use schemas::ids::OrgId;
use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::bounds::PartitionBounds;
use super::cursor::UnreadRange;
use super::item::InboxRow;
use super::merge::PartitionRows;
use super::page_bytes::PageBytes;
use super::request::Filter;
use super::select::select;
use super::time_window::OffsetWindow;
use tenancy::ReadError;

/// Unacknowledged events are counted exactly up to this number.
pub(super) const COUNTED_EXACTLY: i64 = 10_000;

/// What to read of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartitionQuery<'a> {
    pub organization: OrgId,
    pub bounds: &'a PartitionBounds,
    /// Where to start, and the direction.
    pub range: UnreadRange,
    /// The offsets that `since` and `until` leave.
    pub window: OffsetWindow,
    pub filter: &'a Filter,
    /// At most this many.
    pub limit: usize,
    /// At most this many bytes, but at least one event.
    pub max_bytes: usize,
}

pub(super) async fn read_events(
    connection: &mut PgConnection,
    query: &PartitionQuery<'_>,
    page: &mut PageBytes,
) -> Result<PartitionRows<InboxRow>, ReadError> {
    let mut source = PartitionRows { partition: query.bounds.partition, rows: Vec::new(), more: false };
    let mut bytes = 0;
    for log_epoch in query.log_epochs() {
        let mut statement = select(query, log_epoch, query.limit - source.rows.len());
        let mut stream = statement.build().fetch(&mut *connection);
        while let Some(row) = stream.try_next().await? {
            // One row more than asked for was selected, to see whether there is one.
            if source.rows.len() == query.limit {
                source.more = true;
                return Ok(source);
            }
            let row = InboxRow::from_row(&row)?;
            bytes += row.bytes();
            if bytes > query.max_bytes && !source.rows.is_empty() {
                source.more = true;
                return Ok(source);
            }
            page.add(row.bytes())?;
            source.rows.push((row.accepted_at, row));
        }
    }
    Ok(source)
}

impl PartitionQuery<'_> {
    /// The log epochs to read, in reading order; nearly always one.
    fn log_epochs(&self) -> Vec<i32> {
        let (oldest, newest) = (self.bounds.oldest.log_epoch, self.bounds.newest.log_epoch);
        match self.range {
            UnreadRange::After(epoch_offset) => {
                (epoch_offset.map_or(oldest, |epoch_offset| epoch_offset.log_epoch.max(oldest))..=newest).collect()
            }
            UnreadRange::Before(epoch_offset) | UnreadRange::UpTo(epoch_offset) => {
                (oldest..=epoch_offset.log_epoch.min(newest)).rev().collect()
            }
        }
    }
}

/// Counts the organization's open events of these types (all without a list), but stops above [`COUNTED_EXACTLY`].
pub(super) async fn count_open(
    connection: &mut PgConnection,
    organization: OrgId,
    event_types: Option<&[String]>,
) -> Result<i64, sqlx::Error> {
    let query = match event_types {
        None => sqlx::query_scalar(
            "SELECT count(*) FROM (
                 SELECT FROM view.events WHERE org_id = $1 AND acknowledged_at IS NULL LIMIT $2) AS open",
        ),
        Some(_) => sqlx::query_scalar(
            "SELECT count(*) FROM (
                 SELECT FROM view.events
                 WHERE org_id = $1 AND acknowledged_at IS NULL AND event_type = ANY($3) LIMIT $2) AS open",
        ),
    };
    let query = query.bind(organization.as_uuid()).bind(COUNTED_EXACTLY + 1);
    match event_types {
        None => query.fetch_one(connection).await,
        Some(types) => query.bind(types).fetch_one(connection).await,
    }
}
