//! Which dead letters are distinct, and which of them are wanted. Pure, and bounded: places are held here, never bytes.
//!
//! The place where a record stood first identifies its letter, however often it was redriven and refused again. An
//! origin is what a producer says, so it counts only among letters of one key, and the bytes that go back are those of
//! the letter that was made at that place itself.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use schemas::ids::OrgId;

use super::letter::{At, Letter, RecordPlace};

/// Distinct dead letters that are looked at together at most, about 100 MB.
const MAX_DISTINCT: usize = 500_000;

/// What is wanted. Topics are full names.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// By the newest reason.
    pub class: Option<String>,
    /// As the record's key.
    pub org: Option<OrgId>,
    /// Of the record that was refused first.
    pub topic: Option<String>,
    /// Of that record too.
    pub partition: Option<i32>,
    /// Written then or later, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    /// These places; empty: any.
    pub places: HashSet<RecordPlace>,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_DISTINCT} dead letters match; narrow it with --since, --until, --org, --topic or --partition")]
pub struct TooMany;

/// A distinct dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// What it is called.
    pub place: RecordPlace,
    /// The newest letter: its reason counts.
    pub newest: At,
    /// The letter whose bytes go back.
    pub source: At,
    /// When the newest was written, milliseconds since the Unix epoch.
    pub written_ms: i64,
    /// When the first one that was found was, by the clock of who wrote it.
    pub first_seen_ms: Option<i64>,
    /// How many letters there are of it.
    pub letters: u32,
}

/// The place of the first record, with its time: the same place may be another record's once the topic was made anew.
type FirstPlace = (Arc<str>, i32, i64, i64);
/// With a hash of the record's key.
type Key = (FirstPlace, u64);

#[derive(Debug)]
struct Entry {
    newest: At,
    newest_refused: (Arc<str>, i32, i64),
    of_the_first: Option<At>,
    written_ms: i64,
    first_seen_ms: Option<i64>,
    letters: u32,
    class: Arc<str>,
}

#[derive(Debug)]
pub struct Index {
    wanted: Wanted,
    entries: HashMap<Key, Entry>,
    /// Topics and classes: few, and named by many.
    names: HashSet<Arc<str>>,
    /// Places asked for that a letter was found of.
    met: HashSet<RecordPlace>,
}

