//! The SQL of an inbox page: the events of one partition, and the number of unacknowledged events. `list` makes the
//! page; `event` reads a single event.
//!
//! Every statement starts at the organization and walks an index in log order, so a page reads only what it returns,
//! at any depth.

use futures_util::TryStreamExt;
use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{FromRow, QueryBuilder};

use super::bounds::PartitionBounds;
use super::cursor::{EpochOffset, UnreadRange};
use super::item::{InboxRow, event_columns};
use super::merge::PartitionRows;
use super::page_bytes::PageBytes;
use super::request::{DeliveryStatus, Filter};
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

/// One statement per log epoch: the planner estimates a row comparison by its first column alone, expects no rows and
/// picks any index. The text holds only the conditions of the request: PostgreSQL uses a partial index only if the text
/// implies its predicate.
fn select(query: &PartitionQuery<'_>, log_epoch: i32, limit: usize) -> QueryBuilder<Postgres> {
    let order = match query.range {
        UnreadRange::After(_) => " ORDER BY log_offset LIMIT ",
        UnreadRange::Before(_) | UnreadRange::UpTo(_) => " ORDER BY log_offset DESC LIMIT ",
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut statement = QueryBuilder::new("");
    let indexes = indexes(query.filter);
    // PostgreSQL merges two indexes if each half has its own order and limit.
    for (number, predicate) in indexes.iter().enumerate() {
        match number {
            0 if indexes.len() == 1 => {}
            0 => drop(statement.push("(")),
            _ => drop(statement.push(" UNION ALL (")),
        }
        statement.push(concat!("SELECT ", event_columns!(), " FROM view.events WHERE "));
        push_range(&mut statement, query, log_epoch);
        push_filter(&mut statement, query.filter);
        statement.push(predicate).push(order).push_bind(limit);
        if indexes.len() > 1 {
            statement.push(")");
        }
    }
    if indexes.len() > 1 {
        statement.push(order).push_bind(limit);
    }
    statement
}

/// The predicates of the indexes in log order that have the events.
const fn indexes(filter: &Filter) -> &'static [&'static str] {
    const OPEN: &str = " AND acknowledged_at IS NULL";
    const ACKNOWLEDGED: &str = " AND acknowledged_at IS NOT NULL";
    match filter.status {
        _ if !filter.include_acknowledged => &[OPEN],
        // Retrying and failed events have an index of their own.
        Some(DeliveryStatus::Retrying | DeliveryStatus::Failed) => &[""],
        _ => &[OPEN, ACKNOWLEDGED],
    }
}

fn push_range(statement: &mut QueryBuilder<Postgres>, query: &PartitionQuery<'_>, log_epoch: i32) {
    statement.push("org_id = ").push_bind(query.organization.as_uuid());
    statement.push(" AND log_partition = ").push_bind(query.bounds.partition);
    statement.push(" AND log_epoch = ").push_bind(log_epoch);
    let mut bound = |comparison: &'static str, epoch_offset: EpochOffset| {
        if epoch_offset.log_epoch == log_epoch {
            statement.push(" AND log_offset ").push(comparison).push(" ").push_bind(epoch_offset.offset);
        } else if (comparison.starts_with('>') && epoch_offset.log_epoch > log_epoch)
            || (comparison.starts_with('<') && epoch_offset.log_epoch < log_epoch)
        {
            statement.push(" AND false");
        }
    };
    match query.range {
        UnreadRange::After(None) => {}
        UnreadRange::After(Some(epoch_offset)) => bound(">", epoch_offset),
        UnreadRange::Before(epoch_offset) => bound("<", epoch_offset),
        UnreadRange::UpTo(epoch_offset) => bound("<=", epoch_offset),
    }
    if let Some(floor) = query.window.floor {
        bound(">=", floor);
    }
    if let Some(ceiling) = query.window.ceiling {
        bound("<", ceiling);
    }
}

fn push_filter(statement: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(types) = &filter.event_types {
        statement.push(" AND event_type = ANY(").push_bind(types.clone()).push(")");
    }
    if let Some(since) = filter.since {
        statement.push(" AND accepted_at >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        statement.push(" AND accepted_at < ").push_bind(until);
    }
    match filter.status {
        None => {}
        // As text, not as parameters: the index on retrying and failed events is partial.
        Some(DeliveryStatus::Pending) => drop(statement.push(" AND delivery_status = 'pending'")),
        Some(DeliveryStatus::Retrying) => drop(statement.push(" AND delivery_status = 'retrying'")),
        Some(DeliveryStatus::Delivered) => drop(statement.push(" AND delivery_status = 'delivered'")),
        Some(DeliveryStatus::Failed) => drop(statement.push(" AND delivery_status = 'failed'")),
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
