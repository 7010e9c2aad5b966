//! First attempts of one organization that wait for a slot: one bounded queue per endpoint. Endpoints take turns, so an
//! endpoint that hangs fills its own queue and no other. An endpoint with batched delivery gets several at its turn.
//!
//! Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use schemas::ids::EndpointId;

use crate::batch::gather::{Room, Waiting};

/// A first attempt that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queued {
    pub ticket: u64,
    /// Its size in a batch.
    pub bytes: usize,
    /// When its record was read.
    pub since: Instant,
}

#[derive(Debug, Default)]
struct EndpointQueue {
    queued: VecDeque<Queued>,
    bytes: usize,
}

impl EndpointQueue {
    fn waiting(&self) -> Option<Waiting> {
        let since = self.queued.front()?.since;
        Some(Waiting { events: self.queued.len(), bytes: self.bytes, since })
    }

    /// Takes as many as there is room for; one at least.
    fn take(&mut self, mut room: Room) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Some(next) = self.queued.pop_front_if(|next| room.take(next.bytes, taken.is_empty())) {
            self.bytes -= next.bytes;
            taken.push(next.ticket);
        }
        taken
    }
}

#[derive(Debug)]
pub(crate) struct EndpointQueues {
    capacity: usize,
    waiting: HashMap<EndpointId, EndpointQueue>,
    /// Endpoints with a queue that is not empty, each once, in the order of their turns.
    turns: VecDeque<EndpointId>,
    depth: usize,
}

