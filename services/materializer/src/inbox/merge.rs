//! One page out of several partitions: a merge by (acceptance time, partition) in which the rows of one partition keep
//! their log order. Pure. Where the rows come from is the query's business, what is noted of them the cursor's.

use std::cmp::Reverse;
use std::vec;

use time::OffsetDateTime;

use super::cursor::Order;

/// What was read of one partition, in the order of the reading.
#[derive(Debug)]
pub(super) struct Source<T> {
    pub partition: i32,
    /// Its next rows, each with its acceptance time.
    pub rows: Vec<(OffsetDateTime, T)>,
    /// The partition holds more than `rows`.
    pub more: bool,
}

#[derive(Debug)]
pub(super) struct Merged<T> {
    /// At most as many rows as asked for, each with its partition.
    pub rows: Vec<(i32, T)>,
    /// Partitions of which everything was taken.
    pub exhausted: Vec<i32>,
    pub has_more: bool,
}

/// Merges `sources` to at most `limit` rows.
///
/// Times of one partition may step back (the broker's clock can), so a row waits for the one before it in its
/// partition, whatever its time is. A source that is used up but holds more ends the page: what comes next in it may be
/// older than what the others offer.
pub(super) fn merge<T>(sources: Vec<Source<T>>, order: Order, limit: usize) -> Merged<T> {
    let mut lanes: Vec<Lane<T>> = sources.into_iter().map(Lane::new).collect();
    let mut rows = Vec::with_capacity(limit.min(lanes.iter().map(|lane| lane.rows.len() + 1).sum()));
    while rows.len() < limit && !lanes.iter().any(Lane::is_starved) {
        let Some(lane) = next_lane(&mut lanes, order) else { break };
        let Some((_, row)) = lane.head.take() else { break };
        lane.head = lane.rows.next();
        rows.push((lane.partition, row));
    }
    let exhausted: Vec<i32> =
        lanes.iter().filter(|lane| lane.head.is_none() && !lane.more).map(|lane| lane.partition).collect();
    Merged { rows, has_more: exhausted.len() < lanes.len(), exhausted }
}

/// A source whose next row is at hand.
struct Lane<T> {
    partition: i32,
    head: Option<(OffsetDateTime, T)>,
    rows: vec::IntoIter<(OffsetDateTime, T)>,
    more: bool,
}

impl<T> Lane<T> {
    fn new(source: Source<T>) -> Self {
        let mut rows = source.rows.into_iter();
        Self { partition: source.partition, head: rows.next(), rows, more: source.more }
    }

    fn is_starved(&self) -> bool {
        self.head.is_none() && self.more
    }
}

/// The lane whose head comes next. A handful of partitions at most, normally one: a scan is the fastest heap.
fn next_lane<T>(lanes: &mut [Lane<T>], order: Order) -> Option<&mut Lane<T>> {
    let heads = lanes.iter_mut().filter_map(|lane| {
        let key = (lane.head.as_ref()?.0, lane.partition);
        Some((key, lane))
    });
    let next = match order {
        Order::Ascending => heads.min_by_key(|(key, _)| *key),
        Order::Descending => heads.min_by_key(|(key, _)| Reverse(*key)),
    };
    next.map(|(_, lane)| lane)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;

    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
    }

    /// Per partition the times of its rows, in log order; a row is (partition, offset).
    fn partitions() -> impl Strategy<Value = Vec<Vec<i64>>> {
        proptest::collection::vec(proptest::collection::vec(0..50_i64, 0..40), 0..6)
    }

    /// Reads everything page by page, as the list route does: `fetch` rows of each partition at once, `limit` rows a
    /// page.
    fn read_all(partitions: &[Vec<i64>], order: Order, limit: usize, fetch: usize) -> Vec<(i32, usize)> {
        let log: Vec<Vec<(usize, i64)>> = partitions
            .iter()
            .map(|times| {
                let rows = times.iter().copied().enumerate();
                if order == Order::Ascending { rows.collect() } else { rows.rev().collect() }
            })
            .collect();
        let (mut taken, mut pages) = (vec![0; log.len()], Vec::new());
        loop {
            let sources = log.iter().zip(&taken).enumerate().map(|(partition, (rows, taken))| {
                let rest = &rows[*taken..];
                let fetched = rest.iter().take(fetch).map(|(offset, second)| (at(*second), *offset)).collect();
                Source { partition: i32::try_from(partition).unwrap(), rows: fetched, more: rest.len() > fetch }
            });
            let page = merge(sources.collect(), order, limit);
            assert!(page.rows.len() <= limit);
            assert!(!page.rows.is_empty() || !page.has_more, "a page that makes no progress");
            for (partition, offset) in page.rows {
                taken[usize::try_from(partition).unwrap()] += 1;
                pages.push((partition, offset));
            }
            if !page.has_more {
                return pages;
            }
        }
    }

    proptest! {
        #[test]
        fn pages_are_complete_without_gap_or_repeat_and_keep_each_partitions_order(
            partitions in partitions(), limit in 1..30_usize, fetch in 1..40_usize, descending in any::<bool>(),
        ) {
            let order = if descending { Order::Descending } else { Order::Ascending };
            let pages = read_all(&partitions, order, limit, fetch);
            for (partition, times) in partitions.iter().enumerate() {
                let partition = i32::try_from(partition).unwrap();
                let seen: Vec<usize> = pages.iter().filter(|row| row.0 == partition).map(|row| row.1).collect();
                let mut all: Vec<usize> = (0..times.len()).collect();
                if descending { all.reverse(); }
                prop_assert_eq!(seen, all);
            }
        }

        #[test]
        fn clocks_that_never_step_back_give_one_order_by_time(mut partitions in partitions(), limit in 1..30_usize, fetch in 1..40_usize) {
            for times in &mut partitions { times.sort_unstable(); }
            let pages = read_all(&partitions, Order::Ascending, limit, fetch);
            let keys: Vec<(i64, i32)> =
                pages.iter().map(|(p, offset)| (partitions[usize::try_from(*p).unwrap()][*offset], *p)).collect();
            prop_assert!(keys.is_sorted());
        }
    }

    #[test]
    fn a_page_ends_where_a_partition_was_not_read_far_enough() {
        let starved = Source { partition: 0, rows: vec![(at(1), 'a')], more: true };
        let full = Source { partition: 1, rows: vec![(at(5), 'x'), (at(6), 'y')], more: false };
        let page = merge(vec![starved, full], Order::Ascending, 10);
        assert_eq!(page.rows, vec![(0, 'a')]);
        assert!(page.has_more);
        assert_eq!(page.exhausted, Vec::<i32>::new());
    }
}
