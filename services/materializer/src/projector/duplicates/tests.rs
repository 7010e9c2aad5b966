//! Duplicate decisions do not depend on the order of reading, nor on how often records are read.

use proptest::prelude::*;

use schemas::position::LogPosition;

use super::*;

fn event(org: OrgId, dedup: Option<Dedup>) -> Event {
    Event {
        org_id: org,
        event_id: EventId::generate(),
        event_type: "t".to_owned(),
        payload: "1".to_owned(),
        payload_encoding: None,
        occurred_at: None,
        source: None,
        ordering_key: None,
        metadata: BTreeMap::new(),
        dedup,
        traceparent: None,
    }
}

fn row(event: &Event, accepted_at_ms: i64) -> EventRow<'_> {
    let position = LogPosition { log_epoch: 1, partition: 0, offset: 0 };
    EventRow { event, position, accepted_at_ms, may_repeat: false, duplicate_of: None }
}

/// Indices of the duplicates with their originals, and the new key owners.
type DecidedRows = (BTreeMap<usize, EventId>, BTreeMap<Key, KeyOwner>);

fn decide_rows(mut rows: Vec<EventRow<'_>>, stored: &BTreeMap<Key, KeyOwner>, decided: &Decisions) -> DecidedRows {
    let owners = decide(&mut rows.iter_mut().collect::<Vec<_>>(), stored, decided);
    let duplicates = rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.duplicate_of?))).collect();
    (duplicates, owners)
}

fn decide_at(events: &[Event], times: &[i64], stored: &BTreeMap<Key, KeyOwner>) -> DecidedRows {
    let rows = events.iter().zip(times).map(|(event, at)| row(event, *at)).collect();
    decide_rows(rows, stored, &Decisions::new())
}

#[test]
fn the_first_event_is_the_original_until_its_window_ends() {
    let org = OrgId::generate();
    let events: Vec<Event> = (0..3).map(|_| event(org, Some(Dedup::dedup_id("k", b"body")))).collect();
    let window = 86_400_000;
    let (duplicates, owners) = decide_at(&events, &[0, window - 1, window], &BTreeMap::new());
    assert_eq!(duplicates, BTreeMap::from([(1, events[0].event_id)]));
    assert_eq!(owners.values().next().unwrap().event_id, events[2].event_id, "the key was free again");
}

#[test]
fn a_stored_owner_wins_over_the_batch() {
    let org = OrgId::generate();
    let first = event(org, Some(Dedup::dedup_id("k", b"body")));
    let stored = decide_at(std::slice::from_ref(&first), &[0], &BTreeMap::new()).1;
    let later = [event(org, Some(Dedup::dedup_id("k", b"other")))];
    let decided = decide_at(&later, &[5], &stored);
    assert_eq!(decided, (BTreeMap::from([(0, first.event_id)]), BTreeMap::new()));
}

#[test]
fn concurrent_requests_with_different_bodies_both_stay() {
    let org = OrgId::generate();
    let events = [
        event(org, Some(Dedup::idempotency_key("k", b"one"))),
        event(org, Some(Dedup::idempotency_key("k", b"other"))),
    ];
    assert!(decide_at(&events, &[0, 1], &BTreeMap::new()).0.is_empty());
}

#[test]
fn organizations_and_namespaces_have_separate_keys() {
    let (one, other) = (OrgId::generate(), OrgId::generate());
    let events = [
        event(one, Some(Dedup::dedup_id("k", b""))),
        event(other, Some(Dedup::dedup_id("k", b""))),
        event(one, Some(Dedup::idempotency_key("k", b""))),
        event(one, None),
        event(one, None),
    ];
    let (duplicates, owners) = decide_at(&events, &[0; 5], &BTreeMap::new());
    assert!(duplicates.is_empty());
    assert_eq!(owners.len(), 3);
}

