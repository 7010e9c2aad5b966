//! Compares the view with the log, which the suite reads itself: both have the same events and acknowledgements, given
//! the stored duplicate decisions; and the log justifies each of these decisions.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::violation::{Duplicates, Violation};
use crate::ledger::ShownEvent;

/// An event on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEvent {
    pub org: Uuid,
    pub id: Uuid,
    /// Kind and key of its dedup key, and its body hash, if it has a dedup key.
    pub dedup: Option<(String, String, String)>,
    pub position: (i32, i64),
}

/// For one organization the view shows what the log has, without the duplicates.
pub(crate) fn view_matches_log(
    org: Uuid,
    events: &[LogEvent],
    acked: &HashSet<(Uuid, Uuid)>,
    duplicates: &Duplicates,
    rows: &[ShownEvent],
) -> Vec<Violation> {
    let mut found = Vec::new();
    let of_org = || events.iter().filter(|event| event.org == org);
    let expected: HashSet<Uuid> =
        of_org().map(|event| event.id).filter(|id| !duplicates.contains_key(&(org, *id))).collect();
    let shown: HashMap<Uuid, bool> = rows.iter().map(|row| (row.id, row.acknowledged)).collect();
    for event in of_org().filter(|event| expected.contains(&event.id) && !shown.contains_key(&event.id)) {
        let (partition, offset) = event.position;
        let message =
            format!("{} is on the log at {partition}/{offset}, is no duplicate, and is not in the view", event.id);
        found.push(Violation::new("view-missing", message));
    }
    for id in shown.keys().filter(|id| !expected.contains(*id)) {
        found.push(Violation::new(
            "view-extra",
            format!("{id} is in the view of {org}, and is not on the log or is a duplicate"),
        ));
    }
    // An acknowledgement of a duplicate acknowledges its original.
    let resolved = |id: &Uuid| duplicates.get(&(org, *id)).copied().unwrap_or(*id);
    let acked: HashSet<Uuid> = acked.iter().filter(|(of, _)| *of == org).map(|(_, id)| resolved(id)).collect();
    for (id, acknowledged) in shown.iter().filter(|(id, acknowledged)| **acknowledged != acked.contains(*id)) {
        let (yes, no) = if *acknowledged { ("view", "log") } else { ("log", "view") };
        let message = format!("{id} is acknowledged according to the {yes} and not according to the {no}");
        found.push(Violation::new("view-acks", message));
    }
    found
}

/// Each duplicate shares dedup key and body with its original; of the events that share both, only one is no duplicate.
pub(crate) fn duplicates_justified(org: Uuid, events: &[LogEvent], duplicates: &Duplicates) -> Vec<Violation> {
    let mut found = Vec::new();
    let of_org: HashMap<Uuid, &LogEvent> =
        events.iter().filter(|event| event.org == org).map(|event| (event.id, event)).collect();
    for (id, event) in &of_org {
        let Some(original) = duplicates.get(&(org, *id)) else { continue };
        let is_justified =
            event.dedup.is_some() && of_org.get(original).is_some_and(|original| original.dedup == event.dedup);
        if !is_justified {
            found.push(Violation::new(
                "duplicate-unjustified",
                format!("{id} is a duplicate of {original} with another dedup key or body"),
            ));
        }
    }
    let mut originals: HashMap<&(String, String, String), Vec<Uuid>> = HashMap::new();
    for event in of_org.values().filter(|event| !duplicates.contains_key(&(org, event.id))) {
        if let Some(dedup) = &event.dedup {
            originals.entry(dedup).or_default().push(event.id);
        }
    }
    for ((kind, key, _), ids) in originals.into_iter().filter(|(_, ids)| ids.len() > 1) {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        found.push(Violation::new(
            "duplicate-undetected",
            format!("{} share the {kind} {key} and the body, and none is a duplicate", ids.join(" and ")),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: Uuid = Uuid::from_u128(7);

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn event(n: u128, key: Option<&str>) -> LogEvent {
        let dedup = key.map(|key| ("dedup_id".to_owned(), key.to_owned(), "hash".to_owned()));
        LogEvent { org: ORG, id: id(n), dedup, position: (0, i64::try_from(n).unwrap()) }
    }

    fn row(n: u128, acknowledged: bool) -> ShownEvent {
        ShownEvent { id: id(n), tag: String::new(), org: ORG, acknowledged, delivery_status: String::new() }
    }

    #[test]
    fn the_view_shows_the_log_without_the_duplicates() {
        let events = [event(1, Some("k")), event(2, Some("k")), event(3, None)];
        let duplicates = Duplicates::from([((ORG, id(2)), id(1))]);
        // The acknowledgement names the duplicate. The one of another organization has no effect.
        let acked = HashSet::from([(ORG, id(2)), (id(8), id(3))]);
        let rules = |rows: &[ShownEvent]| {
            let found = view_matches_log(ORG, &events, &acked, &duplicates, rows);
            found.into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
        };
        assert!(rules(&[row(1, true), row(3, false)]).is_empty());
        assert_eq!(rules(&[row(1, true)]), ["view-missing"]);
        assert_eq!(rules(&[row(1, true), row(3, false), row(9, false)]), ["view-extra"]);
        assert_eq!(rules(&[row(1, false), row(3, false)]), ["view-acks"]);
        assert_eq!(rules(&[row(1, true), row(3, true)]), ["view-acks"]);
    }

    #[test]
    fn duplicates_are_those_that_share_dedup_key_and_body() {
        let events = [event(1, Some("k")), event(2, Some("k")), event(3, None)];
        let rules = |duplicates: &Duplicates| {
            let found = duplicates_justified(ORG, &events, duplicates);
            found.into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
        };
        assert!(rules(&Duplicates::from([((ORG, id(2)), id(1))])).is_empty());
        assert_eq!(rules(&Duplicates::new()), ["duplicate-undetected"]);
        assert_eq!(rules(&Duplicates::from([((ORG, id(2)), id(1)), ((ORG, id(3)), id(1))])), ["duplicate-unjustified"]);
    }
}
