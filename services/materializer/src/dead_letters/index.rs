//! Finds distinct dead letters, and those that match a filter. Pure, and bounded: it keeps positions, never bytes.
//!
//! The first position of a record identifies its dead letter, however often it was redriven and rejected again. A
//! producer can forge an origin. So an origin counts only among dead letters with the same key, and a redrive takes the
//! bytes from the dead letter of the first position itself.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use schemas::ids::OrgId;

use super::dead_letter::{DeadLetter, PartitionOffset, RecordPosition};

/// Maximum number of distinct dead letters in memory, about 100 MB.
const MAX_DISTINCT: usize = 500_000;

/// Filter for dead letters. Topics are full names.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Class of the newest error.
    pub class: Option<String>,
    /// Organization in the key of the record.
    pub org: Option<OrgId>,
    /// Topic of the first position.
    pub topic: Option<String>,
    /// Partition of the first position.
    pub partition: Option<i32>,
    /// Dead letters written at or after this time, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Dead letters written before this time, same unit.
    pub until_ms: Option<i64>,
    /// Positions of records; empty: any.
    pub positions: HashSet<RecordPosition>,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_DISTINCT} dead letters match; narrow it with --since, --until, --org, --topic or --partition")]
pub struct TooManyDeadLetters;

/// A distinct dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDeadLetter {
    /// Position that names it.
    pub position: RecordPosition,
    /// The newest dead letter: its error counts.
    pub newest: PartitionOffset,
    /// The dead letter whose bytes are redriven.
    pub source: PartitionOffset,
    /// When the newest was written, milliseconds since the Unix epoch.
    pub written_ms: i64,
    /// When the first dead letter was written, by the clock of its writer.
    pub first_seen_ms: Option<i64>,
    /// Number of dead letters of this record.
    pub count: u32,
}

/// First position and append time: after a topic was recreated, another record may have the same position.
type FirstPosition = (Arc<str>, i32, i64, i64);
/// With a hash of the record's key.
type RecordKey = (FirstPosition, u64);

#[derive(Debug)]
struct IndexEntry {
    newest: PartitionOffset,
    newest_rejected: (Arc<str>, i32, i64),
    of_first_position: Option<PartitionOffset>,
    written_ms: i64,
    first_seen_ms: Option<i64>,
    count: u32,
    class: Arc<str>,
}

#[derive(Debug)]
pub struct DeadLetterIndex {
    wanted: DeadLetterFilter,
    entries: HashMap<RecordKey, IndexEntry>,
    /// Interned topics and classes: few values, in many dead letters.
    names: HashSet<Arc<str>>,
    /// Wanted positions for which a dead letter was found.
    found: HashSet<RecordPosition>,
}

impl DeadLetterIndex {
    pub fn new(wanted: DeadLetterFilter) -> Self {
        Self { wanted, entries: HashMap::new(), names: HashSet::new(), found: HashSet::new() }
    }