#[test]
fn an_event_read_late_is_separate_from_a_much_later_one() {
    let org = OrgId::generate();
    let later = event(org, Some(Dedup::dedup_id("k", b"body")));
    let window = 86_400_000;
    let stored = decide_at(std::slice::from_ref(&later), &[window + 10], &BTreeMap::new()).1;
    let late = [event(org, Some(Dedup::dedup_id("k", b"body"))), event(org, Some(Dedup::dedup_id("k", b"body")))];
    let (duplicates, owners) = decide_at(&late, &[10, 11], &stored);
    assert_eq!(duplicates, BTreeMap::from([(1, later.event_id)]), "the first event is older than the window");
    assert!(owners.is_empty(), "the later event keeps the key");
}

#[test]
fn an_event_read_again_after_its_window_keeps_its_decision() {
    let org = OrgId::generate();
    let (shown, repeat, next) = (0, 1, 2);
    let events: Vec<Event> = (0..3).map(|_| event(org, Some(Dedup::dedup_id("k", b"body")))).collect();
    let name = |index: usize| (org, events[index].event_id);
    let decisions = Decisions::from([(name(shown), None), (name(repeat), Some(events[shown].event_id))]);
    let owners = decide_at(&events[next..], &[86_400_000], &BTreeMap::new()).1;
    // With another owner, and without one.
    for owners in [owners, BTreeMap::new()] {
        let again = [shown, repeat].iter().map(|index| row(&events[*index], 90_000_000)).collect();
        let decided = decide_rows(again, &owners, &decisions);
        assert_eq!(decided, (BTreeMap::from([(1, events[shown].event_id)]), BTreeMap::new()));
    }
}

#[test]
fn a_record_without_a_key_keeps_the_decision_of_its_id() {
    let org = OrgId::generate();
    let keyed: Vec<Event> = (0..2).map(|_| event(org, Some(Dedup::dedup_id("k", b"body")))).collect();
    let unkeyed = |index: usize| Event { dedup: None, ..keyed[index].clone() };
    let after = [keyed[0].clone(), keyed[1].clone(), unkeyed(1), unkeyed(0)];
    let original = keyed[0].event_id;
    assert_eq!(decide_at(&after, &[0; 4], &BTreeMap::new()).0, BTreeMap::from([(1, original), (2, original)]));
    let before = [unkeyed(1), keyed[0].clone(), keyed[1].clone()];
    assert!(decide_at(&before, &[0; 3], &BTreeMap::new()).0.is_empty(), "it is an event already");
}

