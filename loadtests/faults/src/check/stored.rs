//! Compares what was sent with what the inbox shows: nothing is lost, doubled, of another organization or out of order,
//! and the tail showed it all.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::violation::{Duplicates, Violation};
use crate::ledger::{AckState, SendOutcome, Sent, ShownEvent};

/// Compares the requests and acknowledgements of one organization with its inbox.
pub(crate) fn stored(
    org: Uuid,
    sent: &[&Sent],
    acks: &HashMap<Uuid, AckState>,
    rows: &[ShownEvent],
    duplicates: &Duplicates,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut by_tag: HashMap<&str, Vec<&ShownEvent>> = HashMap::new();
    let mut ids = HashSet::new();
    for row in rows {
        by_tag.entry(&row.tag).or_default().push(row);
        if !ids.insert(row.id) {
            found.push(Violation::new("shown-twice", format!("event {} is listed twice", row.id)));
        }
        if row.org != org {
            found.push(Violation::new(
                "wrong-organization",
                format!("event {} of organization {} is shown to {org}", row.id, row.org),
            ));
        }
    }
    let mut requests: HashMap<&str, Vec<&Sent>> = HashMap::new();
    for request in sent {
        requests.entry(&request.tag).or_default().push(request);
    }
    for (tag, requests) in &requests {
        check_tag(org, tag, requests, by_tag.get(tag).map_or(&[], Vec::as_slice), duplicates, &mut found);
    }
    for row in rows.iter().filter(|row| !requests.contains_key(row.tag.as_str())) {
        found.push(Violation::new("never-sent", format!("event {} ({}) is shown and nobody sent it", row.id, row.tag)));
    }
    check_acks(acks, rows, &mut found);
    found
}

