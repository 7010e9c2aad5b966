//! Which deliveries of an endpoint share a request. Pure: takes `now`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::settings::BatchSettings;

/// What waits for an endpoint in the queues of the log worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub events: usize,
    /// Their size in a batch.
    pub bytes: usize,
    /// Since when the first of them waits.
    pub since: Instant,
}

/// What one request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub events: usize,
    /// An event that is larger goes alone.
    pub bytes: usize,
}

impl Room {
    /// A webhook that is no batch.
    pub(crate) const ONE: Self = Self { events: 1, bytes: usize::MAX };

    pub(crate) fn of(settings: &BatchSettings) -> Self {
        Self { events: settings.max_events(), bytes: settings.max_bytes() }
    }

    /// Takes the room of an event of so many bytes. `first`: it is the first of the request.
    pub(crate) fn take(&mut self, bytes: usize, first: bool) -> bool {
        let fits = self.events > 0 && (first || bytes <= self.bytes);
        if fits {
            self.events -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

/// When the batch of what waits is sent: `None`: now, for it is full, or its first event has waited for long enough.
/// `capacity`: of the queue, which cannot hold more.
pub(crate) fn wait_until(settings: &BatchSettings, waiting: Waiting, capacity: usize, now: Instant) -> Option<Instant> {
    let is_full = waiting.events >= settings.max_events().min(capacity) || waiting.bytes >= settings.max_bytes();
    let end = waiting.since + settings.max_wait();
    (!is_full && now < end).then_some(end)
}

/// A due row of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DueRow<Id> {
    pub id: Id,
    /// Its size in a batch.
    pub bytes: usize,
    /// The most events that may share its request.
    pub limit: Option<u32>,
}

/// The rows of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowBatch<Id> {
    pub ids: Vec<Id>,
    pub bytes: usize,
}

/// Groups due rows into at most `max_batches` requests, in their order. Rows with the same limit go together: a row
/// that must go alone is in the way of no others.
pub(crate) fn group<Id: Copy>(
    settings: &BatchSettings,
    rows: impl IntoIterator<Item = DueRow<Id>>,
    max_batches: usize,
) -> Vec<RowBatch<Id>> {
    let mut batches: Vec<RowBatch<Id>> = Vec::new();
    // By limit, the batch that is not full, and its room.
    let mut open: BTreeMap<usize, (usize, Room)> = BTreeMap::new();
    for row in rows {
        let limit = row.limit.map_or(usize::MAX, |limit| limit.max(1) as usize).min(settings.max_events());
        if let Some((index, room)) = open.get_mut(&limit)
            && room.take(row.bytes, false)
            && let Some(batch) = batches.get_mut(*index)
        {
            batch.ids.push(row.id);
            batch.bytes += row.bytes;
            continue;
        }
        // The rows after it wait with it, or they would overtake it every time.
        if batches.len() == max_batches {
            open.remove(&limit);
            continue;
        }
        let mut room = Room { events: limit, ..Room::of(settings) };
        let _is_first = room.take(row.bytes, true);
        open.insert(limit, (batches.len(), room));
        batches.push(RowBatch { ids: vec![row.id], bytes: row.bytes });
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;
    use schemas::ids::{EndpointId, OrgId};

    use super::*;
    use crate::log::fair_queues::FairQueues;
    use crate::log::queues::Queued;

    fn settings(max_events: u32, max_bytes: u32) -> BatchSettings {
        BatchSettings { max_events, max_bytes, ..BatchSettings::default() }
    }

    fn row(id: usize, bytes: usize, limit: Option<u32>) -> DueRow<usize> {
        DueRow { id, bytes, limit }
    }

    #[test]
    fn a_batch_waits_until_it_is_full_or_its_time_is_over() {
        let (now, settings) = (Instant::now(), settings(3, 1000));
        let wait = |events, bytes, capacity, after| {
            let waiting = Waiting { events, bytes, since: now };
            wait_until(&settings, waiting, capacity, now + Duration::from_millis(after))
        };
        assert_eq!(wait(2, 999, 10, 99), Some(now + Duration::from_millis(100)));
        assert_eq!(wait(2, 999, 10, 100), None, "its time is over");
        assert_eq!(wait(3, 10, 10, 0), None, "it has all its events");
        assert_eq!(wait(1, 1000, 10, 0), None, "it has all its bytes");
        assert_eq!(wait(2, 10, 2, 0), None, "the queue cannot hold more");
    }

    #[test]
    fn a_row_that_goes_alone_is_in_no_ones_way() {
        let rows = [row(1, 10, None), row(2, 10, Some(1)), row(3, 10, None), row(4, 10, Some(1)), row(5, 10, Some(2))];
        let ids: Vec<Vec<usize>> = group(&settings(10, 1000), rows, 10).into_iter().map(|batch| batch.ids).collect();
        assert_eq!(ids, [vec![1, 3], vec![2], vec![4], vec![5]]);
        let first: Vec<Vec<usize>> = group(&settings(10, 1000), rows, 2).into_iter().map(|batch| batch.ids).collect();
        assert_eq!(first, [vec![1, 3], vec![2]]);
    }

    #[test]
    fn an_event_larger_than_the_batch_goes_alone() {
        let rows = [row(1, 10, None), row(2, 2000, None), row(3, 10, None)];
        let ids: Vec<Vec<usize>> = group(&settings(10, 1024), rows, 10).into_iter().map(|batch| batch.ids).collect();
        assert_eq!(ids, [vec![1], vec![2], vec![3]]);
    }

    proptest! {
        #[test]
        fn no_row_is_lost_or_twice_and_the_bounds_hold(
            rows in prop::collection::vec((1_usize..3000, prop::option::of(1_u32..8)), 0..60),
            max_events in 1_u32..20,
            max_bytes in 1024_u32..8000,
        ) {
            let settings = settings(max_events, max_bytes);
            let due: Vec<DueRow<usize>> =
                rows.iter().enumerate().map(|(id, (bytes, limit))| row(id, *bytes, *limit)).collect();
            let batches = group(&settings, due.iter().copied(), usize::MAX);
            let mut ids: Vec<usize> = batches.iter().flat_map(|batch| batch.ids.iter().copied()).collect();
            ids.sort_unstable();
            prop_assert_eq!(ids, (0..rows.len()).collect::<Vec<_>>());
            for batch in &batches {
                let bytes: usize = batch.ids.iter().map(|id| rows[*id].0).sum();
                prop_assert_eq!(bytes, batch.bytes);
                prop_assert!(batch.ids.len() == 1 || bytes <= settings.max_bytes());
                let smallest = batch.ids.iter().filter_map(|id| rows[*id].1).min().unwrap_or(max_events);
                prop_assert!(batch.ids.len() <= smallest.min(max_events) as usize);
                prop_assert!(batch.ids.is_sorted());
            }
        }

        #[test]
        fn every_event_is_sent_once_and_in_time(
            arrivals in prop::collection::vec((0_u64..60, 1_usize..3000), 1..80),
            (max_events, max_bytes, max_wait_ms) in (1_u32..10, 1024_u32..6000, 0_u32..100),
        ) {
            let settings = BatchSettings { max_wait_ms, ..settings(max_events, max_bytes) };
            let (org_id, endpoint) = (OrgId::generate(), EndpointId::generate());
            let mut queues = FairQueues::new(1000);
            let mut at = Instant::now();
            let mut waiting: VecDeque<Queued> = VecDeque::new();
            for (ticket, (pause, bytes)) in (0_u64..).zip(arrivals) {
                at += Duration::from_millis(pause);
                waiting.push_back(Queued { ticket, bytes, since: at });
            }
            let (all, mut sent, mut end): (Vec<Queued>, _, _) = (waiting.iter().copied().collect(), Vec::new(), None);
            // A slot is always free. The clock goes on to the next arrival, or to the end of a wait.
            while let Some(now) = waiting.front().map(|next| next.since).into_iter().chain(end).min() {
                while let Some(next) = waiting.pop_front_if(|next| next.since <= now) {
                    prop_assert!(queues.push(org_id, endpoint, next));
                }
                end = None;
                while let Some((tickets, ())) = queues.next(|_, waiting| {
                    end = wait_until(&settings, waiting, 1000, now);
                    end.is_none().then_some(((), Room::of(&settings)))
                }) {
                    let batch: Vec<Queued> = tickets.iter().map(|ticket| all[*ticket as usize]).collect();
                    prop_assert!((1..=settings.max_events()).contains(&batch.len()));
                    let bytes: usize = batch.iter().map(|one| one.bytes).sum();
                    prop_assert!(batch.len() == 1 || bytes <= settings.max_bytes());
                    prop_assert!(batch.iter().all(|one| now <= one.since + settings.max_wait()));
                    sent.extend(tickets);
                }
            }
            prop_assert_eq!(sent, (0..all.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn fewer_requests_take_the_first_rows(
            rows in prop::collection::vec((1_usize..3000, prop::option::of(1_u32..3)), 1..60),
            max_batches in 1_usize..5,
        ) {
            let settings = settings(10, 4000);
            let due = rows.iter().enumerate().map(|(id, (bytes, limit))| row(id, *bytes, *limit));
            let all = group(&settings, due.clone(), usize::MAX);
            let some = group(&settings, due, max_batches);
            prop_assert!(some.len() <= max_batches);
            prop_assert_eq!(&some[..], &all[..some.len()]);
        }
    }
}
