//! Finds distinct dead letters, and those that match a filter. Pure, and bounded: it keeps positions, never bytes.
//!
//! The first position of a record identifies its letter, however often it was redriven and rejected again. A producer
//! can forge an origin, so an origin counts only among letters with the same key, and a redrive takes the bytes from
//! the letter of the first position itself.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use schemas::ids::OrgId;

use super::letter::{At, Letter, RecordPlace};

/// Maximum number of distinct dead letters in memory, about 100 MB.
const MAX_DISTINCT: usize = 500_000;

/// Filter for dead letters. Topics are full names.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Class of the newest error.
    pub class: Option<String>,
    /// Organization in the key of the record.
    pub org: Option<OrgId>,
    /// Topic of the first position.
    pub topic: Option<String>,
    /// Partition of the first position.
    pub partition: Option<i32>,
    /// Letters written at or after this time, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Letters written before this time, same unit.
    pub until_ms: Option<i64>,
    /// Positions of records; empty: any.
    pub places: HashSet<RecordPlace>,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_DISTINCT} dead letters match; narrow it with --since, --until, --org, --topic or --partition")]
pub struct TooMany;

/// A distinct dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Position that names it.
    pub place: RecordPlace,
    /// The newest letter: its error counts.
    pub newest: At,
    /// The letter whose bytes are redriven.
    pub source: At,
    /// When the newest was written, milliseconds since the Unix epoch.
    pub written_ms: i64,
    /// When the first letter was written, by the clock of its writer.
    pub first_seen_ms: Option<i64>,
    /// Number of letters.
    pub letters: u32,
}

/// First position and append time: after a topic was recreated, another record may have the same position.
type FirstPosition = (Arc<str>, i32, i64, i64);
/// With a hash of the record's key.
type LetterKey = (FirstPosition, u64);

#[derive(Debug)]
struct LetterEntry {
    newest: At,
    newest_refused: (Arc<str>, i32, i64),
    of_first_position: Option<At>,
    written_ms: i64,
    first_seen_ms: Option<i64>,
    letters: u32,
    class: Arc<str>,
}

#[derive(Debug)]
pub struct Index {
    wanted: Wanted,
    entries: HashMap<LetterKey, LetterEntry>,
    /// Interned topics and classes: few values, in many letters.
    names: HashSet<Arc<str>>,
    /// Wanted positions for which a letter was found.
    found: HashSet<RecordPlace>,
}

impl Index {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, entries: HashMap::new(), names: HashSet::new(), found: HashSet::new() }
    }

    /// Adds the next letter, if it matches. Letters of one partition must come in offset order.
    ///
    /// # Errors
    /// When more letters match than fit in memory.
    pub fn note(&mut self, letter: &Letter) -> Result<(), TooMany> {
        if !self.is_wanted(letter) {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        letter.record.key.hash(&mut hasher);
        let class = self.name(&letter.class());
        let first = &letter.first;
        let key: LetterKey =
            ((self.name(&first.topic), first.partition, first.offset, first.timestamp_ms), hasher.finish());
        let is_full = self.entries.len() >= MAX_DISTINCT && !self.entries.contains_key(&key);
        if is_full {
            return Err(TooMany);
        }
        let (written_ms, at, seen) = (letter.record.timestamp_ms, letter.at(), letter.first_seen_ms());
        let refused = (self.name(&letter.refused_at.topic), letter.refused_at.partition, letter.refused_at.offset);
        let entry = self.entries.entry(key).or_insert_with(|| LetterEntry {
            newest: at,
            newest_refused: refused.clone(),
            of_first_position: None,
            written_ms,
            first_seen_ms: seen,
            letters: 0,
            class: class.clone(),
        });
        entry.letters = entry.letters.saturating_add(1);
        entry.first_seen_ms = entry.first_seen_ms.min(seen).or(seen);
        if letter.is_of_the_first() {
            entry.of_first_position = Some(at);
        }
        if (written_ms, at) >= (entry.written_ms, entry.newest) {
            (entry.newest, entry.newest_refused, entry.written_ms, entry.class) = (at, refused, written_ms, class);
        }
        Ok(())
    }

    /// Wanted positions without a letter.
    pub fn missing(&self) -> Vec<&RecordPlace> {
        let mut missing: Vec<&RecordPlace> = self.wanted.places.difference(&self.found).collect();
        missing.sort();
        missing
    }

    /// Classes of all letters that match apart from their class, in alphabetical order: for an error text if no letter
    /// has the wanted class.
    pub fn classes(&self) -> BTreeSet<Arc<str>> {
        self.entries.values().map(|entry| entry.class.clone()).collect()
    }

    /// The matching letters, the newest first.
    pub fn picks(self) -> Vec<Pick> {
        let certain: HashSet<&FirstPosition> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.of_first_position.is_some())
            .map(|((place, _), _)| place)
            .collect();
        let of_class = |entry: &LetterEntry| self.wanted.class.as_ref().is_none_or(|class| **class == *entry.class);
        let pick = |((first, _), entry): (&LetterKey, &LetterEntry)| {
            // Another record was at the position that this one claims: this one is named by its own position.
            let is_claimed = entry.of_first_position.is_none() && certain.contains(first);
            let (topic, partition, offset) =
                if is_claimed { entry.newest_refused.clone() } else { (first.0.clone(), first.1, first.2) };
            let place = RecordPlace { topic: topic.to_string(), partition, offset };
            let is_meant = !is_claimed || self.wanted.places.is_empty() || self.wanted.places.contains(&place);
            is_meant.then_some(Pick {
                place,
                newest: entry.newest,
                source: entry.of_first_position.unwrap_or(entry.newest),
                written_ms: entry.written_ms,
                first_seen_ms: entry.first_seen_ms,
                letters: entry.letters,
            })
        };
        let mut picks: Vec<Pick> = self.entries.iter().filter(|(_, entry)| of_class(entry)).filter_map(pick).collect();
        picks.sort_by_key(|pick| Reverse((pick.written_ms, pick.newest)));
        picks
    }

    /// Checks everything except the class: the class of the newest letter is not known yet.
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
        self.found.extend(named);
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
    fn letters_of_one_record_are_one_with_its_newest_error() {
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
    fn a_redrive_takes_the_bytes_of_the_first_position() {
        let letters = [letter((0, 5), 10, 7, 7, "malformed", A), letter((0, 6), 20, 8, 7, "malformed", A)];
        assert_eq!(picks(Wanted::default(), &letters)[0].source, (0, 5));
        assert_eq!(picks(Wanted::default(), &letters[1..])[0].source, (0, 6), "the first letter has expired");
    }

    #[test]
    fn a_letter_is_found_by_its_first_and_its_last_position() {
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
