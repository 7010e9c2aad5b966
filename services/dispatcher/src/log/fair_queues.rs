//! First attempts that wait for a slot: organizations take turns, and then the endpoints of each. An organization with
//! many endpoints or many events delays no other one.
//!
//! Pure.

use std::collections::{HashMap, VecDeque};

use schemas::ids::{EndpointId, OrgId};

use crate::batch::gather::{Room, Waiting};
use crate::log::queues::{EndpointQueues, Queued};

#[derive(Debug)]
pub(crate) struct FairQueues {
    capacity: usize,
    waiting: HashMap<OrgId, EndpointQueues>,
    /// Organizations with waiting attempts, each once, in the order of their turns.
    turns: VecDeque<OrgId>,
    depth: usize,
}

impl FairQueues {
    /// At most `capacity` tickets of an endpoint wait.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, waiting: HashMap::new(), turns: VecDeque::new(), depth: 0 }
    }

    /// Puts a ticket at the end of its endpoint's queue. `false`: the queue is full.
    #[must_use]
    pub(crate) fn push(&mut self, org_id: OrgId, endpoint: EndpointId, next: Queued) -> bool {
        let queues = self.waiting.entry(org_id).or_insert_with(|| EndpointQueues::new(self.capacity));
        if queues.depth() == 0 {
            self.turns.push_back(org_id);
        }
        // It is full only if it is not empty, so an organization with a turn has a ticket.
        let is_pushed = queues.push(endpoint, next);
        self.depth += usize::from(is_pushed);
        is_pushed
    }

    /// Takes the next tickets whose endpoint has a free slot: as many as `grant` has room for, which is one at least.
    /// Calls `grant` at most once per endpoint, with what waits for it.
    pub(crate) fn next<S>(
        &mut self,
        mut grant: impl FnMut(EndpointId, Waiting) -> Option<(S, Room)>,
    ) -> Option<(Vec<u64>, S)> {
        for _ in 0..self.turns.len() {
            let org_id = self.turns.pop_front()?;
            let Some(queues) = self.waiting.get_mut(&org_id) else { continue };
            let next = queues.next(&mut grant);
            if queues.depth() == 0 {
                self.waiting.remove(&org_id);
            } else {
                self.turns.push_back(org_id);
            }
            if let Some((tickets, _)) = &next {
                self.depth -= tickets.len();
                return next;
            }
        }
        None
    }

    /// Removes a ticket from its queue.
    pub(crate) fn remove(&mut self, org_id: OrgId, endpoint: EndpointId, ticket: u64) {
        let Some(queues) = self.waiting.get_mut(&org_id) else { return };
        let before = queues.depth();
        queues.remove(endpoint, ticket);
        self.depth -= before - queues.depth();
        if queues.depth() == 0 {
            self.waiting.remove(&org_id);
            self.turns.retain(|turn| *turn != org_id);
        }
    }

    /// Tickets in all queues, of each at most as many as `most` says.
    pub(crate) fn at_most(&self, most: impl Fn(EndpointId) -> usize) -> usize {
        self.waiting.values().map(|queues| queues.at_most(&most)).sum()
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
    use crate::log::queues::tests::queued;

    #[test]
    fn organizations_take_turns_before_endpoints_do() {
        let (busy, quiet) = (OrgId::generate(), OrgId::generate());
        let mut queues = FairQueues::new(10);
        for ticket in 1..=4 {
            assert!(queues.push(busy, EndpointId::generate(), queued(ticket)));
        }
        assert!(queues.push(quiet, EndpointId::generate(), queued(5)));
        let next = || queues.next(|_, _| Some(((), Room::ONE))).map(|(tickets, ())| tickets);
        assert_eq!(std::iter::from_fn(next).collect::<Vec<_>>().concat(), [1, 5, 2, 3, 4]);
        assert!(queues.turns.is_empty() && queues.waiting.is_empty());
    }

    proptest! {
        #[test]
        fn every_ticket_leaves_once(operations in prop::collection::vec((0_usize..3, 0_usize..6), 1..200)) {
            let orgs: Vec<OrgId> = (0..3).map(|_| OrgId::generate()).collect();
            let endpoints: Vec<EndpointId> = (0..6).map(|_| EndpointId::generate()).collect();
            let mut queues = FairQueues::new(5);
            let mut inside: Vec<(u64, usize)> = Vec::new();
            for (ticket, (operation, which)) in operations.into_iter().enumerate() {
                let ticket = ticket as u64;
                match operation {
                    0 => {
                        let is_full = inside.iter().filter(|(_, of)| *of == which).count() == 5;
                        prop_assert_eq!(queues.push(orgs[which / 2], endpoints[which], queued(ticket)), !is_full);
                        if !is_full {
                            inside.push((ticket, which));
                        }
                    }
                    1 => {
                        let room = Room { events: ticket as usize % 3 + 1, bytes: usize::MAX };
                        let next = queues.next(|of, _| (of == endpoints[which]).then_some(((), room)));
                        let mut oldest: Vec<u64> =
                            inside.iter().filter(|(_, of)| *of == which).map(|(ticket, _)| *ticket).collect();
                        oldest.truncate(room.events);
                        inside.retain(|(ticket, _)| !oldest.contains(ticket));
                        prop_assert_eq!(next.map(|(tickets, ())| tickets).unwrap_or_default(), oldest);
                    }
                    _ => {
                        if let Some((ticket, of)) = inside.pop() {
                            queues.remove(orgs[of / 2], endpoints[of], ticket);
                        }
                    }
                }
                prop_assert_eq!(queues.depth(), inside.len());
                prop_assert_eq!(queues.turns.len(), queues.waiting.len());
            }
        }
    }
}
