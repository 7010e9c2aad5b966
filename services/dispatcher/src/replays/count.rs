//! What a replay would take: the count of a dry run.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use super::rows::Cursor;
use super::selection::{Only, Selection};
use super::{events, failed, log_ends};

/// A count of a dry run ends here.
const MAX_COUNTED: usize = 10_000;
/// Or after this time.
const MAX_TIME: Duration = Duration::from_secs(2);

/// A count that may have ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub matched: usize,
    /// There may be more.
    pub is_lower_bound: bool,
}

/// How many deliveries or events a selection has. What the view does not show yet is not counted.
pub(crate) async fn count(connection: &mut PgConnection, selection: &Selection) -> Result<Count, sqlx::Error> {
    if selection.only == Only::Failed {
        let limit = i64::try_from(MAX_COUNTED).unwrap_or(i64::MAX);
        let matched = failed::next_page(connection, selection, Cursor::default(), limit).await?.len();
        return Ok(Count { matched, is_lower_bound: matched >= MAX_COUNTED });
    }
    let Some(Ok(subscribed)) = events::subscribed(connection, selection).await? else {
        return Ok(Count { matched: 0, is_lower_bound: true });
    };
    let (mut ranges, mut matched, started) = (log_ends::all_ranges(connection).await?, 0, Instant::now());
    loop {
        let room = MAX_COUNTED - matched;
        let page = events::next_page(connection, selection, &subscribed, ranges.clone(), room).await?;
        matched += page.matched.len();
        if page.is_end {
            return Ok(Count { matched, is_lower_bound: false });
        }
        let Some((position, _)) = page.last.filter(|_| matched < MAX_COUNTED && started.elapsed() < MAX_TIME) else {
            return Ok(Count { matched, is_lower_bound: true });
        };
        ranges = log_ends::continue_after(ranges, position);
    }
}
