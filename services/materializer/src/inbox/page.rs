//! How one page moves the cursor. Pure: what a page holds is computed by `merge`, what a cursor says by `cursor`.

use super::cursor::{Cursor, Mark, Marks, Order};
use super::merge::Merged;

/// Moves `cursor` over `merged`. `heads`, where given, were read before the rows: an ascending reading has then passed
/// everything up to them in the partitions that are exhausted, wanted or not.
pub(super) fn turn<T>(cursor: &mut Cursor, merged: &Merged<T>, mark: impl Fn(&T) -> Mark, heads: Option<&Marks>) {
    for (partition, row) in &merged.rows {
        cursor.reach(*partition, mark(row));
    }
    if let (Order::Ascending, Some(heads)) = (cursor.order(), heads) {
        for (partition, head) in merged.exhausted.iter().filter_map(|partition| heads.get_key_value(partition)) {
            cursor.reach(*partition, *head);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, OffsetDateTime};

    use super::super::cursor::Range;
    use super::super::merge::{Source, merge};
    use super::*;

    /// What happens to an inbox while somebody reads it.
    #[derive(Debug, Clone)]
    enum Step {
        /// An event arrives in a partition, which may be new; its clock may step back.
        Append { partition: i32, second: i64 },
        /// Any event is acknowledged.
        Acknowledge(prop::sample::Index),
        /// The next page is read; so many of the next steps happen between the look at the heads and the rows.
        Page { limit: usize, meanwhile: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..6_i32, 0..60_i64).prop_map(|(partition, second)| Step::Append { partition, second }),
            2 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
            2 => (1..7_usize, 0..4_usize).prop_map(|(limit, meanwhile)| Step::Page { limit, meanwhile }),
        ];
        prop::collection::vec(step, 1..120)
    }

    struct Row {
        partition: i32,
        mark: Mark,
        second: i64,
        acknowledged: bool,
    }

    /// The log of one organization as the view has it.
    #[derive(Default)]
    struct Inbox(Vec<Row>);

    impl Inbox {
        fn heads(&self) -> Marks {
            self.0.iter().map(|row| (row.partition, row.mark)).collect()
        }

        fn happen(&mut self, step: &Step) {
            match step {
                Step::Append { partition, second } => {
                    let last = self.heads().get(partition).copied();
                    // Other organizations' events lie between.
                    let offset = last.map_or(i64::from(*partition), |mark| mark.offset + 1 + *second % 3);
                    let log_epoch = if *second == 59 {
                        last.map_or(1, |mark| mark.log_epoch + 1)
                    } else {
                        last.map_or(1, |mark| mark.log_epoch)
                    };
                    let row = Row {
                        partition: *partition,
                        mark: Mark { log_epoch, offset },
                        second: *second,
                        acknowledged: false,
                    };
                    self.0.push(row);
                }
                Step::Acknowledge(index) if !self.0.is_empty() => index.get_mut(&mut self.0).acknowledged = true,
                Step::Acknowledge(_) | Step::Page { .. } => {}
            }
        }

        fn source(&self, partition: i32, range: Range, limit: usize) -> Source<Mark> {
            let is_in = |mark: Mark| match range {
                Range::After(reached) => reached.is_none_or(|reached| mark > reached),
                Range::Before(reached) => mark < reached,
                Range::UpTo(highest) => mark <= highest,
            };
            let mut rows: Vec<_> = self
                .0
                .iter()
                .filter(|row| row.partition == partition && is_in(row.mark) && !row.acknowledged)
                .collect();
            rows.sort_by_key(|row| row.mark);
            if !matches!(range, Range::After(_)) {
                rows.reverse();
            }
            let more = rows.len() > limit;
            let at = |row: &&Row| (OffsetDateTime::UNIX_EPOCH + Duration::seconds(row.second), row.mark);
            Source { partition, rows: rows.iter().take(limit).map(at).collect(), more }
        }
    }

    /// As the list route reads a page; what happens meanwhile happens between its statements.
    fn read(
        inbox: &mut Inbox,
        cursor: &mut Option<Cursor>,
        order: Order,
        limit: usize,
        meanwhile: &[Step],
    ) -> (Vec<(i32, Mark)>, bool) {
        let heads = inbox.heads();
        let mut now = cursor.take().unwrap_or_else(|| Cursor::start(order, &heads));
        for step in meanwhile {
            inbox.happen(step);
        }
        let source = |partition: &i32| Some(inbox.source(*partition, now.range(*partition)?, limit));
        let merged = merge(heads.keys().filter_map(source).collect(), order, limit);
        turn(&mut now, &merged, |mark| *mark, Some(&heads));
        *cursor = Some(now);
        (merged.rows, merged.has_more)
    }

    /// Each row at most once, those of a partition in the order of the reading, and none that still waits for its
    /// acknowledgement left out.
    fn check(
        inbox: &Inbox,
        seen: &[(i32, Mark)],
        order: Order,
        part: impl Fn(&Row) -> bool,
    ) -> Result<(), TestCaseError> {
        for partition in inbox.heads().into_keys() {
            let marks: Vec<Mark> = seen.iter().filter(|(of, _)| *of == partition).map(|(_, mark)| *mark).collect();
            let in_order =
                marks.windows(2).all(|two| if order == Order::Ascending { two[0] < two[1] } else { two[0] > two[1] });
            prop_assert!(in_order, "partition {}: {:?}", partition, marks);
        }
        for row in inbox.0.iter().filter(|row| !row.acknowledged && part(row)) {
            prop_assert!(seen.contains(&(row.partition, row.mark)), "{}: {:?} was skipped", row.partition, row.mark);
        }
        Ok(())
    }

    fn run(steps: &[Step], order: Order) -> (Inbox, Option<Cursor>, Vec<(i32, Mark)>) {
        let (mut inbox, mut cursor, mut seen) = (Inbox::default(), None, Vec::new());
        for (at, step) in steps.iter().enumerate() {
            if let Step::Page { limit, meanwhile } = step {
                let next = &steps[at + 1..];
                // They happen now and once more in their turn, which is as good as any other history.
                seen.extend(read(&mut inbox, &mut cursor, order, *limit, &next[..(*meanwhile).min(next.len())]).0);
            } else {
                inbox.happen(step);
            }
        }
        (inbox, cursor, seen)
    }

    proptest! {
        #[test]
        fn an_ascending_reading_skips_and_repeats_nothing_while_events_arrive_and_are_acknowledged(steps in steps(), limit in 1..7_usize) {
            let (mut inbox, mut cursor, mut seen) = run(&steps, Order::Ascending);
            loop {
                let (rows, has_more) = read(&mut inbox, &mut cursor, Order::Ascending, limit, &[]);
                prop_assert!(!rows.is_empty() || !has_more, "a page that makes no progress");
                seen.extend(rows);
                if !has_more {
                    break;
                }
            }
            check(&inbox, &seen, Order::Ascending, |_| true)?;
        }

        #[test]
        fn a_descending_reading_is_what_was_there_when_it_began_and_resumes_with_all_that_came_later(
            before in steps(), steps in steps(), limit in 1..7_usize,
        ) {
            let mut inbox = Inbox::default();
            before.iter().for_each(|step| inbox.happen(step));
            let start = inbox.heads();
            let (mut cursor, mut seen) = (None, Vec::new());
            let mut rest = steps.as_slice();
            loop {
                let (now, later) = rest.split_at(rest.len().min(5));
                let (rows, has_more) = read(&mut inbox, &mut cursor, Order::Descending, limit, now);
                rest = later;
                seen.extend(rows);
                if !has_more {
                    break;
                }
            }
            let is_old = |row: &Row| start.get(&row.partition).is_some_and(|head| row.mark <= *head);
            check(&inbox, &seen, Order::Descending, is_old)?;
            prop_assert!(seen.iter().all(|(partition, mark)| start.get(partition).is_some_and(|head| mark <= head)));

            rest.iter().for_each(|step| inbox.happen(step));
            let mut cursor = cursor.map(|cursor| cursor.resume());
            let mut seen = Vec::new();
            while { let (rows, has_more) = read(&mut inbox, &mut cursor, Order::Ascending, limit, &[]); seen.extend(rows); has_more } {}
            check(&inbox, &seen, Order::Ascending, |row| !is_old(row))?;
            prop_assert!(seen.iter().all(|(partition, mark)| start.get(partition).is_none_or(|head| mark > head)));
        }
    }
}
