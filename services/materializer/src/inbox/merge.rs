//! One page out of several partitions: a merge by (acceptance time, partition) in which the rows of one partition keep
//! their log order. Pure. `query` reads the rows.

use std::cmp::Reverse;
use std::vec;

use time::OffsetDateTime;

use super::cursor::SortOrder;

/// Rows read from one partition, in reading order.
#[derive(Debug)]
pub(super) struct PartitionRows<T> {
    pub partition: i32,
    /// Its next rows, each with its acceptance time.
    pub rows: Vec<(OffsetDateTime, T)>,
    /// The partition holds more than `rows`.
    pub more: bool,
}

#[derive(Debug)]
pub(super) struct MergedRows<T> {
    /// At most as many rows as asked for, each with its partition.
    pub rows: Vec<(i32, T)>,
    /// Partitions whose rows were all taken.
    pub exhausted: Vec<i32>,
    pub has_more: bool,
}

/// Merges `sources` to at most `limit` rows, and ends before a row that does not fit. The first one always does.
///
/// Times of one partition may step back (the broker's clock can), so a row waits for the one before it in its
/// partition, whatever its time is. If the rows of a partition run out while it holds more, the page ends: its
/// next row may be older than the rows of the others.
pub(super) fn merge<T>(
    sources: Vec<PartitionRows<T>>,
    order: SortOrder,
    limit: usize,
    mut fits: impl FnMut(&T) -> bool,
) -> MergedRows<T> {
    let mut inputs: Vec<MergeInput<T>> = sources.into_iter().map(MergeInput::new).collect();
    let mut rows = Vec::with_capacity(limit.min(inputs.iter().map(|input| input.rows.len() + 1).sum()));
    while rows.len() < limit && !inputs.iter().any(MergeInput::needs_more_rows) {
        let Some(input) = next_input(&mut inputs, order) else { break };
        if input.head.as_ref().is_some_and(|(_, row)| !fits(row)) && !rows.is_empty() {
            break;
        }
        let Some((_, row)) = input.head.take() else { break };
        input.head = input.rows.next();
        rows.push((input.partition, row));
    }
    let exhausted: Vec<i32> =
        inputs.iter().filter(|input| input.head.is_none() && !input.more).map(|input| input.partition).collect();
    MergedRows { rows, has_more: exhausted.len() < inputs.len(), exhausted }
}

/// The rows of one partition during the merge, with the next row ready.
struct MergeInput<T> {
    partition: i32,
    head: Option<(OffsetDateTime, T)>,
    rows: vec::IntoIter<(OffsetDateTime, T)>,
    more: bool,
}

impl<T> MergeInput<T> {
    fn new(source: PartitionRows<T>) -> Self {
        let mut rows = source.rows.into_iter();
        Self { partition: source.partition, head: rows.next(), rows, more: source.more }
    }

    fn needs_more_rows(&self) -> bool {
        self.head.is_none() && self.more
    }
}

/// The input whose head comes next. A handful of partitions at most, normally one: a scan is the fastest heap.
fn next_input<T>(inputs: &mut [MergeInput<T>], order: SortOrder) -> Option<&mut MergeInput<T>> {
    let newest = inputs.iter_mut().filter_map(|input| {
        let key = (input.head.as_ref()?.0, input.partition);
        Some((key, input))
    });
    let next = match order {
        SortOrder::Ascending => newest.min_by_key(|(key, _)| *key),
        SortOrder::Descending => newest.min_by_key(|(key, _)| Reverse(*key)),
    };
    next.map(|(_, input)| input)
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
    fn read_all(partitions: &[Vec<i64>], order: SortOrder, limit: usize, fetch: usize) -> Vec<(i32, usize)> {
        let log: Vec<Vec<(usize, i64)>> = partitions
            .iter()
            .map(|times| {
                let rows = times.iter().copied().enumerate();
                if order == SortOrder::Ascending { rows.collect() } else { rows.rev().collect() }
            })
            .collect();
        let (mut taken, mut pages) = (vec![0; log.len()], Vec::new());
        loop {
            let sources = log.iter().zip(&taken).enumerate().map(|(partition, (rows, taken))| {
                let rest = &rows[*taken..];
                let fetched = rest.iter().take(fetch).map(|(offset, second)| (at(*second), *offset)).collect();
                PartitionRows { partition: i32::try_from(partition).unwrap(), rows: fetched, more: rest.len() > fetch }
            });
            let page = merge(sources.collect(), order, limit, |_| true);
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
        fn pages_are_complete_and_keep_each_partitions_order(
            partitions in partitions(), limit in 1..30_usize, fetch in 1..40_usize, descending in any::<bool>(),
        ) {
            let order = if descending { SortOrder::Descending } else { SortOrder::Ascending };
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
        fn clocks_that_never_step_back_give_one_order_by_time(
            mut partitions in partitions(), limit in 1..30_usize, fetch in 1..40_usize,
        ) {
            for times in &mut partitions { times.sort_unstable(); }
            let pages = read_all(&partitions, SortOrder::Ascending, limit, fetch);
            let keys: Vec<(i64, i32)> =
                pages.iter().map(|(p, offset)| (partitions[usize::try_from(*p).unwrap()][*offset], *p)).collect();
            prop_assert!(keys.is_sorted());
        }
    }

    #[test]
    fn a_page_ends_before_a_row_that_does_not_fit() {
        let source = || PartitionRows { partition: 0, rows: vec![(at(1), 9), (at(2), 1), (at(3), 1)], more: false };
        let page = |max: i32| {
            let mut sum = 0;
            merge(vec![source()], SortOrder::Ascending, 10, |row| {
                sum += row;
                sum <= max
            })
        };
        let (none, some, all) = (page(0), page(10), page(11));
        assert_eq!((none.rows.len(), none.has_more), (1, true), "one row is always there, so that a page advances");
        assert_eq!((some.rows.len(), some.has_more), (2, true));
        assert_eq!((all.rows.len(), all.has_more), (3, false));
    }

    #[test]
    fn a_page_ends_where_a_partition_was_not_read_far_enough() {
        let starved = PartitionRows { partition: 0, rows: vec![(at(1), 'a')], more: true };
        let full = PartitionRows { partition: 1, rows: vec![(at(5), 'x'), (at(6), 'y')], more: false };
        let page = merge(vec![starved, full], SortOrder::Ascending, 10, |_| true);
        assert_eq!(page.rows, vec![(0, 'a')]);
        assert!(page.has_more);
        assert_eq!(page.exhausted, Vec::<i32>::new());
    }
}