impl Index {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, entries: HashMap::new(), names: HashSet::new(), met: HashSet::new() }
    }

    /// Looks at the next letter. Letters of one partition come in their order.
    ///
    /// # Errors
    /// When more than fit are wanted.
    pub fn note(&mut self, letter: &Letter) -> Result<(), TooMany> {
        if !self.is_wanted(letter) {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        letter.record.key.hash(&mut hasher);
        let class = self.name(&letter.class());
        let first = &letter.first;
        let key: Key = ((self.name(&first.topic), first.partition, first.offset, first.timestamp_ms), hasher.finish());
        let is_full = self.entries.len() >= MAX_DISTINCT && !self.entries.contains_key(&key);
        if is_full {
            return Err(TooMany);
        }
        let (written_ms, at, seen) = (letter.record.timestamp_ms, letter.at(), letter.first_seen_ms());
        let refused = (self.name(&letter.refused_at.topic), letter.refused_at.partition, letter.refused_at.offset);
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            newest: at,
            newest_refused: refused.clone(),
            of_the_first: None,
            written_ms,
            first_seen_ms: seen,
            letters: 0,
            class: class.clone(),
        });
        entry.letters = entry.letters.saturating_add(1);
        entry.first_seen_ms = entry.first_seen_ms.min(seen).or(seen);
        if letter.is_of_the_first() {
            entry.of_the_first = Some(at);
        }
        if (written_ms, at) >= (entry.written_ms, entry.newest) {
            (entry.newest, entry.newest_refused, entry.written_ms, entry.class) = (at, refused, written_ms, class);
        }
        Ok(())
    }

    /// Places that were asked for and have no letter.
    pub fn missing(&self) -> Vec<&RecordPlace> {
        let mut missing: Vec<&RecordPlace> = self.wanted.places.difference(&self.met).collect();
        missing.sort();
        missing
    }

    /// The classes of what was found before it is asked for its class, in alphabetical order: an answer to a class that
    /// is not there.
    pub fn classes(&self) -> BTreeSet<Arc<str>> {
        self.entries.values().map(|entry| entry.class.clone()).collect()
    }

    /// What was found, the newest first.
    pub fn picks(self) -> Vec<Pick> {
        let certain: HashSet<&FirstPlace> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.of_the_first.is_some())
            .map(|((place, _), _)| place)
            .collect();
        let of_class = |entry: &Entry| self.wanted.class.as_ref().is_none_or(|class| **class == *entry.class);
        let pick = |((first, _), entry): (&Key, &Entry)| {
            // Somebody else's record stood at the place that this one claims: it goes by its own.
            let is_claimed = entry.of_the_first.is_none() && certain.contains(first);
            let (topic, partition, offset) =
                if is_claimed { entry.newest_refused.clone() } else { (first.0.clone(), first.1, first.2) };
            let place = RecordPlace { topic: topic.to_string(), partition, offset };
            let is_meant = !is_claimed || self.wanted.places.is_empty() || self.wanted.places.contains(&place);
            is_meant.then_some(Pick {
                place,
                newest: entry.newest,
                source: entry.of_the_first.unwrap_or(entry.newest),
                written_ms: entry.written_ms,
                first_seen_ms: entry.first_seen_ms,
                letters: entry.letters,
            })
        };
        let mut picks: Vec<Pick> = self.entries.iter().filter(|(_, entry)| of_class(entry)).filter_map(pick).collect();
        picks.sort_by_key(|pick| Reverse((pick.written_ms, pick.newest)));
        picks
    }

    /// All but the class, which is that of the newest letter and so not known yet.
    fn is_wanted(&mut self, letter: &Letter) -> bool {
        let wanted = &self.wanted;
        let fits = wanted.org.is_none_or(|org| letter.organization() == Some(org))
            && wanted.topic.as_ref().is_none_or(|topic| *topic == letter.first.topic)
            && wanted.partition.is_none_or(|partition| partition == letter.first.partition)
            && wanted.since_ms.is_none_or(|since| letter.record.timestamp_ms >= since)
            && wanted.until_ms.is_none_or(|until| letter.record.timestamp_ms < until);
        if !fits || wanted.places.is_empty() {
            return fits;
        }
        let named: Vec<RecordPlace> = [&letter.first, &letter.refused_at]
            .into_iter()
            .map(RecordPlace::of)
            .filter(|place| wanted.places.contains(place))
            .collect();
        let is_named = !named.is_empty();
        self.met.extend(named);
        is_named
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let name: Arc<str> = Arc::from(text);
        self.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::letter;
    use super::*;

    const A: Option<&str> = Some("0192f0c1-2345-7abc-8def-0123456789ab");
    const B: Option<&str> = Some("0192f0c1-2345-7abc-8def-0123456789ac");

    fn picks(wanted: Wanted, letters: &[Letter]) -> Vec<Pick> {
        let mut index = Index::new(wanted);
        letters.iter().for_each(|letter| index.note(letter).unwrap());
        index.picks()
    }

    fn offsets(picks: &[Pick]) -> Vec<i64> {
        picks.iter().map(|pick| pick.place.offset).collect()
    }

    #[test]
    fn a_repeat_and_a_redriven_record_are_the_same_letter_with_its_newest_reason() {
        let letters = [
            letter((0, 0), 10, 7, 7, "unknown_organization", A),
            letter((0, 1), 11, 7, 7, "unknown_organization", A),
            letter((0, 2), 20, 8, 7, "malformed", A),
            letter((1, 0), 15, 9, 9, "malformed", B),
        ];
        let found = picks(Wanted::default(), &letters);
        assert_eq!(offsets(&found), [7, 9], "the newest first");
        assert_eq!((found[0].newest, found[0].source, found[0].letters), ((0, 2), (0, 1), 3));
        assert_eq!((found[0].written_ms, found[0].first_seen_ms), (20, Some(10)));
        let of_class = |class: &str| picks(Wanted { class: Some(class.to_owned()), ..Wanted::default() }, &letters);
        assert_eq!(offsets(&of_class("malformed")), [7, 9]);
        assert!(of_class("unknown_organization").is_empty(), "the newest reason counts");
    }

    #[test]
    fn an_origin_that_another_key_claims_hides_nobodys_letter() {
        let letters = [letter((0, 0), 10, 7, 7, "malformed", A), letter((1, 0), 20, 8, 7, "malformed", B)];
        for letters in [&letters[..], &[letters[1].clone(), letters[0].clone()]] {
            let found = picks(Wanted::default(), letters);
            assert_eq!(offsets(&found), [8, 7]);
            assert_eq!((found[0].source, found[1].source), ((1, 0), (0, 0)));
            let place = |offset| HashSet::from([RecordPlace { topic: "t.events".to_owned(), partition: 3, offset }]);
            assert_eq!(offsets(&picks(Wanted { places: place(7), ..Wanted::default() }, letters)), [7]);
            assert_eq!(picks(Wanted { places: place(8), ..Wanted::default() }, letters)[0].source, (1, 0));
        }
    }

    #[test]
    fn the_bytes_that_go_back_are_those_of_the_first_record_whatever_claims_to_be_it() {
        let letters = [letter((0, 5), 10, 7, 7, "malformed", A), letter((0, 6), 20, 8, 7, "malformed", A)];
        assert_eq!(picks(Wanted::default(), &letters)[0].source, (0, 5));
        assert_eq!(picks(Wanted::default(), &letters[1..])[0].source, (0, 6), "the first letter has expired");
    }

    #[test]
    fn filters_narrow_and_named_places_are_found_by_either_place() {
        let letters = [
            letter((0, 0), 10, 7, 7, "malformed", A),
            letter((0, 1), 20, 8, 7, "malformed", A),
            letter((1, 0), 30, 9, 9, "malformed", B),
        ];
        let with = |wanted: Wanted| offsets(&picks(wanted, &letters));
        assert_eq!(with(Wanted { org: A.map(|id| id.parse().unwrap()), ..Wanted::default() }), [7]);
        assert_eq!(with(Wanted { since_ms: Some(20), ..Wanted::default() }), [9, 7]);
        assert_eq!(with(Wanted { since_ms: Some(20), until_ms: Some(30), ..Wanted::default() }), [7]);
        assert!(with(Wanted { topic: Some("other".to_owned()), ..Wanted::default() }).is_empty());
        assert!(with(Wanted { partition: Some(4), ..Wanted::default() }).is_empty());
        let place = |offset| RecordPlace { topic: "t.events".to_owned(), partition: 3, offset };
        assert_eq!(with(Wanted { places: HashSet::from([place(8)]), ..Wanted::default() }), [7]);
        let mut index = Index::new(Wanted { places: HashSet::from([place(9), place(10)]), ..Wanted::default() });
        letters.iter().for_each(|letter| index.note(letter).unwrap());
        assert_eq!(index.missing(), [&place(10)]);
        assert_eq!(offsets(&index.picks()), [9]);
    }
}
