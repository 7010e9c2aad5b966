//! Moves the cursor over one page. Pure.

use super::cursor::{EpochOffset, InboxCursor, OffsetsByPartition, SortOrder};
use super::merge::MergedRows;

/// Moves `cursor` over `merged`. `newest`, where given, were read before the rows: an ascending cursor then moves
/// up to them in exhausted partitions, past events that the filter excludes.
pub(super) fn advance_cursor<T>(
    cursor: &mut InboxCursor,
    merged: &MergedRows<T>,
    epoch_offset: impl Fn(&T) -> EpochOffset,
    newest: Option<&OffsetsByPartition>,
) {
    for (partition, row) in &merged.rows {
        cursor.advance(*partition, epoch_offset(row));
    }
    if let (SortOrder::Ascending, Some(newest)) = (cursor.order(), newest) {
        for (partition, head) in merged.exhausted.iter().filter_map(|partition| newest.get_key_value(partition)) {
            cursor.advance(*partition, *head);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, OffsetDateTime};

    use super::super::cursor::UnreadRange;
    use super::super::merge::{PartitionRows, merge};
    use super::*;

    /// What happens to an inbox while somebody reads it.
    #[derive(Debug, Clone)]
    enum Action {
        /// An event arrives in a partition, which may be new; its clock may step back.
        Append { partition: i32, second: i64 },
        /// Any event is acknowledged.
        Acknowledge(prop::sample::Index),
        /// The next page is read. So many of the next actions happen after the newest offsets were read and before the
        /// rows are read.
        Page { limit: usize, meanwhile: usize },
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            5 => (0..6_i32, 0..60_i64).prop_map(|(partition, second)| Action::Append { partition, second }),
            2 => any::<prop::sample::Index>().prop_map(Action::Acknowledge),
            2 => (1..7_usize, 0..4_usize).prop_map(|(limit, meanwhile)| Action::Page { limit, meanwhile }),
        ];
        prop::collection::vec(action, 1..120)
    }

    struct TestRow {
        partition: i32,
        epoch_offset: EpochOffset,
        second: i64,
        acknowledged: bool,
    }

    /// The log of one organization as the view has it.
    #[derive(Default)]
    struct Inbox(Vec<TestRow>);

    impl Inbox {
        fn newest(&self) -> OffsetsByPartition {
            self.0.iter().map(|row| (row.partition, row.epoch_offset)).collect()
        }

        fn happen(&mut self, action: &Action) {
            match action {
                Action::Append { partition, second } => {
                    let last = self.newest().get(partition).copied();
                    // Other organizations' events lie between.
                    let offset =
                        last.map_or(i64::from(*partition), |epoch_offset| epoch_offset.offset + 1 + *second % 3);
                    let log_epoch = if *second == 59 {
                        last.map_or(1, |epoch_offset| epoch_offset.log_epoch + 1)
                    } else {
                        last.map_or(1, |epoch_offset| epoch_offset.log_epoch)
                    };
                    let row = TestRow {
                        partition: *partition,
                        epoch_offset: EpochOffset { log_epoch, offset },
                        second: *second,
                        acknowledged: false,
                    };
                    self.0.push(row);
                }
                Action::Acknowledge(index) if !self.0.is_empty() => index.get_mut(&mut self.0).acknowledged = true,
                Action::Acknowledge(_) | Action::Page { .. } => {}
            }
        }

        fn source(&self, partition: i32, range: UnreadRange, limit: usize) -> PartitionRows<EpochOffset> {
            let is_in = |epoch_offset: EpochOffset| match range {
                UnreadRange::After(reached) => reached.is_none_or(|reached| epoch_offset > reached),
                UnreadRange::Before(reached) => epoch_offset < reached,
                UnreadRange::UpTo(highest) => epoch_offset <= highest,
            };
            let mut rows: Vec<_> = self
                .0
                .iter()
                .filter(|row| row.partition == partition && is_in(row.epoch_offset) && !row.acknowledged)
                .collect();
            rows.sort_by_key(|row| row.epoch_offset);
            if !matches!(range, UnreadRange::After(_)) {
                rows.reverse();
            }
            let more = rows.len() > limit;
            let at = |row: &&TestRow| (OffsetDateTime::UNIX_EPOCH + Duration::seconds(row.second), row.epoch_offset);
            PartitionRows { partition, rows: rows.iter().take(limit).map(at).collect(), more }
        }
    }

    /// Reads a page as the list route does; `meanwhile` happens between its statements.
    fn read(
        inbox: &mut Inbox,
        cursor: &mut Option<InboxCursor>,
        order: SortOrder,
        limit: usize,
        meanwhile: &[Action],
    ) -> (Vec<(i32, EpochOffset)>, bool) {
        let newest = inbox.newest();
        let mut now = cursor.take().unwrap_or_else(|| InboxCursor::start(order, &newest));
        for action in meanwhile {
            inbox.happen(action);
        }
        let source = |partition: &i32| Some(inbox.source(*partition, now.range(*partition)?, limit));
        let merged = merge(newest.keys().filter_map(source).collect(), order, limit, |_| true);
        advance_cursor(&mut now, &merged, |epoch_offset| *epoch_offset, Some(&newest));
        *cursor = Some(now);
        (merged.rows, merged.has_more)
    }

    /// Checks that each row is read at most once, in sort order within its partition, and that no unacknowledged row is
    /// skipped.
    fn check(
        inbox: &Inbox,
        seen: &[(i32, EpochOffset)],
        order: SortOrder,
        part: impl Fn(&TestRow) -> bool,
    ) -> Result<(), TestCaseError> {
        for partition in inbox.newest().into_keys() {
            let offsets: Vec<EpochOffset> =
                seen.iter().filter(|(of, _)| *of == partition).map(|(_, epoch_offset)| *epoch_offset).collect();
            let in_order = offsets
                .windows(2)
                .all(|two| if order == SortOrder::Ascending { two[0] < two[1] } else { two[0] > two[1] });
            prop_assert!(in_order, "partition {}: {:?}", partition, offsets);
        }
        for row in inbox.0.iter().filter(|row| !row.acknowledged && part(row)) {
            prop_assert!(
                seen.contains(&(row.partition, row.epoch_offset)),
                "{}: {:?} was skipped",
                row.partition,
                row.epoch_offset
            );
        }
        Ok(())
    }

    fn run(actions: &[Action], order: SortOrder) -> (Inbox, Option<InboxCursor>, Vec<(i32, EpochOffset)>) {
        let (mut inbox, mut cursor, mut seen) = (Inbox::default(), None, Vec::new());
        for (at, action) in actions.iter().enumerate() {
            if let Action::Page { limit, meanwhile } = action {
                let next = &actions[at + 1..];
                // They happen now and once more in their turn, which is as good as any other history.
                seen.extend(read(&mut inbox, &mut cursor, order, *limit, &next[..(*meanwhile).min(next.len())]).0);
            } else {
                inbox.happen(action);
            }
        }
        (inbox, cursor, seen)
    }

    proptest! {
        #[test]
        fn ascending_pages_have_no_gap_or_repeat(actions in actions(), limit in 1..7_usize) {
            let (mut inbox, mut cursor, mut seen) = run(&actions, SortOrder::Ascending);
            loop {
                let (rows, has_more) = read(&mut inbox, &mut cursor, SortOrder::Ascending, limit, &[]);
                prop_assert!(!rows.is_empty() || !has_more, "a page that makes no progress");
                seen.extend(rows);
                if !has_more {
                    break;
                }
            }
            check(&inbox, &seen, SortOrder::Ascending, |_| true)?;
        }

        #[test]
        fn descending_pages_are_a_snapshot_and_resume_with_later_events(
            before in actions(), actions in actions(), limit in 1..7_usize,
        ) {
            let mut inbox = Inbox::default();
            before.iter().for_each(|action| inbox.happen(action));
            let start = inbox.newest();
            let (mut cursor, mut seen) = (None, Vec::new());
            let mut rest = actions.as_slice();
            loop {
                let (now, later) = rest.split_at(rest.len().min(5));
                let (rows, has_more) = read(&mut inbox, &mut cursor, SortOrder::Descending, limit, now);
                rest = later;
                seen.extend(rows);
                if !has_more {
                    break;
                }
            }
            let is_old = |row: &TestRow| start.get(&row.partition).is_some_and(|newest| row.epoch_offset <= *newest);
            check(&inbox, &seen, SortOrder::Descending, is_old)?;
            let in_snapshot = |(partition, epoch_offset): &(i32, EpochOffset)| {
                start.get(partition).is_some_and(|newest| epoch_offset <= newest)
            };
            prop_assert!(seen.iter().all(in_snapshot));

            rest.iter().for_each(|action| inbox.happen(action));
            let mut cursor = cursor.map(|cursor| cursor.resume());
            let mut seen = Vec::new();
            loop {
                let (rows, has_more) = read(&mut inbox, &mut cursor, SortOrder::Ascending, limit, &[]);
                seen.extend(rows);
                if !has_more {
                    break;
                }
            }
            check(&inbox, &seen, SortOrder::Ascending, |row| !is_old(row))?;
            prop_assert!(!seen.iter().any(in_snapshot));
        }
    }
}
