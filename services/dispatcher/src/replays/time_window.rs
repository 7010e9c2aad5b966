//! Narrows ranges of events to those that a time window covers, by binary search: the index is in log order. Without
//! it, a window deep in a long inbox would read every event before it and after it.

use schemas::events_in_log_order;
use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use time::{Duration, OffsetDateTime};

use super::log_ends::Range;
use super::selection::Selection;

/// How far append times of one partition may step back without missing an event. The page compares the times again.
const CLOCK_STEP: Duration = Duration::minutes(10);

/// The least position of a partition's newest log from which on every event was accepted at a time or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    partition: i32,
    log_epoch: i32,
    offset: i64,
    /// There is an event before it in this log.
    is_later: bool,
}

/// Narrows ranges to the time window of a selection.
pub(super) async fn narrow(
    connection: &mut PgConnection,
    selection: &Selection,
    ranges: Vec<Range>,
) -> Result<Vec<Range>, sqlx::Error> {
    let (org_id, mut ranges) = (selection.org_id, ranges);
    if let Some(start) = selection.from {
        let time = start.earliest().saturating_sub(CLOCK_STEP);
        let found = first_since(connection, org_id, &ranges, time).await?;
        ranges = with_each(ranges, &found, floor);
    }
    if let Some(before) = selection.before {
        let found = first_since(connection, org_id, &ranges, before.saturating_add(CLOCK_STEP)).await?;
        ranges = with_each(ranges, &found, ceiling);
    }
    Ok(ranges)
}

fn with_each(ranges: Vec<Range>, found: &[Found], change: fn(Range, Found) -> Range) -> Vec<Range> {
    let of = |range: Range| found.iter().find(|one| one.partition == range.partition).copied();
    ranges.into_iter().map(|range| of(range).map_or(range, |found| change(range, found))).collect()
}

/// When all of the newest log is wanted, older logs may hold more of it.
fn floor(range: Range, found: Found) -> Range {
    let after = (found.log_epoch, found.offset - 1);
    if found.is_later { Range { after: range.after.max(after), ..range } } else { range }
}

fn ceiling(range: Range, found: Found) -> Range {
    Range { end: range.end.min((found.log_epoch, found.offset)), ..range }
}

/// One probe halves the range: some thirty for a billion offsets.
async fn first_since(
    connection: &mut PgConnection,
    org_id: OrgId,
    ranges: &[Range],
    time: OffsetDateTime,
) -> Result<Vec<Found>, sqlx::Error> {
    let found: Vec<(i32, i32, i64, bool)> = sqlx::query_as(concat!(
        "SELECT r.partition, found.log_epoch, found.low, found.low > found.first
         FROM UNNEST($2::integer[]) AS r (partition) CROSS JOIN LATERAL (
             WITH RECURSIVE bounds AS (
                 SELECT newest.log_epoch, oldest.log_offset AS first, newest.log_offset AS last
                 FROM ",
        events_in_log_order!(
            SELECT "e.log_epoch, e.log_offset" FROM "contract.events"
            WHERE "e.org_id = $1 AND e.log_partition = r.partition" ORDER BY "log_epoch DESC, log_offset DESC" LIMIT "1"
        ),
        " AS newest CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.log_offset" FROM "contract.events"
            WHERE "e.org_id = $1 AND e.log_partition = r.partition AND e.log_epoch = newest.log_epoch"
            ORDER BY "log_offset" LIMIT "1"
        ),
        " AS oldest
             ), search (low, high) AS (
                 SELECT first, last + 1 FROM bounds
                 UNION ALL
                 SELECT CASE WHEN probe.accepted_at < $3 THEN probe.log_offset + 1 ELSE s.low END,
                        CASE WHEN probe.accepted_at < $3 THEN s.high ELSE (s.low + s.high) / 2 END
                 FROM search s CROSS JOIN bounds b CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.accepted_at, e.log_offset" FROM "contract.events"
            WHERE "e.org_id = $1 AND e.log_partition = r.partition AND e.log_epoch = b.log_epoch
                   AND e.log_offset >= (s.low + s.high) / 2"
            ORDER BY "log_offset" LIMIT "1"
        ),
        " AS probe
                 WHERE s.low < s.high
             )
             SELECT b.log_epoch, b.first, s.low FROM search s CROSS JOIN bounds b WHERE s.low >= s.high
         ) AS found",
    ))
    .persistent(false)
    .bind(org_id.as_uuid())
    .bind(ranges.iter().map(|range| range.partition).collect::<Vec<_>>())
    .bind(time)
    .fetch_all(connection)
    .await?;
    let of = |(partition, log_epoch, offset, is_later)| Found { partition, log_epoch, offset, is_later };
    Ok(found.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { partition: 1, after: (1, 5), end: (3, 70) };

    fn found(partition: i32, offset: i64, is_later: bool) -> Found {
        Found { partition, log_epoch: 3, offset, is_later }
    }

    #[test]
    fn a_window_narrows_a_range_and_never_widens_it() {
        let of = |change: fn(Range, Found) -> Range, found| with_each(vec![RANGE], &[found], change)[0];
        assert_eq!(of(floor, found(1, 20, true)), Range { after: (3, 19), ..RANGE });
        assert_eq!(of(floor, found(1, 20, false)), RANGE, "older logs may hold more of the window");
        assert_eq!(of(floor, found(2, 20, true)), RANGE, "another partition");
        assert_eq!(of(ceiling, found(1, 20, true)), Range { end: (3, 20), ..RANGE });
        assert_eq!(of(ceiling, found(1, 99, true)), RANGE);
        let behind = Range { after: (3, 40), ..RANGE };
        assert_eq!(floor(behind, found(1, 20, true)), behind, "the cursor is further");
    }
}