fn check_tag(
    org: Uuid,
    tag: &str,
    requests: &[&Sent],
    rows: &[&ShownEvent],
    duplicates: &Duplicates,
    found: &mut Vec<Violation>,
) {
    let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
    let accepted: Vec<Option<Uuid>> = requests
        .iter()
        .filter_map(|request| match request.outcome {
            SendOutcome::Accepted { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    let may_be_stored = !accepted.is_empty() || requests.iter().any(|request| request.outcome == SendOutcome::Unknown);
    match rows {
        [] if !accepted.is_empty() => {
            let accepted_ids: Vec<String> = accepted.iter().flatten().map(ToString::to_string).collect();
            found.push(Violation::new(
                "lost",
                format!("{tag}, accepted as {}, is not in the inbox", accepted_ids.join(", ")),
            ));
        }
        [row, ..] if !may_be_stored => {
            found.push(Violation::new(
                "refused-yet-stored",
                format!("{tag} was refused as not stored, and is event {}", row.id),
            ));
        }
        [_, _, ..] => found.push(Violation::new("stored-twice", format!("{tag} is stored as {}", ids.join(" and ")))),
        _ => {}
    }
    let Some(row) = rows.first() else { return };
    for id in accepted.into_iter().flatten() {
        if id != row.id && duplicates.get(&(org, id)) != Some(&row.id) {
            let message = format!("{tag} was accepted as {id}, is shown as {}, and {id} is not its duplicate", row.id);
            found.push(Violation::new("unresolved", message));
        }
    }
}

fn check_acks(acks: &HashMap<Uuid, AckState>, rows: &[ShownEvent], found: &mut Vec<Violation>) {
    for row in rows {
        match acks.get(&row.id) {
            Some(AckState::Confirmed) if !row.acknowledged => {
                found.push(Violation::new(
                    "ack-lost",
                    format!("the acknowledgement of {} was confirmed and is lost", row.id),
                ));
            }
            None if row.acknowledged => {
                found.push(Violation::new(
                    "ack-unexpected",
                    format!("event {} is acknowledged although nobody acknowledged it", row.id),
                ));
            }
            _ => {}
        }
    }
}

/// The events of each sender are shown in the order in which they were accepted.
pub(crate) fn in_order(sent: &[&Sent], rows: &[ShownEvent]) -> Vec<Violation> {
    let index_of: HashMap<&str, usize> =
        rows.iter().enumerate().map(|(index, row)| (row.tag.as_str(), index)).collect();
    let mut last: HashMap<usize, (usize, &str)> = HashMap::new();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for request in sent {
        // A repeated request has no position of its own: the event keeps its first one.
        if !matches!(request.outcome, SendOutcome::Accepted { .. }) || !seen.insert(&request.tag) {
            continue;
        }
        let Some(&now) = index_of.get(request.tag.as_str()) else { continue };
        if let Some((before, tag)) = last.insert(request.sender, (now, &request.tag))
            && before > now
        {
            let message = format!("{} was accepted after {tag} of the same key and is shown before it", request.tag);
            found.push(Violation::new("order", message));
        }
    }
    found
}

/// A reader that followed the inbox by cursor was shown each event once, in the order in which it is listed now.
pub(crate) fn tail_complete(org: Uuid, seen: &[ShownEvent], rows: &[ShownEvent]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut shown_ids = HashSet::new();
    for shown in seen {
        if !shown_ids.insert(shown.id) {
            found.push(Violation::new("tail-repeated", format!("the tail of {org} showed {} twice", shown.id)));
        }
        if shown.org != org {
            let message = format!("the tail of {org} showed {} of {}", shown.id, shown.org);
            found.push(Violation::new("wrong-organization", message));
        }
    }
    for row in rows.iter().filter(|row| !shown_ids.contains(&row.id)) {
        found.push(Violation::new("tail-skipped", format!("the tail of {org} never showed {} ({})", row.id, row.tag)));
    }
    let listed: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    for shown in seen.iter().filter(|shown| !listed.contains(&shown.id)) {
        found.push(Violation::new(
            "vanished",
            format!("the tail of {org} showed {} ({}), which is no longer listed", shown.id, shown.tag),
        ));
    }
    if found.is_empty() && !seen.iter().map(|shown| shown.id).eq(rows.iter().map(|row| row.id)) {
        found.push(Violation::new(
            "tail-order",
            format!("the tail of {org} showed events in another order than they are listed in"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const ORG: Uuid = Uuid::from_u128(7);

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn sent(tag: &str, outcome: SendOutcome) -> Sent {
        let now = Instant::now();
        Sent { tenant: 0, sender: 1, tag: tag.to_owned(), started: now, finished: now, outcome }
    }

    fn accepted(tag: &str, n: u128) -> Sent {
        sent(tag, SendOutcome::Accepted { id: Some(id(n)), replayed: false })
    }

    fn row(tag: &str, n: u128) -> ShownEvent {
        ShownEvent { id: id(n), tag: tag.to_owned(), org: ORG, acknowledged: false, delivery_status: String::new() }
    }

    fn rules(
        sent: &[Sent],
        acks: &HashMap<Uuid, AckState>,
        rows: &[ShownEvent],
        duplicates: &Duplicates,
    ) -> Vec<String> {
        let sent: Vec<&Sent> = sent.iter().collect();
        stored(ORG, &sent, acks, rows, duplicates).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn accepted_is_stored_once_and_unknown_at_most_once() {
        let requests = [
            accepted("a", 1),
            sent("b", SendOutcome::Unknown),
            sent("c", SendOutcome::Unknown),
            sent("d", SendOutcome::Refused),
        ];
        let (none, no_duplicates) = (HashMap::new(), Duplicates::new());
        let found = |rows: &[ShownEvent]| rules(&requests, &none, rows, &no_duplicates);
        assert!(found(&[row("a", 1), row("b", 2)]).is_empty());
        assert_eq!(found(&[row("b", 2)]), ["lost"]);
        assert_eq!(found(&[row("a", 1), row("b", 2), row("b", 3)]), ["stored-twice"]);
        assert_eq!(found(&[row("a", 1), row("d", 4)]), ["refused-yet-stored"]);
        assert_eq!(found(&[row("a", 1), row("x", 4)]), ["never-sent"]);
        assert_eq!(found(&[ShownEvent { org: id(8), ..row("a", 1) }]), ["wrong-organization"]);
    }

    #[test]
    fn another_id_than_the_accepted_one_is_a_duplicate() {
        let requests = [accepted("a", 1), accepted("a", 2)];
        let rows = [row("a", 1)];
        assert_eq!(rules(&requests, &HashMap::new(), &rows, &Duplicates::new()), ["unresolved"]);
        assert!(rules(&requests, &HashMap::new(), &rows, &Duplicates::from([((ORG, id(2)), id(1))])).is_empty());
    }

    #[test]
    fn exactly_the_confirmed_acknowledgements_hold() {
        let requests = [accepted("a", 1), accepted("b", 2), accepted("c", 3)];
        let acks = HashMap::from([(id(1), AckState::Confirmed), (id(2), AckState::Unknown)]);
        let done = |tag: &str, n| ShownEvent { acknowledged: true, ..row(tag, n) };
        let found = |rows: &[ShownEvent]| rules(&requests, &acks, rows, &Duplicates::new());
        assert!(found(&[done("a", 1), row("b", 2), row("c", 3)]).is_empty());
        assert!(found(&[done("a", 1), done("b", 2), row("c", 3)]).is_empty());
        assert_eq!(found(&[row("a", 1), row("b", 2), row("c", 3)]), ["ack-lost"]);
        assert_eq!(found(&[done("a", 1), row("b", 2), done("c", 3)]), ["ack-unexpected"]);
    }

    #[test]
    fn events_of_a_sender_are_in_the_order_of_acceptance() {
        let requests = [accepted("a", 1), accepted("b", 2), accepted("a", 1)];
        let requests: Vec<&Sent> = requests.iter().collect();
        assert!(in_order(&requests, &[row("a", 1), row("b", 2)]).is_empty());
        assert_eq!(in_order(&requests, &[row("b", 2), row("a", 1)]).len(), 1);
    }

    #[test]
    fn a_tail_shows_each_event_once_and_in_order() {
        let rows = [row("a", 1), row("b", 2)];
        let found =
            |seen: &[ShownEvent]| tail_complete(ORG, seen, &rows).into_iter().map(|v| v.rule).collect::<Vec<_>>();
        assert!(found(&rows).is_empty());
        assert_eq!(found(&rows[..1]), ["tail-skipped"]);
        assert_eq!(found(&[row("a", 1), row("b", 2), row("a", 1)]), ["tail-repeated"]);
        assert_eq!(found(&[row("b", 2), row("a", 1)]), ["tail-order"]);
        assert_eq!(found(&[row("a", 1), row("b", 2), row("c", 3)]), ["vanished"]);
    }
}
