//! Finds the offsets of a partition that a time window lies in, by bisection. Without it, reading a window deep in a
//! long inbox would touch everything before it; the times themselves are compared again by the page's statement.
//!
//! Pruning by time partition cannot replace it. A time partition holds days of events (5 of 30), and the index of the
//! page is in log order: within a time partition everything between the cursor and the window is read and thrown away.
//! Measured: 29,998 rows for a page of 50 in the middle of 60,000 events, 59,971 for the last page of a window at
//! their beginning. An index on (org_id, log_partition, accepted_at) would find each bound with one probe; but every
//! event and every acknowledgement would have to write it, for a filter that few requests use.

use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use time::{Duration, OffsetDateTime};

use super::cursor::Mark;
use super::query::Extent;
use super::request::Filter;

/// How far append times of one partition may step back (another broker takes over, its clock is behind) without a row
/// being missed.
const CLOCK_STEP: Duration = Duration::minutes(10);

/// Bounds within one partition; without a bound everything is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Window {
    /// Nothing before this place matters.
    pub floor: Option<Mark>,
    /// Nothing from this place on matters.
    pub ceiling: Option<Mark>,
}

/// The window of `filter` in the partition of `extent`.
pub(super) async fn window(
    connection: &mut PgConnection,
    organization: OrgId,
    extent: &Extent,
    filter: &Filter,
) -> Result<Window, sqlx::Error> {
    let log_epoch = extent.newest.log_epoch;
    let mut window = Window::default();
    if let Some(since) = filter.since {
        let (first, found) = bisect(connection, organization, extent, since.saturating_sub(CLOCK_STEP)).await?;
        // When all of the newest log epoch is wanted, older epochs may hold more of it.
        window.floor = (found > first).then_some(Mark { log_epoch, offset: found });
    }
    if let Some(until) = filter.until {
        let (_, found) = bisect(connection, organization, extent, until.saturating_add(CLOCK_STEP)).await?;
        window.ceiling = Some(Mark { log_epoch, offset: found });
    }
    Ok(window)
}

/// Within the partition's newest log epoch: the offset of the first event, and the least offset from which on every
/// event was accepted at `time` or later. One probe halves the range: some thirty for a billion offsets.
async fn bisect(
    connection: &mut PgConnection,
    organization: OrgId,
    extent: &Extent,
    time: OffsetDateTime,
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "WITH RECURSIVE first AS (
             SELECT log_offset FROM view.events WHERE org_id = $1 AND log_partition = $2 AND log_epoch = $3 ORDER BY log_offset LIMIT 1
         ), search (low, high) AS (
             SELECT first.log_offset, $4 + 1 FROM first
             UNION ALL
             SELECT CASE WHEN probe.accepted_at < $5 THEN probe.log_offset + 1 ELSE s.low END,
                    CASE WHEN probe.accepted_at < $5 THEN s.high ELSE (s.low + s.high) / 2 END
             FROM search s
             CROSS JOIN LATERAL (SELECT e.accepted_at, e.log_offset FROM view.events e
                                 WHERE e.org_id = $1 AND e.log_partition = $2 AND e.log_epoch = $3 AND e.log_offset >= (s.low + s.high) / 2
                                 ORDER BY e.log_offset LIMIT 1) AS probe
             WHERE s.low < s.high
         )
         SELECT first.log_offset, s.low FROM search s, first WHERE s.low >= s.high",
    )
    .bind(organization.as_uuid())
    .bind(extent.partition)
    .bind(extent.newest.log_epoch)
    .bind(extent.newest.offset)
    .bind(time)
    .fetch_optional(connection)
    .await
    // Nothing found: the events went in the meantime, and the page's statement finds none either.
    .map(|found| found.unwrap_or((0, 0)))
}