proptest! {
    #[test]
    fn deciding_in_one_batch_or_in_many_is_the_same(keys in prop::collection::vec(0_u8..4, 1..40), cut in 0_usize..40) {
        let org = OrgId::generate();
        let events: Vec<Event> = keys.iter().map(|k| event(org, Some(Dedup::dedup_id(k.to_string(), b"")))).collect();
        let times: Vec<i64> = (0..events.len() as i64).collect();
        let at_once = decide_at(&events, &times, &BTreeMap::new());
        let cut = cut.min(events.len());
        let first = decide_at(&events[..cut], &times[..cut], &BTreeMap::new());
        let second = decide_at(&events[cut..], &times[cut..], &first.1);
        let mut joined = first.0;
        joined.extend(second.0.into_iter().map(|(index, original)| (index + cut, original)));
        prop_assert_eq!(at_once.0, joined);
    }

    /// Several partitions, read in any order and in any batches: a second reading, in any order, changes no decision.
    #[test]
    fn a_second_reading_changes_no_decision(
        log in log(),
        cuts in prop::collection::vec(1_usize..7, 30),
        again in prop::collection::vec(any::<(prop::sample::Index, bool)>(), 0..60),
    ) {
        let mut view = View::default();
        let mut rest = &log[..];
        for cut in cuts.into_iter().cycle().take(log.len()) {
            let (batch, after) = rest.split_at(cut.min(rest.len()));
            view.read(batch);
            rest = after;
        }
        let window = WINDOW_SECONDS * 1000;
        let time_of = |id: EventId| log.iter().find(|(event, _)| event.event_id == id).unwrap().1;
        for (event, at) in &log {
            if let Some(original) = view.decided[&(event.org_id, event.event_id)] {
                prop_assert_eq!(view.decided[&(event.org_id, original)], None, "an original is shown");
                prop_assert!((time_of(original) - at).abs() < window, "within the window");
            }
        }
        let (decided, owners) = (view.decided.clone(), view.owners.clone());
        for (index, is_keyed) in again {
            let (mut event, at) = index.get(&log).clone();
            event.dedup = event.dedup.filter(|_| is_keyed);
            view.read(&[(event, at)]);
        }
        view.read(&log);
        prop_assert_eq!((&view.decided, &view.owners), (&decided, &owners));
    }

    /// Within one window exactly one event of each key is shown, whatever the order. Of an idempotency key at least one
    /// event for each body is shown, because a request with another body is a separate event.
    #[test]
    fn within_one_window_each_key_is_shown_once(log in log(), named in any::<bool>()) {
        let mut view = View::default();
        let log: Vec<(Event, i64)> = log.into_iter().map(|(mut event, at)| {
            if !named {
                let dedup = event.dedup.take().unwrap();
                event.dedup = Some(Dedup { kind: DedupKind::IdempotencyKey, ..dedup });
            }
            (event, at % (WINDOW_SECONDS * 1000))
        }).collect();
        view.read(&log);
        let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut count = 0;
        for (event, _) in log.iter().filter(|(event, _)| view.decided[&(event.org_id, event.event_id)].is_none()) {
            let dedup = event.dedup.as_ref().unwrap();
            shown.entry(dedup.key.clone()).or_default().insert(dedup.body_hash.clone());
            count += 1;
        }
        for (event, _) in &log {
            let dedup = event.dedup.as_ref().unwrap();
            prop_assert!(shown[&dedup.key].contains(&dedup.body_hash) || named);
        }
        prop_assert!(!named || count == shown.len());
    }

    /// One partition whose clock never steps back: shown events of a key are a window apart, and a duplicate names the
    /// last shown event before it.
    #[test]
    fn in_one_partition_the_lower_offset_wins_within_its_window(log in log()) {
        let mut log = log;
        log.sort_by_key(|(_, at)| *at);
        let mut view = View::default();
        view.read(&log);
        let mut last: BTreeMap<&str, (EventId, i64)> = BTreeMap::new();
        for (event, at) in &log {
            let key = event.dedup.as_ref().unwrap().key.as_str();
            let expected = last.get(key).filter(|(_, first)| at - first < WINDOW_SECONDS * 1000).map(|(id, _)| *id);
            prop_assert_eq!(view.decided[&(event.org_id, event.event_id)], expected);
            if expected.is_none() {
                last.insert(key, (event.event_id, *at));
            }
        }
    }
}

const WINDOW_SECONDS: i64 = 10;

/// Events of a few keys and bodies over some windows, in the order of reading. Times go up and down, as in any number
/// of partitions.
fn log() -> impl Strategy<Value = Vec<(Event, i64)>> {
    let one = (0_u8..3, 0_u8..2, 0_i64..WINDOW_SECONDS * 4000);
    prop::collection::vec(one, 1..40).prop_map(|all| {
        let org = OrgId::generate();
        let event = |(key, body, at): (u8, u8, i64)| {
            let dedup = Dedup { window_seconds: WINDOW_SECONDS, ..Dedup::dedup_id(key.to_string(), &[body]) };
            (event(org, Some(dedup)), at)
        };
        all.into_iter().map(event).collect()
    })
}

/// The content of the tables.
#[derive(Default)]
struct View {
    owners: BTreeMap<Key, KeyOwner>,
    decided: Decisions,
}

impl View {
    /// Reads a batch, as one transaction does.
    fn read(&mut self, batch: &[(Event, i64)]) {
        let mut rows: Vec<EventRow<'_>> = batch.iter().map(|(event, at)| row(event, *at)).collect();
        let owners = decide(&mut rows.iter_mut().collect::<Vec<_>>(), &self.owners, &self.decided);
        self.decided.extend(rows.iter().map(|row| (row.id(), row.duplicate_of)));
        self.owners.extend(owners);
    }
}
