//! Changes of conditions that are not written yet, the newest of each endpoint. Pure.

use std::collections::BTreeMap;

use schemas::ids::EndpointId;

use super::condition::{Condition, ConditionChange};
use super::endpoint::{EndpointSlots, INITIAL_WINDOW};
use super::table::Asking;

/// At most one per endpoint that this process knows.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<EndpointId, ConditionChange>);

impl Changes {
    /// Notes what the start or the end of an attempt has changed of its endpoint.
    pub(super) fn note(&mut self, asking: Asking, state: &mut EndpointSlots, is_failing: Option<bool>) {
        let Asking { endpoint_id, max_in_flight, .. } = asking;
        let condition = state.changed_condition(max_in_flight);
        if condition.is_none() && is_failing.is_none() {
            return;
        }
        let change = ConditionChange { endpoint_id, condition, is_failing };
        self.0.entry(endpoint_id).and_modify(|old| *old = newer(*old, change)).or_insert(change);
    }

    /// An endpoint is forgotten: its condition is that of a new one.
    pub(super) fn forget(&mut self, endpoint_id: EndpointId) {
        let condition = Some(Condition::initial(INITIAL_WINDOW));
        let change = ConditionChange { endpoint_id, condition, is_failing: None };
        self.0.entry(endpoint_id).and_modify(|old| *old = newer(*old, change)).or_insert(change);
    }

    pub(super) fn take(&mut self, max: usize) -> Vec<ConditionChange> {
        std::iter::from_fn(|| self.0.pop_first()).take(max).map(|(_, change)| change).collect()
    }

    pub(super) fn put_back(&mut self, change: ConditionChange) {
        self.0.entry(change.endpoint_id).and_modify(|new| *new = newer(change, *new)).or_insert(change);
    }
}

fn newer(old: ConditionChange, new: ConditionChange) -> ConditionChange {
    ConditionChange { condition: new.condition.or(old.condition), is_failing: new.is_failing.or(old.is_failing), ..new }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::attempt::slots::condition::CircuitState;

    #[test]
    fn the_newest_of_each_kind_is_written() {
        let endpoint_id = EndpointId::generate();
        let open = Condition { circuit: CircuitState::Open { until: Instant::now() }, ..Condition::initial(1) };
        let change = |condition, is_failing| ConditionChange { endpoint_id, condition, is_failing };
        let mut changes = Changes::default();
        changes.put_back(change(Some(open), Some(true)));
        assert_eq!(changes.take(10), [change(Some(open), Some(true))]);
        assert_eq!(changes.take(10), []);
        changes.forget(endpoint_id);
        changes.put_back(change(Some(open), Some(true)));
        let forgotten = Condition::initial(INITIAL_WINDOW);
        assert_eq!(changes.take(10), [change(Some(forgotten), Some(true))], "what is put back is older");
    }
}