impl EndpointQueues {
    /// Queues of at most `capacity` tickets each.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, waiting: HashMap::new(), turns: VecDeque::new(), depth: 0 }
    }

    /// Puts a ticket at the end of its endpoint's queue. `false`: the queue is full.
    #[must_use]
    pub(crate) fn push(&mut self, endpoint: EndpointId, next: Queued) -> bool {
        let queue = self.waiting.entry(endpoint).or_default();
        if queue.queued.len() >= self.capacity {
            return false;
        }
        if queue.queued.is_empty() {
            self.turns.push_back(endpoint);
        }
        queue.queued.push_back(next);
        queue.bytes += next.bytes;
        self.depth += 1;
        true
    }

    /// Takes the next tickets whose endpoint has a free slot: as many as `grant` has room for, which is one at least.
    /// Calls `grant` at most once per endpoint, with what waits for it.
    pub(crate) fn next<S>(
        &mut self,
        mut grant: impl FnMut(EndpointId, Waiting) -> Option<(S, Room)>,
    ) -> Option<(Vec<u64>, S)> {
        for _ in 0..self.turns.len() {
            let endpoint = self.turns.pop_front()?;
            let Some(queue) = self.waiting.get_mut(&endpoint) else { continue };
            let Some((granted, room)) = queue.waiting().and_then(|waiting| grant(endpoint, waiting)) else {
                self.turns.push_back(endpoint);
                continue;
            };
            let taken = queue.take(room);
            self.depth -= taken.len();
            if queue.queued.is_empty() {
                self.waiting.remove(&endpoint);
            } else {
                self.turns.push_back(endpoint);
            }
            return Some((taken, granted));
        }
        None
    }

    /// Removes a ticket from its queue.
    pub(crate) fn remove(&mut self, endpoint: EndpointId, ticket: u64) {
        let Some(queue) = self.waiting.get_mut(&endpoint) else { return };
        // The ticket is usually the oldest, so this compares few.
        if let Some(index) = queue.queued.iter().position(|waiting| waiting.ticket == ticket)
            && let Some(removed) = queue.queued.remove(index)
        {
            queue.bytes -= removed.bytes;
            self.depth -= 1;
            if queue.queued.is_empty() {
                self.waiting.remove(&endpoint);
                self.turns.retain(|turn| *turn != endpoint);
            }
        }
    }

    /// Tickets in all queues, of each at most as many as `most` says.
    pub(crate) fn at_most(&self, most: &impl Fn(EndpointId) -> usize) -> usize {
        self.waiting.iter().map(|(endpoint, queue)| queue.queued.len().min(most(*endpoint))).sum()
    }

    /// Tickets in all queues.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// A ticket of ten bytes.
    pub(crate) fn queued(ticket: u64) -> Queued {
        Queued { ticket, bytes: 10, since: *NOW }
    }

    /// The next ticket of an endpoint that has a slot.
    fn next(queues: &mut EndpointQueues, has_slot: impl Fn(EndpointId) -> bool) -> Option<u64> {
        let (taken, ()) = queues.next(|endpoint, _| has_slot(endpoint).then_some(((), Room::ONE)))?;
        assert_eq!(taken.len(), 1);
        taken.first().copied()
    }

    #[test]
    fn an_endpoint_without_a_slot_does_not_delay_others() {
        let (hanging, fine) = (EndpointId::generate(), EndpointId::generate());
        let mut queues = EndpointQueues::new(2);
        assert!([1, 2].map(|ticket| queues.push(hanging, queued(ticket))) == [true; 2]);
        assert!(!queues.push(hanging, queued(3)), "its queue is full");
        assert!(queues.push(fine, queued(4)));
        let free = |endpoint| endpoint != hanging;
        assert_eq!(next(&mut queues, free), Some(4));
        assert_eq!(next(&mut queues, free), None);
        assert_eq!(next(&mut queues, |_| true), Some(1));
        assert_eq!(queues.depth(), 1);
    }

    #[test]
    fn endpoints_take_turns() {
        let (a, b) = (EndpointId::generate(), EndpointId::generate());
        let mut queues = EndpointQueues::new(10);
        for ticket in [1, 2, 3] {
            assert!(queues.push(a, queued(ticket)));
        }
        assert!(queues.push(b, queued(4)));
        let order: Vec<u64> = std::iter::from_fn(|| next(&mut queues, |_| true)).collect();
        assert_eq!(order, [1, 4, 2, 3]);
    }

    #[test]
    fn a_batch_takes_what_it_has_room_for() {
        let (batched, other) = (EndpointId::generate(), EndpointId::generate());
        let mut queues = EndpointQueues::new(10);
        for (ticket, bytes) in [(1, 10), (2, 10), (3, 10), (4, 95), (5, 10)] {
            assert!(queues.push(batched, Queued { bytes, ..queued(ticket) }));
        }
        assert!(queues.push(other, queued(6)));
        let mut seen = Vec::new();
        let mut take = |room: Room| {
            queues.next(|endpoint, waiting| {
                seen.push((waiting.events, waiting.bytes));
                Some((endpoint, if endpoint == batched { room } else { Room::ONE }))
            })
        };
        assert_eq!(take(Room { events: 2, bytes: 100 }), Some((vec![1, 2], batched)));
        assert_eq!(take(Room::ONE), Some((vec![6], other)), "endpoints take turns");
        assert_eq!(take(Room { events: 9, bytes: 100 }), Some((vec![3], batched)), "the next one has no room");
        assert_eq!(take(Room { events: 9, bytes: 20 }), Some((vec![4], batched)), "it is larger than a batch");
        assert_eq!(take(Room { events: 9, bytes: 20 }), Some((vec![5], batched)));
        assert_eq!(seen, [(5, 135), (1, 10), (3, 115), (2, 105), (1, 10)]);
        assert!(queues.turns.is_empty() && queues.waiting.is_empty() && queues.depth() == 0);
    }

    proptest! {
        #[test]
        fn every_ticket_leaves_once_and_the_depth_is_right(
            operations in prop::collection::vec((0_usize..3, 0_usize..4), 1..200),
        ) {
            let endpoints: Vec<EndpointId> = (0..4).map(|_| EndpointId::generate()).collect();
            let mut queues = EndpointQueues::new(5);
            let mut inside: Vec<(u64, EndpointId)> = Vec::new();
            for (ticket, (operation, which)) in operations.into_iter().enumerate() {
                let endpoint = endpoints[which];
                match operation {
                    0 => {
                        let full = inside.iter().filter(|(_, of)| *of == endpoint).count() == 5;
                        prop_assert_eq!(queues.push(endpoint, queued(ticket as u64)), !full);
                        if !full {
                            inside.push((ticket as u64, endpoint));
                        }
                    }
                    1 => {
                        let room = Room { events: ticket % 4 + 1, bytes: usize::MAX };
                        let next = queues.next(|of, _| (of == endpoint).then_some(((), room)));
                        let mut oldest: Vec<u64> =
                            inside.iter().filter(|(_, of)| *of == endpoint).map(|(ticket, _)| *ticket).collect();
                        oldest.truncate(room.events);
                        inside.retain(|(ticket, _)| !oldest.contains(ticket));
                        prop_assert_eq!(next.map(|(taken, ())| taken).unwrap_or_default(), oldest);
                    }
                    _ => {
                        if let Some((ticket, of)) = inside.pop() {
                            queues.remove(of, ticket);
                        }
                    }
                }
                prop_assert_eq!(queues.depth(), inside.len());
                prop_assert_eq!(queues.turns.len(), queues.waiting.len());
            }
        }
    }
}