    /// Adds the next dead letter, if it matches. Dead letters of one partition must come in offset order.
    ///
    /// # Errors
    /// When more dead letters match than fit in memory.
    pub fn add(&mut self, dead_letter: &DeadLetter) -> Result<(), TooManyDeadLetters> {
        if !self.is_wanted(dead_letter) {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        dead_letter.record.key.hash(&mut hasher);
        let class = self.name(&dead_letter.class());
        let first = &dead_letter.first;
        let key: RecordKey =
            ((self.name(&first.topic), first.partition, first.offset, first.timestamp_ms), hasher.finish());
        let is_full = self.entries.len() >= MAX_DISTINCT && !self.entries.contains_key(&key);
        if is_full {
            return Err(TooManyDeadLetters);
        }
        let (written_ms, at, seen) =
            (dead_letter.record.timestamp_ms, dead_letter.partition_offset(), dead_letter.first_seen_ms());
        let refused =
            (self.name(&dead_letter.refused_at.topic), dead_letter.refused_at.partition, dead_letter.refused_at.offset);
        let entry = self.entries.entry(key).or_insert_with(|| IndexEntry {
            newest: at,
            newest_rejected: refused.clone(),
            of_first_position: None,
            written_ms,
            first_seen_ms: seen,
            count: 0,
            class: class.clone(),
        });
        entry.count = entry.count.saturating_add(1);
        entry.first_seen_ms = entry.first_seen_ms.min(seen).or(seen);
        if dead_letter.is_first_rejection() {
            entry.of_first_position = Some(at);
        }
        if (written_ms, at) >= (entry.written_ms, entry.newest) {
            (entry.newest, entry.newest_rejected, entry.written_ms, entry.class) = (at, refused, written_ms, class);
        }
        Ok(())
    }

    /// Wanted positions without a dead letter.
    pub fn missing(&self) -> Vec<&RecordPosition> {
        let mut missing: Vec<&RecordPosition> = self.wanted.positions.difference(&self.found).collect();
        missing.sort();
        missing
    }

    /// Classes of all dead letters that match apart from their class, in alphabetical order: for an error text if no
    /// dead letter has the wanted class.
    pub fn classes(&self) -> BTreeSet<Arc<str>> {
        self.entries.values().map(|entry| entry.class.clone()).collect()
    }

    /// The matching dead letters, the newest first.
    pub fn into_found(self) -> Vec<FoundDeadLetter> {
        let certain: HashSet<&FirstPosition> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.of_first_position.is_some())
            .map(|((position, _), _)| position)
            .collect();
        let of_class = |entry: &IndexEntry| self.wanted.class.as_ref().is_none_or(|class| **class == *entry.class);
        let pick = |((first, _), entry): (&RecordKey, &IndexEntry)| {
            // Another record was at the position that this one claims: this one is named by its own position.
            let is_claimed = entry.of_first_position.is_none() && certain.contains(first);
            let (topic, partition, offset) =
                if is_claimed { entry.newest_rejected.clone() } else { (first.0.clone(), first.1, first.2) };
            let position = RecordPosition { topic: topic.to_string(), partition, offset };
            let is_wanted =
                !is_claimed || self.wanted.positions.is_empty() || self.wanted.positions.contains(&position);
            is_wanted.then_some(FoundDeadLetter {
                position,
                newest: entry.newest,
                source: entry.of_first_position.unwrap_or(entry.newest),
                written_ms: entry.written_ms,
                first_seen_ms: entry.first_seen_ms,
                count: entry.count,
            })
        };
        let mut picks: Vec<FoundDeadLetter> =
            self.entries.iter().filter(|(_, entry)| of_class(entry)).filter_map(pick).collect();
        picks.sort_by_key(|pick| Reverse((pick.written_ms, pick.newest)));
        picks
    }

