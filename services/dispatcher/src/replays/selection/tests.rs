use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const START: OffsetDateTime = datetime!(2026-11-21 9:00 UTC);

fn position(partition: i32, offset: i64) -> LogPosition {
    LogPosition { log_epoch: 1, partition, offset }
}

fn event(n: i64) -> ShownEvent {
    ShownEvent {
        id: EventId::generate(),
        event_type: "order.created".to_owned(),
        accepted_at: START + Duration::milliseconds(n),
        position: position(0, n),
    }
}

fn selection() -> Selection {
    Selection {
        org_id: OrgId::generate(),
        endpoint: EndpointId::generate(),
        only: Only::Missing,
        from: None,
        before: None,
        event_types: None,
    }
}

#[test]
fn a_time_takes_what_was_accepted_then_or_later() {
    let start = Start::at(START);
    for (later_ms, taken) in [(-1, false), (0, true), (1, true)] {
        assert_eq!(start.takes(START + Duration::milliseconds(later_ms), position(3, 9)), taken, "{later_ms}");
    }
    assert_eq!(start.earliest(), START);
}

#[test]
fn a_position_takes_its_record_and_later_ones() {
    let start = Start { at: START, record: Some((2, 50)) };
    for (partition, offset, later_ms, taken) in [
        (2, 50, 0, true),
        (2, 51, -59_000, true),
        (2, 49, 59_000, false),
        (2, 49, 0, false),
        (2, 3, 61_000, true),    // A record of a later log.
        (2, 99, -61_000, false), // A record of an older log.
        (1, 3, 0, true),
        (1, 99, -1, false),
    ] {
        let at = START + Duration::milliseconds(later_ms);
        assert_eq!(start.takes(at, position(partition, offset)), taken, "{partition} {offset} {later_ms}");
        assert!(!taken || at >= start.earliest(), "the bound for reading leaves out nothing that is taken");
    }
}

#[test]
fn only_a_token_of_the_organization_is_a_position() {
    let (key, org) = (SealingKey::from_bytes([3; 32]), OrgId::generate());
    let record = RecordPosition { partition: 2, offset: 50, appended_at_ms: to_millis(START) };
    let token = key.seal_stable_token(TOKEN_PURPOSE, org.as_uuid().as_bytes(), &record.to_bytes());
    assert_eq!(Start::of_token(&key, org, &token), Some(Start { at: START, record: Some((2, 50)) }));
    assert_eq!(Start::of_token(&key, OrgId::generate(), &token), None);
    assert_eq!(Start::of_token(&key, org, "x"), None);
    let never = RecordPosition { appended_at_ms: i64::MAX, ..record };
    let token = key.seal_stable_token(TOKEN_PURPOSE, org.as_uuid().as_bytes(), &never.to_bytes());
    assert_eq!(Start::of_token(&key, org, &token), None, "a time that cannot be stored");
}

#[test]
fn types_of_the_endpoint_and_of_the_replay_both_count() {
    let subscribed = |types: &[&str]| Subscribed {
        event_types: types.iter().map(|name| (*name).to_owned()).collect(),
        filter: None,
    };
    let all = selection();
    assert!(all.wants(&event(1), &subscribed(&[])) && all.wants(&event(1), &subscribed(&["order.*"])));
    assert!(!all.wants(&event(1), &subscribed(&["refund.*"])));
    let some = Selection { event_types: Some(vec!["order.paid".to_owned()]), ..selection() };
    assert!(!some.wants(&event(1), &subscribed(&[])));
    let later = Selection { from: Some(Start::at(START)), ..selection() };
    assert!(later.wants(&event(0), &subscribed(&[])) && !later.wants(&event(-1), &subscribed(&[])));
}

#[test]
fn missing_leaves_out_what_has_a_delivery() {
    let known = [KnownDelivery::Missing, KnownDelivery::Open, KnownDelivery::Finished];
    assert_eq!(known.map(|known| selection().wants_known(known)), [true, false, false]);
    assert!(known.iter().all(|known| Selection { only: Only::All, ..selection() }.wants_known(*known)));
}

#[test]
fn names_of_selections_are_read_back() {
    for only in [Only::Failed, Only::Missing, Only::All] {
        assert_eq!(Only::parse(only.as_str()), Some(only));
    }
    assert_eq!(Only::parse("none"), None);
}

proptest! {
    /// Page after page, each from where the last one ended, takes each match once, and ends.
    #[test]
    fn pages_take_each_match_once(
        verdicts in prop::collection::vec(prop::option::of(any::<bool>()), 0..60),
        page_rows in 1..10_usize,
        max_matched in 1..6_usize,
        looked_at in 1..5_usize,
    ) {
        // None: the type of the event is not wanted, so it is no candidate.
        let events: Vec<_> = verdicts.iter().enumerate().map(|(n, verdict)| (event(n as i64), *verdict)).collect();
        let wanted: Vec<_> = events.iter().filter(|(_, holds)| *holds == Some(true)).map(|(one, _)| one.id).collect();
        let (mut taken, mut after, mut rounds) = (Vec::new(), -1, 0);
        loop {
            let read: Vec<_> =
                events.iter().filter(|(one, _)| one.position.offset > after).take(page_rows).cloned().collect();
            let last = read.last().map(|(one, _)| (one.position, one.accepted_at));
            let is_full = read.len() == page_rows;
            let candidates = read
                .into_iter()
                .filter_map(|(event, holds)| Some((event, holds?)))
                .enumerate()
                .map(|(n, (event, holds))| {
                    let holds = (n < looked_at).then_some(holds);
                    Candidate { event, known: KnownDelivery::Missing, holds }
                })
                .collect();
            let page = page(candidates, last, is_full, max_matched);
            prop_assert!(page.matched.len() <= max_matched);
            taken.extend(page.matched.iter().map(|(one, _)| one.id));
            if page.is_end {
                break;
            }
            let (position, _) = page.last.expect("a page that is not the last one has moved");
            prop_assert!(position.offset > after);
            after = position.offset;
            rounds += 1;
            prop_assert!(rounds <= events.len());
        }
        prop_assert_eq!(taken, wanted);
    }
}
