//! First attempts of one organization that wait for a slot: one bounded queue per endpoint. Endpoints take turns, so an
//! endpoint that hangs fills its own queue and no other.
//!
//! Pure.

use std::collections::{HashMap, VecDeque};

use schemas::ids::EndpointId;

#[derive(Debug)]
pub(crate) struct EndpointQueues {
    capacity: usize,
    waiting: HashMap<EndpointId, VecDeque<u64>>,
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
    pub(crate) fn push(&mut self, endpoint: EndpointId, ticket: u64) -> bool {
        let queue = self.waiting.entry(endpoint).or_default();
        if queue.len() >= self.capacity {
            return false;
        }
        if queue.is_empty() {
            self.turns.push_back(endpoint);
        }
        queue.push_back(ticket);
        self.depth += 1;
        true
    }

    /// Takes the next ticket whose endpoint has a free slot. Calls `slot` at most once per endpoint.
    pub(crate) fn next<S>(&mut self, mut slot: impl FnMut(EndpointId) -> Option<S>) -> Option<(u64, S)> {
        for _ in 0..self.turns.len() {
            let endpoint = self.turns.pop_front()?;
            let Some(slot) = slot(endpoint) else {
                self.turns.push_back(endpoint);
                continue;
            };
            if let Some(queue) = self.waiting.get_mut(&endpoint)
                && let Some(ticket) = queue.pop_front()
            {
                self.depth -= 1;
                if queue.is_empty() {
                    self.waiting.remove(&endpoint);
                } else {
                    self.turns.push_back(endpoint);
                }
                return Some((ticket, slot));
            }
        }
        None
    }

    /// Removes a ticket from its queue.
    pub(crate) fn remove(&mut self, endpoint: EndpointId, ticket: u64) {
        let Some(queue) = self.waiting.get_mut(&endpoint) else { return };
        // The ticket is usually the oldest, so this compares few.
        if let Some(index) = queue.iter().position(|waiting| *waiting == ticket) {
            queue.remove(index);
            self.depth -= 1;
            if queue.is_empty() {
                self.waiting.remove(&endpoint);
                self.turns.retain(|turn| *turn != endpoint);
            }
        }
    }

    /// Tickets in all queues.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_without_a_slot_does_not_delay_others() {
        let (hanging, fine) = (EndpointId::generate(), EndpointId::generate());
        let mut queues = EndpointQueues::new(2);
        assert!(queues.push(hanging, 1) && queues.push(hanging, 2) && !queues.push(hanging, 3));
        assert!(queues.push(fine, 4));
        let free = |endpoint| (endpoint != hanging).then_some(());
        assert_eq!(queues.next(free), Some((4, ())));
        assert_eq!(queues.next(free), None);
        assert_eq!(queues.next(Some), Some((1, hanging)));
        assert_eq!(queues.depth(), 1);
    }

    #[test]
    fn endpoints_take_turns() {
        let (a, b) = (EndpointId::generate(), EndpointId::generate());
        let mut queues = EndpointQueues::new(10);
        for ticket in [1, 2, 3] {
            assert!(queues.push(a, ticket));
        }
        assert!(queues.push(b, 4));
        let order: Vec<u64> = std::iter::from_fn(|| queues.next(Some).map(|(ticket, _)| ticket)).collect();
        assert_eq!(order, [1, 4, 2, 3]);
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
                        prop_assert_eq!(queues.push(endpoint, ticket as u64), !full);
                        if !full {
                            inside.push((ticket as u64, endpoint));
                        }
                    }
                    1 => {
                        let next = queues.next(|of| (of == endpoint).then_some(()));
                        let oldest = inside.iter().position(|(_, of)| *of == endpoint);
                        prop_assert_eq!(next.map(|(ticket, ())| ticket), oldest.map(|index| inside[index].0));
                        if let Some(index) = oldest {
                            inside.remove(index);
                        }
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
