//! The SQL of the inbox: which partitions an organization has, a slice of one of them, and how many events are open. What is done with the
//! rows lives in `list`; a single event is read in `event`.
//!
//! Every statement begins at the organization and walks an index in log order, so a page costs what it returns, at any depth.

use futures_util::TryStreamExt;
use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{FromRow, QueryBuilder};
use time::OffsetDateTime;

use super::cursor::{Mark, Marks, Range};
use super::item::{EventRow, event_columns};
use super::merge::Source;
use super::request::{DeliveryStatus, Filter};
use super::seek::Window;

/// Payload bytes after which a page ends early, so that a thousand large events do not become one answer.
const PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Up to here open events are counted exactly.
pub const COUNTED_EXACTLY: i64 = 10_000;

/// What the view holds of one partition for an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which partition.
    pub partition: i32,
    /// When its oldest event was accepted.
    pub oldest_at: OffsetDateTime,
    /// Its newest event.
    pub newest: Mark,
}

/// The newest event of each partition.
pub fn heads(extents: &[Extent]) -> Marks {
    extents.iter().map(|extent| (extent.partition, extent.newest)).collect()
}

/// The partitions that the organization has events in; normally one. PostgreSQL knows no skip scan: the recursion is one.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn extents(connection: &mut PgConnection, organization: OrgId) -> Result<Vec<Extent>, sqlx::Error> {
    let rows: Vec<(i32, OffsetDateTime, i32, i64)> = sqlx::query_as(
        "WITH RECURSIVE partitions AS (
             (SELECT log_partition FROM view.events WHERE org_id = $1 ORDER BY log_partition LIMIT 1)
             UNION ALL
             SELECT (SELECT e.log_partition FROM view.events e WHERE e.org_id = $1 AND e.log_partition > p.log_partition
                     ORDER BY e.log_partition LIMIT 1)
             FROM partitions p WHERE p.log_partition IS NOT NULL
         )
         SELECT p.log_partition, oldest.accepted_at, newest.log_epoch, newest.log_offset
         FROM partitions p
         CROSS JOIN LATERAL (SELECT e.accepted_at FROM view.events e WHERE e.org_id = $1 AND e.log_partition = p.log_partition
                             ORDER BY e.log_epoch, e.log_offset LIMIT 1) AS oldest
         CROSS JOIN LATERAL (SELECT e.log_epoch, e.log_offset FROM view.events e WHERE e.org_id = $1 AND e.log_partition = p.log_partition
                             ORDER BY e.log_epoch DESC, e.log_offset DESC LIMIT 1) AS newest
         WHERE p.log_partition IS NOT NULL",
    )
    .bind(organization.as_uuid())
    .fetch_all(connection)
    .await?;
    let extent = |(partition, oldest_at, log_epoch, offset)| Extent { partition, oldest_at, newest: Mark { log_epoch, offset } };
    Ok(rows.into_iter().map(extent).collect())
}

/// What to read of one partition.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    /// Whose.
    pub organization: OrgId,
    /// Which partition.
    pub partition: i32,
    /// Where to begin, and in which direction to go.
    pub range: Range,
    /// The part of the partition that the wanted times lie in.
    pub window: Window,
    /// Which events.
    pub filter: &'a Filter,
    /// At most this many.
    pub limit: usize,
}

/// Reads a slice.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn rows(connection: &mut PgConnection, slice: &Slice<'_>) -> Result<Source<EventRow>, sqlx::Error> {
    let mut statement = select(slice);
    let mut stream = statement.build().fetch(connection);
    let mut source = Source { partition: slice.partition, rows: Vec::new(), more: false };
    let mut bytes = 0;
    while let Some(row) = stream.try_next().await? {
        // One row more than asked for was selected, to see whether there is one.
        if source.rows.len() == slice.limit || bytes >= PAGE_BYTES {
            source.more = true;
            break;
        }
        let row = EventRow::from_row(&row)?;
        bytes += row.payload_bytes();
        source.rows.push((row.accepted_at, row));
    }
    Ok(source)
}

/// Conditions are written out only where they are asked for: the partial indexes are used only when the text itself implies them.
fn select(slice: &Slice<'_>) -> QueryBuilder<Postgres> {
    let mut statement = QueryBuilder::new(concat!("SELECT ", event_columns!(), " FROM view.events WHERE org_id = "));
    statement.push_bind(slice.organization.as_uuid()).push(" AND log_partition = ").push_bind(slice.partition);
    let direction = match slice.range {
        Range::After(mark) => {
            if let Some(mark) = mark {
                push_bound(&mut statement, ">", mark);
            }
            ""
        }
        Range::Before(mark) => {
            push_bound(&mut statement, "<", mark);
            " DESC"
        }
        Range::UpTo(mark) => {
            push_bound(&mut statement, "<=", mark);
            " DESC"
        }
    };
    if let Some(floor) = slice.window.floor {
        push_bound(&mut statement, ">=", floor);
    }
    if let Some(ceiling) = slice.window.ceiling {
        push_bound(&mut statement, "<", ceiling);
    }
    push_filter(&mut statement, slice.filter);
    statement.push(" ORDER BY log_epoch").push(direction).push(", log_offset").push(direction).push(" LIMIT ");
    statement.push_bind(i64::try_from(slice.limit).unwrap_or(i64::MAX).saturating_add(1));
    statement
}

fn push_bound(statement: &mut QueryBuilder<Postgres>, comparison: &'static str, mark: Mark) {
    statement.push(" AND (log_epoch, log_offset) ").push(comparison).push(" (").push_bind(mark.log_epoch);
    statement.push(", ").push_bind(mark.offset).push(")");
}

fn push_filter(statement: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if !filter.include_acknowledged {
        statement.push(" AND acknowledged_at IS NULL");
    }
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
        // As text, not as parameters: the index on troubled events is a partial one.
        Some(DeliveryStatus::Pending) => drop(statement.push(" AND delivery_status = 'pending'")),
        Some(DeliveryStatus::Retrying) => drop(statement.push(" AND delivery_status = 'retrying'")),
        Some(DeliveryStatus::Delivered) => drop(statement.push(" AND delivery_status = 'delivered'")),
        Some(DeliveryStatus::Failed) => drop(statement.push(" AND delivery_status = 'failed'")),
    }
}

/// Counts the organization's open events of these types (all without a list), but stops above [`COUNTED_EXACTLY`].
///
/// # Errors
/// As PostgreSQL has them.
pub async fn count_open(connection: &mut PgConnection, organization: OrgId, event_types: Option<&[String]>) -> Result<i64, sqlx::Error> {
    let query = match event_types {
        None => sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT FROM view.events WHERE org_id = $1 AND acknowledged_at IS NULL LIMIT $2) AS open",
        ),
        Some(_) => sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT FROM view.events WHERE org_id = $1 AND acknowledged_at IS NULL AND event_type = ANY($3)
                                   LIMIT $2) AS open",
        ),
    };
    let query = query.bind(organization.as_uuid()).bind(COUNTED_EXACTLY + 1);
    match event_types {
        None => query.fetch_one(connection).await,
        Some(types) => query.bind(types).fetch_one(connection).await,
    }
}
