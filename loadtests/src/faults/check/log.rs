//! The view against the log itself, read from begin to end by the suite with the decoder of `schemas`: same events,
//! same acknowledgements, given the stored verdicts; and each verdict must have its reason on the log.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Verdicts, Violation};
use crate::faults::ledger::Shown;

/// One event as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its organization.
    pub org: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Kind, key and body hash of what names it, if it has a name.
    pub name: Option<(String, String, String)>,
    /// Where it is: partition and offset.
    pub place: (i32, i64),
}

/// One organization: what the log says, given the verdicts, is what the view shows.
pub fn equals_the_log(
    org: Uuid,
    events: &[LogEvent],
    acked: &HashSet<(Uuid, Uuid)>,
    verdicts: &Verdicts,
    rows: &[Shown],
) -> Vec<Violation> {
    let mut found = Vec::new();
    let of_org = || events.iter().filter(|event| event.org == org);
    let expected: HashSet<Uuid> =
        of_org().map(|event| event.id).filter(|id| !verdicts.contains_key(&(org, *id))).collect();
    let shown: HashMap<Uuid, bool> = rows.iter().map(|row| (row.id, row.acknowledged)).collect();
    for event in of_org().filter(|event| expected.contains(&event.id) && !shown.contains_key(&event.id)) {
        let (partition, offset) = event.place;
        let told = format!(
            "{} stands on the log at {partition}/{offset}, without a verdict against it, and is not in the view",
            event.id
        );
        found.push(Violation::new("view-lacks", told));
    }
    for id in shown.keys().filter(|id| !expected.contains(*id)) {
        found.push(Violation::new(
            "view-invents",
            format!("{id} is in the view of {org}, and the log, given the verdicts, has no such event"),
        ));
    }
    // An acknowledgement of a duplicate is one of its original.
    let resolved = |id: &Uuid| verdicts.get(&(org, *id)).copied().unwrap_or(*id);
    let acked: HashSet<Uuid> = acked.iter().filter(|(of, _)| *of == org).map(|(_, id)| resolved(id)).collect();
    for (id, acknowledged) in shown.iter().filter(|(id, acknowledged)| **acknowledged != acked.contains(*id)) {
        let told = if *acknowledged {
            "the view has it acknowledged and the log has not"
        } else {
            "the log has it acknowledged and the view has not"
        };
        found.push(Violation::new("view-acks", format!("{id}: {told}")));
    }
    found
}

/// Each duplicate has the name of its original, and of those that share a name and a body one is left.
pub fn verdicts_are_justified(org: Uuid, events: &[LogEvent], verdicts: &Verdicts) -> Vec<Violation> {
    let mut found = Vec::new();
    let of_org: HashMap<Uuid, &LogEvent> =
        events.iter().filter(|event| event.org == org).map(|event| (event.id, event)).collect();
    for (id, event) in &of_org {
        let Some(original) = verdicts.get(&(org, *id)) else { continue };
        let named_alike =
            event.name.is_some() && of_org.get(original).is_some_and(|original| original.name == event.name);
        if !named_alike {
            found.push(Violation::new(
                "verdict-unfounded",
                format!("{id} is called a duplicate of {original}, whose name it does not share"),
            ));
        }
    }
    let mut left: HashMap<&(String, String, String), Vec<Uuid>> = HashMap::new();
    for event in of_org.values().filter(|event| !verdicts.contains_key(&(org, event.id))) {
        if let Some(name) = &event.name {
            left.entry(name).or_default().push(event.id);
        }
    }
    for ((kind, key, _), ids) in left.into_iter().filter(|(_, ids)| ids.len() > 1) {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        found.push(Violation::new(
            "twins",
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
        let name = key.map(|key| ("dedup_id".to_owned(), key.to_owned(), "hash".to_owned()));
        LogEvent { org: ORG, id: id(n), name, place: (0, i64::try_from(n).unwrap()) }
    }

    fn row(n: u128, acknowledged: bool) -> Shown {
        Shown { id: id(n), tag: String::new(), owner: ORG, acknowledged, delivery_status: String::new() }
    }

    #[test]
    fn the_view_is_what_the_log_says_given_the_verdicts() {
        let events = [event(1, Some("k")), event(2, Some("k")), event(3, None)];
        let verdicts = Verdicts::from([((ORG, id(2)), id(1))]);
        // The acknowledgement names the duplicate; that of another organization counts for nothing.
        let acked = HashSet::from([(ORG, id(2)), (id(8), id(3))]);
        let judged = |rows: &[Shown]| {
            let found = equals_the_log(ORG, &events, &acked, &verdicts, rows);
            found.into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
        };
        assert!(judged(&[row(1, true), row(3, false)]).is_empty());
        assert_eq!(judged(&[row(1, true)]), ["view-lacks"]);
        assert_eq!(judged(&[row(1, true), row(3, false), row(9, false)]), ["view-invents"]);
        assert_eq!(judged(&[row(1, false), row(3, false)]), ["view-acks"]);
        assert_eq!(judged(&[row(1, true), row(3, true)]), ["view-acks"]);
    }

    #[test]
    fn a_verdict_needs_a_shared_name_and_a_shared_name_needs_a_verdict() {
        let events = [event(1, Some("k")), event(2, Some("k")), event(3, None)];
        let judged = |verdicts: &Verdicts| {
            let found = verdicts_are_justified(ORG, &events, verdicts);
            found.into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
        };
        assert!(judged(&Verdicts::from([((ORG, id(2)), id(1))])).is_empty());
        assert_eq!(judged(&Verdicts::new()), ["twins"]);
        assert_eq!(judged(&Verdicts::from([((ORG, id(2)), id(1)), ((ORG, id(3)), id(1))])), ["verdict-unfounded"]);
    }
}