    /// Checks everything except the class: only the newest dead letter has the class that counts.
    fn is_wanted(&mut self, dead_letter: &DeadLetter) -> bool {
        let wanted = &self.wanted;
        let fits = wanted.org.is_none_or(|org| dead_letter.organization() == Some(org))
            && wanted.topic.as_ref().is_none_or(|topic| *topic == dead_letter.first.topic)
            && wanted.partition.is_none_or(|partition| partition == dead_letter.first.partition)
            && wanted.since_ms.is_none_or(|since| dead_letter.record.timestamp_ms >= since)
            && wanted.until_ms.is_none_or(|until| dead_letter.record.timestamp_ms < until);
        if !fits || wanted.positions.is_empty() {
            return fits;
        }
        let named: Vec<RecordPosition> = [&dead_letter.first, &dead_letter.refused_at]
            .into_iter()
            .map(RecordPosition::of)
            .filter(|position| wanted.positions.contains(position))
            .collect();
        let is_named = !named.is_empty();
        self.found.extend(named);
        is_named
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(interned) = self.names.get(text) {
            return interned.clone();
        }
        let name: Arc<str> = Arc::from(text);
        self.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::super::dead_letter::tests::dead_letter;
    use super::DeadLetterFilter as Filter;
    use super::*;

    const A: Option<&str> = Some("0192f0c1-2345-7abc-8def-0123456789ab");
    const B: Option<&str> = Some("0192f0c1-2345-7abc-8def-0123456789ac");

    fn picks(wanted: Filter, records: &[DeadLetter]) -> Vec<FoundDeadLetter> {
        let mut index = DeadLetterIndex::new(wanted);
        records.iter().for_each(|dead_letter| index.add(dead_letter).unwrap());
        index.into_found()
    }

    fn offsets(picks: &[FoundDeadLetter]) -> Vec<i64> {
        picks.iter().map(|pick| pick.position.offset).collect()
    }

    #[test]
    fn dead_letters_of_one_record_are_one_entry() {
        let records = [
            dead_letter((0, 0), 10, 7, 7, "unknown_organization", A),
            dead_letter((0, 1), 11, 7, 7, "unknown_organization", A),
            dead_letter((0, 2), 20, 8, 7, "malformed", A),
            dead_letter((1, 0), 15, 9, 9, "malformed", B),
        ];
        let found = picks(Filter::default(), &records);
        assert_eq!(offsets(&found), [7, 9], "the newest first");
        assert_eq!((found[0].newest, found[0].source, found[0].count), ((0, 2), (0, 1), 3));
        assert_eq!((found[0].written_ms, found[0].first_seen_ms), (20, Some(10)));
        let of_class = |class: &str| picks(Filter { class: Some(class.to_owned()), ..Filter::default() }, &records);
        assert_eq!(offsets(&of_class("malformed")), [7, 9]);
        assert!(of_class("unknown_organization").is_empty(), "the newest reason counts");
    }

    #[test]
    fn an_origin_that_another_key_claims_hides_nobodys_letter() {
        let records = [dead_letter((0, 0), 10, 7, 7, "malformed", A), dead_letter((1, 0), 20, 8, 7, "malformed", B)];
        for records in [&records[..], &[records[1].clone(), records[0].clone()]] {
            let found = picks(Filter::default(), records);
            assert_eq!(offsets(&found), [8, 7]);
            assert_eq!((found[0].source, found[1].source), ((1, 0), (0, 0)));
            let position =
                |offset| HashSet::from([RecordPosition { topic: "t.events".to_owned(), partition: 3, offset }]);
            assert_eq!(offsets(&picks(Filter { positions: position(7), ..Filter::default() }, records)), [7]);
            assert_eq!(picks(Filter { positions: position(8), ..Filter::default() }, records)[0].source, (1, 0));
        }
    }

    #[test]
    fn a_redrive_takes_the_bytes_of_the_first_position() {
        let records = [dead_letter((0, 5), 10, 7, 7, "malformed", A), dead_letter((0, 6), 20, 8, 7, "malformed", A)];
        assert_eq!(picks(Filter::default(), &records)[0].source, (0, 5));
        assert_eq!(picks(Filter::default(), &records[1..])[0].source, (0, 6), "the first dead letter has expired");
    }

    #[test]
    fn a_letter_is_found_by_its_first_and_its_last_position() {
        let records = [
            dead_letter((0, 0), 10, 7, 7, "malformed", A),
            dead_letter((0, 1), 20, 8, 7, "malformed", A),
            dead_letter((1, 0), 30, 9, 9, "malformed", B),
        ];
        let with = |wanted: Filter| offsets(&picks(wanted, &records));
        assert_eq!(with(Filter { org: A.map(|id| id.parse().unwrap()), ..Filter::default() }), [7]);
        assert_eq!(with(Filter { since_ms: Some(20), ..Filter::default() }), [9, 7]);
        assert_eq!(with(Filter { since_ms: Some(20), until_ms: Some(30), ..Filter::default() }), [7]);
        assert!(with(Filter { topic: Some("other".to_owned()), ..Filter::default() }).is_empty());
        assert!(with(Filter { partition: Some(4), ..Filter::default() }).is_empty());
        let position = |offset| RecordPosition { topic: "t.events".to_owned(), partition: 3, offset };
        assert_eq!(with(Filter { positions: HashSet::from([position(8)]), ..Filter::default() }), [7]);
        let mut index =
            DeadLetterIndex::new(Filter { positions: HashSet::from([position(9), position(10)]), ..Filter::default() });
        records.iter().for_each(|dead_letter| index.add(dead_letter).unwrap());
        assert_eq!(index.missing(), [&position(10)]);
        assert_eq!(offsets(&index.into_found()), [9]);
    }
}
