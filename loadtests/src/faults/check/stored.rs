//! What was sent against what the inbox shows: nothing lost, nothing twice, nothing foreign, in order, and what the
//! tail showed.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Verdicts, Violation};
use crate::faults::ledger::{Ack, Outcome, Sent, Shown};

/// One organization's requests and acknowledgements against its whole inbox.
pub fn stored(
    org: Uuid,
    sent: &[&Sent],
    acks: &HashMap<Uuid, Ack>,
    rows: &[Shown],
    verdicts: &Verdicts,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut by_tag: HashMap<&str, Vec<&Shown>> = HashMap::new();
    let mut ids = HashSet::new();
    for row in rows {
        by_tag.entry(&row.tag).or_default().push(row);
        if !ids.insert(row.id) {
            found.push(Violation::new("shown-twice", format!("event {} is listed twice", row.id)));
        }
        if row.owner != org {
            found.push(Violation::new(
                "foreign",
                format!("event {} of organization {} is shown to {org}", row.id, row.owner),
            ));
        }
    }
    let mut requests: HashMap<&str, Vec<&Sent>> = HashMap::new();
    for request in sent {
        requests.entry(&request.tag).or_default().push(request);
    }
    for (tag, requests) in &requests {
        judge_tag(org, tag, requests, by_tag.get(tag).map_or(&[], Vec::as_slice), verdicts, &mut found);
    }
    for row in rows.iter().filter(|row| !requests.contains_key(row.tag.as_str())) {
        found.push(Violation::new("never-sent", format!("event {} ({}) is shown and nobody sent it", row.id, row.tag)));
    }
    judge_acks(acks, rows, &mut found);
    found
}

