//! Finds the offsets of a partition that a time window covers, by binary search. Without it, a window deep in a long
//! inbox would read every event before it. The page's statement compares the times again.
//!
//! Pruning by time partition cannot replace it. A time partition holds days of events (5 of 30), and the index of the
//! page is in log order: within a time partition everything between the cursor and the window is read and thrown away.
//! Measured: 29,998 rows for a page of 50 in the middle of 60,000 events, 59,971 for the last page of a window at
//! their beginning. An index on (org_id, log_partition, accepted_at) would find each bound with one probe; but every
//! event and every acknowledgement would have to write it, for a filter that few requests use.

use schemas::events_in_log_order;
use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use time::{Duration, OffsetDateTime};

use super::bounds::PartitionBounds;
use super::cursor::EpochOffset;
use super::request::Filter;

/// How far append times of one partition may step back (another broker takes over, its clock is behind) without
/// missing a row.
const CLOCK_STEP: Duration = Duration::minutes(10);

/// Offset bounds within one partition; `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OffsetWindow {
    /// First offset of the window.
    pub floor: Option<EpochOffset>,
    /// First offset after the window.
    pub ceiling: Option<EpochOffset>,
}

/// The window of `filter` in the partition of `bounds`.
pub(super) async fn find_window(
    connection: &mut PgConnection,
    organization: OrgId,
    bounds: &PartitionBounds,
    filter: &Filter,
) -> Result<OffsetWindow, sqlx::Error> {
    let log_epoch = bounds.newest.log_epoch;
    let mut window = OffsetWindow::default();
    if let Some(since) = filter.since {
        let (first, found) =
            first_offset_since(connection, organization, bounds, since.saturating_sub(CLOCK_STEP)).await?;
        // When all of the newest log epoch is wanted, older epochs may hold more of it.
        window.floor = (found > first).then_some(EpochOffset { log_epoch, offset: found });
    }
    if let Some(until) = filter.until {
        let (_, found) = first_offset_since(connection, organization, bounds, until.saturating_add(CLOCK_STEP)).await?;
        window.ceiling = Some(EpochOffset { log_epoch, offset: found });
    }
    Ok(window)
}

/// Within the partition's newest log epoch: the offset of the first event, and the least offset from which on every
/// event was accepted at `time` or later. One probe halves the range: some thirty for a billion offsets.
async fn first_offset_since(
    connection: &mut PgConnection,
    organization: OrgId,
    bounds: &PartitionBounds,
    time: OffsetDateTime,
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(concat!(
        "WITH RECURSIVE first AS ",
        events_in_log_order!(
            SELECT "e.log_offset" FROM "view.events"
            WHERE "e.org_id = $1 AND e.log_partition = $2 AND e.log_epoch = $3" ORDER BY "log_offset" LIMIT "1"
        ),
        ", search (low, high) AS (
             SELECT first.log_offset, $4 + 1 FROM first
             UNION ALL
             SELECT CASE WHEN probe.accepted_at < $5 THEN probe.log_offset + 1 ELSE s.low END,
                    CASE WHEN probe.accepted_at < $5 THEN s.high ELSE (s.low + s.high) / 2 END
             FROM search s CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.accepted_at, e.log_offset" FROM "view.events"
            WHERE "e.org_id = $1 AND e.log_partition = $2 AND e.log_epoch = $3 AND e.log_offset >= (s.low + s.high) / 2"
            ORDER BY "log_offset" LIMIT "1"
        ),
        " AS probe
             WHERE s.low < s.high
         )
         SELECT first.log_offset, s.low FROM search s, first WHERE s.low >= s.high",
    ))
    .bind(organization.as_uuid())
    .bind(bounds.partition)
    .bind(bounds.newest.log_epoch)
    .bind(bounds.newest.offset)
    .bind(time)
    .fetch_optional(connection)
    .await
    // No row: the events were dropped in the meantime, and the statement of the page finds none either.
    .map(|found| found.unwrap_or((0, 0)))
}
