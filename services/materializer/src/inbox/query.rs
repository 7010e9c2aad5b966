//! The SQL of the inbox: which partitions an organization has, a slice of one of them, and how many events are open.
//! What is done with the rows lives in `list`; a single event is read in `event`.
//!
//! Every statement begins at the organization and walks an index in log order, so a page costs what it returns, at any
//! depth.

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
pub(super) const COUNTED_EXACTLY: i64 = 10_000;

/// What the view holds of one partition for an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub partition: i32,
    /// When its oldest event was accepted.
    pub oldest_at: OffsetDateTime,
    pub oldest: Mark,
    pub newest: Mark,
}

/// What the view holds of an organization, and what it held before its retention was over.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Partitions with events; normally one.
    pub extents: Vec<Extent>,
    /// The newest event of each partition that was dropped.
    pub dropped: Marks,
}

impl Holdings {
    /// The oldest event of each partition that is still there.
    pub(super) fn oldest(&self) -> Marks {
        self.extents.iter().map(|extent| (extent.partition, extent.oldest)).collect()
    }

    /// The newest event of each partition, also where it was dropped.
    pub(super) fn heads(&self) -> Marks {
        let mut heads = self.dropped.clone();
        heads.extend(self.extents.iter().map(|extent| (extent.partition, extent.newest)));
        heads
    }
}

/// What there is of the organization. PostgreSQL knows no skip scan: the recursion is one.
pub(super) async fn holdings(connection: &mut PgConnection, organization: OrgId) -> Result<Holdings, sqlx::Error> {
    // Partition and newest place; when the oldest was accepted and its place, where it is still there.
    type HeldRow = (i32, i32, i64, Option<OffsetDateTime>, Option<i32>, Option<i64>);
    let rows: Vec<HeldRow> = sqlx::query_as(
        "WITH RECURSIVE partitions AS (
             (SELECT log_partition FROM view.events WHERE org_id = $1 ORDER BY log_partition LIMIT 1)
             UNION ALL
             SELECT (SELECT e.log_partition FROM view.events e WHERE e.org_id = $1 AND e.log_partition > p.log_partition
                     ORDER BY e.log_partition LIMIT 1)
             FROM partitions p WHERE p.log_partition IS NOT NULL
         )
         SELECT p.log_partition, newest.log_epoch, newest.log_offset, oldest.accepted_at, oldest.log_epoch, oldest.log_offset
         FROM partitions p
         CROSS JOIN LATERAL (SELECT e.accepted_at, e.log_epoch, e.log_offset FROM view.events e WHERE e.org_id = $1 AND e.log_partition = p.log_partition
                             ORDER BY e.log_epoch, e.log_offset LIMIT 1) AS oldest
         CROSS JOIN LATERAL (SELECT e.log_epoch, e.log_offset FROM view.events e WHERE e.org_id = $1 AND e.log_partition = p.log_partition
                             ORDER BY e.log_epoch DESC, e.log_offset DESC LIMIT 1) AS newest
         WHERE p.log_partition IS NOT NULL
         UNION ALL
         SELECT log_partition, log_epoch, log_offset, NULL, NULL, NULL FROM retention_gaps WHERE org_id = $1",
    )
    .bind(organization.as_uuid())
    .fetch_all(connection)
    .await?;
    let mut holdings = Holdings::default();
    for (partition, log_epoch, offset, oldest_at, oldest_epoch, oldest_offset) in rows {
        let newest = Mark { log_epoch, offset };
        match (oldest_at, oldest_epoch, oldest_offset) {
            (Some(oldest_at), Some(log_epoch), Some(offset)) => {
                holdings.extents.push(Extent { partition, oldest_at, oldest: Mark { log_epoch, offset }, newest });
            }
            _ => drop(holdings.dropped.insert(partition, newest)),
        }
    }
    Ok(holdings)
}

/// What to read of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice<'a> {
    pub organization: OrgId,
    /// Which partition, and what is in it.
    pub extent: &'a Extent,
    /// Where to begin, and in which direction to go.
    pub range: Range,
    /// The part of the partition that the wanted times lie in.
    pub window: Window,
    pub filter: &'a Filter,
    /// At most this many.
    pub limit: usize,
}

pub(super) async fn rows(connection: &mut PgConnection, slice: &Slice<'_>) -> Result<Source<EventRow>, sqlx::Error> {
    let mut source = Source { partition: slice.extent.partition, rows: Vec::new(), more: false };
    let mut bytes = 0;
    for log_epoch in slice.log_epochs() {
        let mut statement = select(slice, log_epoch, slice.limit - source.rows.len());
        let mut stream = statement.build().fetch(&mut *connection);
        while let Some(row) = stream.try_next().await? {
            // One row more than asked for was selected, to see whether there is one.
            if source.rows.len() == slice.limit || bytes >= PAGE_BYTES {
                source.more = true;
                return Ok(source);
            }
            let row = EventRow::from_row(&row)?;
            bytes += row.payload_bytes();
            source.rows.push((row.accepted_at, row));
        }
    }
    Ok(source)
}

impl Slice<'_> {
    /// The log epochs to read, in the order of the reading; nearly always one.
    fn log_epochs(&self) -> Vec<i32> {
        let (oldest, newest) = (self.extent.oldest.log_epoch, self.extent.newest.log_epoch);
        match self.range {
            Range::After(mark) => (mark.map_or(oldest, |mark| mark.log_epoch.max(oldest))..=newest).collect(),
            Range::Before(mark) | Range::UpTo(mark) => (oldest..=mark.log_epoch.min(newest)).rev().collect(),
        }
    }
}

/// One statement per log epoch: the planner takes a comparison of both columns for one of the first alone, and so
/// expects no rows at all and picks any index. Conditions are written out only where they are asked for: the partial
/// indexes are used only when the text itself implies them.
fn select(slice: &Slice<'_>, log_epoch: i32, limit: usize) -> QueryBuilder<Postgres> {
    let mut statement = QueryBuilder::new(concat!("SELECT ", event_columns!(), " FROM view.events WHERE org_id = "));
    statement.push_bind(slice.organization.as_uuid()).push(" AND log_partition = ").push_bind(slice.extent.partition);
    statement.push(" AND log_epoch = ").push_bind(log_epoch);
    let mut bound = |comparison: &'static str, mark: Mark| {
        if mark.log_epoch == log_epoch {
            statement.push(" AND log_offset ").push(comparison).push(" ").push_bind(mark.offset);
        } else if (comparison.starts_with('>') && mark.log_epoch > log_epoch)
            || (comparison.starts_with('<') && mark.log_epoch < log_epoch)
        {
            statement.push(" AND false");
        }
    };
    let direction = match slice.range {
        Range::After(mark) => {
            if let Some(mark) = mark {
                bound(">", mark);
            }
            ""
        }
        Range::Before(mark) => {
            bound("<", mark);
            " DESC"
        }
        Range::UpTo(mark) => {
            bound("<=", mark);
            " DESC"
        }
    };
    if let Some(floor) = slice.window.floor {
        bound(">=", floor);
    }
    if let Some(ceiling) = slice.window.ceiling {
        bound("<", ceiling);
    }
    push_filter(&mut statement, slice.filter);
    statement.push(" ORDER BY log_offset").push(direction).push(" LIMIT ");
    statement.push_bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
    statement
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
pub(super) async fn count_open(
    connection: &mut PgConnection,
    organization: OrgId,
    event_types: Option<&[String]>,
) -> Result<i64, sqlx::Error> {
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