fn judge_tag(
    org: Uuid,
    tag: &str,
    requests: &[&Sent],
    rows: &[&Shown],
    verdicts: &Verdicts,
    found: &mut Vec<Violation>,
) {
    let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
    let accepted: Vec<Option<Uuid>> = requests
        .iter()
        .filter_map(|request| match request.outcome {
            Outcome::Accepted { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    let may_be = !accepted.is_empty() || requests.iter().any(|request| request.outcome == Outcome::Unknown);
    match rows {
        [] if !accepted.is_empty() => {
            let known: Vec<String> = accepted.iter().flatten().map(ToString::to_string).collect();
            found.push(Violation::new("lost", format!("{tag}, accepted as {}, is not in the inbox", known.join(", "))));
        }
        [row, ..] if !may_be => {
            found.push(Violation::new(
                "refused-yet-stored",
                format!("{tag} was refused as not stored, and is event {}", row.id),
            ));
        }
        [_, _, ..] => found.push(Violation::new("stored-twice", format!("{tag} is there as {}", ids.join(" and ")))),
        _ => {}
    }
    let Some(row) = rows.first() else { return };
    for id in accepted.into_iter().flatten() {
        if id != row.id && verdicts.get(&(org, id)) != Some(&row.id) {
            let told = format!(
                "{tag} was accepted as {id}, is shown as {}, and no verdict leads from the one to the other",
                row.id
            );
            found.push(Violation::new("unresolved", told));
        }
    }
}

fn judge_acks(acks: &HashMap<Uuid, Ack>, rows: &[Shown], found: &mut Vec<Violation>) {
    for row in rows {
        match acks.get(&row.id) {
            Some(Ack::Confirmed) if !row.acknowledged => {
                found.push(Violation::new(
                    "ack-lost",
                    format!("the acknowledgement of {} was confirmed and does not hold", row.id),
                ));
            }
            None if row.acknowledged => {
                found.push(Violation::new(
                    "ack-unasked",
                    format!("event {} is acknowledged and nobody acknowledged it", row.id),
                ));
            }
            _ => {}
        }
    }
}

/// Each sender's events are shown in the order in which it got them accepted, one after the other.
pub fn in_order(sent: &[&Sent], rows: &[Shown]) -> Vec<Violation> {
    let place: HashMap<&str, usize> = rows.iter().enumerate().map(|(place, row)| (row.tag.as_str(), place)).collect();
    let mut last: HashMap<usize, (usize, &str)> = HashMap::new();
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for request in sent {
        // A repeat says nothing about order: the event stands where it first was.
        if !matches!(request.outcome, Outcome::Accepted { .. }) || !known.insert(&request.tag) {
            continue;
        }
        let Some(&now) = place.get(request.tag.as_str()) else { continue };
        if let Some((before, tag)) = last.insert(request.sender, (now, &request.tag))
            && before > now
        {
            let told = format!("{} was accepted after {tag} of the same key, and is shown before it", request.tag);
            found.push(Violation::new("order", told));
        }
    }
    found
}

/// Whoever followed the inbox by cursor was shown every event once, in the order in which it is listed now.
pub fn tail_missed_nothing(org: Uuid, seen: &[Shown], rows: &[Shown]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    for shown in seen {
        if !known.insert(shown.id) {
            found.push(Violation::new("tail-repeated", format!("the tail of {org} showed {} twice", shown.id)));
        }
        if shown.owner != org {
            found.push(Violation::new("foreign", format!("the tail of {org} showed {} of {}", shown.id, shown.owner)));
        }
    }
    for row in rows.iter().filter(|row| !known.contains(&row.id)) {
        found.push(Violation::new("tail-skipped", format!("the tail of {org} never showed {} ({})", row.id, row.tag)));
    }
    let listed: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    for shown in seen.iter().filter(|shown| !listed.contains(&shown.id)) {
        found.push(Violation::new(
            "vanished",
            format!("the tail of {org} showed {} ({}), which is not listed any more", shown.id, shown.tag),
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

    fn sent(tag: &str, outcome: Outcome) -> Sent {
        let now = Instant::now();
        Sent { tenant: 0, sender: 1, tag: tag.to_owned(), begun: now, ended: now, outcome }
    }

    fn accepted(tag: &str, n: u128) -> Sent {
        sent(tag, Outcome::Accepted { id: Some(id(n)), replayed: false })
    }

    fn row(tag: &str, n: u128) -> Shown {
        Shown { id: id(n), tag: tag.to_owned(), owner: ORG, acknowledged: false, delivery_status: String::new() }
    }

    fn rules(sent: &[Sent], acks: &HashMap<Uuid, Ack>, rows: &[Shown], verdicts: &Verdicts) -> Vec<String> {
        let sent: Vec<&Sent> = sent.iter().collect();
        stored(ORG, &sent, acks, rows, verdicts).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn what_was_accepted_is_there_once_and_an_unknown_outcome_once_or_not_at_all() {
        let requests =
            [accepted("a", 1), sent("b", Outcome::Unknown), sent("c", Outcome::Unknown), sent("d", Outcome::Refused)];
        let (none, no_verdicts) = (HashMap::new(), Verdicts::new());
        let judged = |rows: &[Shown]| rules(&requests, &none, rows, &no_verdicts);
        assert!(judged(&[row("a", 1), row("b", 2)]).is_empty());
        assert_eq!(judged(&[row("b", 2)]), ["lost"]);
        assert_eq!(judged(&[row("a", 1), row("b", 2), row("b", 3)]), ["stored-twice"]);
        assert_eq!(judged(&[row("a", 1), row("d", 4)]), ["refused-yet-stored"]);
        assert_eq!(judged(&[row("a", 1), row("x", 4)]), ["never-sent"]);
        assert_eq!(judged(&[Shown { owner: id(8), ..row("a", 1) }]), ["foreign"]);
    }

    #[test]
    fn another_id_than_the_accepted_one_needs_a_verdict() {
        let requests = [accepted("a", 1), accepted("a", 2)];
        let rows = [row("a", 1)];
        assert_eq!(rules(&requests, &HashMap::new(), &rows, &Verdicts::new()), ["unresolved"]);
        assert!(rules(&requests, &HashMap::new(), &rows, &Verdicts::from([((ORG, id(2)), id(1))])).is_empty());
    }

    #[test]
    fn confirmed_acknowledgements_hold_and_nobody_else_acknowledges() {
        let requests = [accepted("a", 1), accepted("b", 2), accepted("c", 3)];
        let acks = HashMap::from([(id(1), Ack::Confirmed), (id(2), Ack::Unknown)]);
        let done = |tag: &str, n| Shown { acknowledged: true, ..row(tag, n) };
        let judged = |rows: &[Shown]| rules(&requests, &acks, rows, &Verdicts::new());
        assert!(judged(&[done("a", 1), row("b", 2), row("c", 3)]).is_empty());
        assert!(judged(&[done("a", 1), done("b", 2), row("c", 3)]).is_empty());
        assert_eq!(judged(&[row("a", 1), row("b", 2), row("c", 3)]), ["ack-lost"]);
        assert_eq!(judged(&[done("a", 1), row("b", 2), done("c", 3)]), ["ack-unasked"]);
    }

    #[test]
    fn a_sender_s_events_are_in_the_order_of_their_acceptance() {
        let requests = [accepted("a", 1), accepted("b", 2), accepted("a", 1)];
        let requests: Vec<&Sent> = requests.iter().collect();
        assert!(in_order(&requests, &[row("a", 1), row("b", 2)]).is_empty());
        assert_eq!(in_order(&requests, &[row("b", 2), row("a", 1)]).len(), 1);
    }

    #[test]
    fn a_tail_shows_each_event_once_and_in_order() {
        let rows = [row("a", 1), row("b", 2)];
        let judged =
            |seen: &[Shown]| tail_missed_nothing(ORG, seen, &rows).into_iter().map(|v| v.rule).collect::<Vec<_>>();
        assert!(judged(&rows).is_empty());
        assert_eq!(judged(&rows[..1]), ["tail-skipped"]);
        assert_eq!(judged(&[row("a", 1), row("b", 2), row("a", 1)]), ["tail-repeated"]);
        assert_eq!(judged(&[row("b", 2), row("a", 1)]), ["tail-order"]);
        assert_eq!(judged(&[row("a", 1), row("b", 2), row("c", 3)]), ["vanished"]);
    }
}
