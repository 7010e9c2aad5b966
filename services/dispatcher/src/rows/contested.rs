//! Two rows of one delivery in one statement: an event id that stands at several places of the log, because its record
//! was written again. Pure. What holds for a row that is in the table already is said by `insert`, by the same rules.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use schemas::ids::DeliveryId;
use serde_json::{Value, json};

use super::NewRow;
use crate::delivery::RowState;

/// A row to write, where it stands, and for which places of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    pub(super) row: &'a NewRow,
    /// The row's own; of contested ones in one partition the last.
    pub(super) offset: i64,
    /// First and last offset by partition, where the verdict on several places is open. Of whatever log epoch: in doubt
    /// it is sent.
    contested: BTreeMap<i32, (i64, i64)>,
}

impl<'a> Candidate<'a> {
    fn new(row: &'a NewRow) -> Self {
        Self { row, offset: row.delivery.event.offset, contested: BTreeMap::new() }
    }

    /// The verdict on both is open.
    fn contest(before: Self, row: &'a NewRow) -> Self {
        let own = row.delivery.event.offset;
        let is_same_partition = before.row.delivery.event.partition == row.delivery.event.partition;
        let offset = if is_same_partition { own.max(before.offset) } else { own };
        let mut contested = before.contested;
        for event in [&before.row.delivery.event, &row.delivery.event] {
            let range = contested.entry(event.partition).or_insert((event.offset, event.offset));
            *range = (range.0.min(event.offset), range.1.max(event.offset));
        }
        Self { row, offset, contested }
    }

    /// Its places as `delivery_schedule` has them; nothing for one place, which is the row's own.
    pub(super) fn places(&self) -> Option<String> {
        let places =
            self.contested.iter().map(|(partition, (first, last))| (partition.to_string(), json!([first, last])));
        (!self.contested.is_empty()).then(|| Value::Object(places.collect()).to_string())
    }
}

/// One row per delivery, in the order of their ids. A row that waits for a verdict gives way to one of another place:
/// nothing is known of it yet, and if both wait, whichever of their places the view shows, the row that stays is sent.
pub(super) fn settle(rows: &[NewRow]) -> Vec<Candidate<'_>> {
    let mut chosen: HashMap<DeliveryId, Candidate<'_>> = HashMap::with_capacity(rows.len());
    for row in rows {
        match chosen.entry(row.delivery.id) {
            Entry::Vacant(free) => drop(free.insert(Candidate::new(row))),
            Entry::Occupied(mut taken) => {
                let before = taken.get();
                if before.row.state == RowState::AwaitingVerdict && place(before.row) != place(row) {
                    let is_open = row.state == RowState::AwaitingVerdict;
                    let now = if is_open { Candidate::contest(before.clone(), row) } else { Candidate::new(row) };
                    taken.insert(now);
                }
            }
        }
    }
    let mut chosen: Vec<Candidate<'_>> = chosen.into_values().collect();
    chosen.sort_unstable_by_key(|candidate| candidate.row.delivery.id);
    chosen
}

fn place(row: &NewRow) -> (i32, i64) {
    (row.delivery.event.partition, row.delivery.event.offset)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use schemas::ids::{EndpointId, EventId, OrgId};

    use super::*;
    use crate::delivery::{Accepted, Delivery};

    fn row(ids: (EndpointId, EventId), offset: i64, state: RowState) -> NewRow {
        let event = Accepted {
            org_id: OrgId::generate(),
            event_id: ids.1,
            event_type: "a".to_owned(),
            accepted_at_ms: 0,
            payload: String::new(),
            traceparent: None,
            log_epoch: 1,
            partition: 0,
            offset,
        };
        NewRow {
            delivery: Delivery::new(ids.0, Arc::new(event)),
            state,
            attempts: 0,
            due_after: Duration::ZERO,
            lease: None,
        }
    }

    #[test]
    fn of_two_places_of_one_event_one_row_is_left_and_knows_of_the_contest() {
        use RowState::{AwaitingVerdict, Pending};
        let ids = (EndpointId::generate(), EventId::generate());
        let left = |states: &[(i64, RowState)]| {
            let rows: Vec<NewRow> = states.iter().map(|(offset, state)| row(ids, *offset, *state)).collect();
            let chosen = settle(&rows);
            assert_eq!(chosen.len(), 1);
            (chosen[0].offset, chosen[0].row.state, chosen[0].places())
        };
        let contested = |first: i64, last: i64| Some(format!("{{\"0\":[{first},{last}]}}"));
        assert_eq!(left(&[(1, AwaitingVerdict)]), (1, AwaitingVerdict, None));
        assert_eq!(
            left(&[(1, AwaitingVerdict), (1, AwaitingVerdict)]),
            (1, AwaitingVerdict, None),
            "the same record twice"
        );
        assert_eq!(left(&[(1, AwaitingVerdict), (2, AwaitingVerdict)]), (2, AwaitingVerdict, contested(1, 2)));
        assert_eq!(
            left(&[(2, AwaitingVerdict), (1, AwaitingVerdict)]),
            (2, AwaitingVerdict, contested(1, 2)),
            "the later place, whichever came first"
        );
        assert_eq!(
            left(&[(5, AwaitingVerdict), (2, AwaitingVerdict), (9, AwaitingVerdict)]),
            (9, AwaitingVerdict, contested(2, 9))
        );
        assert_eq!(left(&[(2, AwaitingVerdict), (1, Pending)]), (1, Pending, None));
        assert_eq!(left(&[(1, AwaitingVerdict), (2, Pending)]), (2, Pending, None), "the view has shown the second");
        assert_eq!(left(&[(1, Pending), (2, AwaitingVerdict)]), (1, Pending, None), "the view has shown the first");
    }

    #[test]
    fn rows_of_other_deliveries_stay_in_the_order_of_their_ids() {
        let rows: Vec<NewRow> = (0..20)
            .map(|offset| row((EndpointId::generate(), EventId::generate()), offset, RowState::Pending))
            .collect();
        let chosen = settle(&rows);
        assert!(chosen.len() == 20 && chosen.is_sorted_by_key(|candidate| candidate.row.delivery.id));
    }
}
