//! The inbox cursor: which place of each partition a reading has reached, and in which direction it goes. Pure; sealed
//! per organization, so that it tells a tenant nothing about the log. What a page is made of lives in `merge` and
//! `query`.
//!
//! A cursor names places, not rows: it stays good while events arrive, are acknowledged or are filtered otherwise, and
//! while partitions are added.

use std::collections::BTreeMap;

use platform::seal::SealingKey;
use schemas::ids::OrgId;

/// Purpose of the sealed token.
const PURPOSE: &str = "cursor";
/// First byte of the sealed bytes; another layout gets another one.
const VERSION: u8 = 1;
/// Far above any partition count; bounds what a cursor may make us allocate.
const MAX_PARTITIONS: u64 = 4096;

/// Direction of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A place within one partition. Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Offsets of different log epochs do not compare; a later epoch is later.
    pub log_epoch: i32,
    /// Offset within the partition.
    pub offset: i64,
}

/// Places by partition.
pub type Marks = BTreeMap<i32, Mark>;

/// How far a reading has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// Everything up to and including these marks was read; a partition without one was not read yet.
    Ascending(Marks),
    /// Goes down from where the log stood at the first page.
    Descending {
        /// The newest event of each partition at the first page. A partition that is not here came later and is no part
        /// of the reading.
        start: Marks,
        /// The oldest event read so far; a partition without one was not read yet.
        reached: Marks,
    },
}

/// The token is not a cursor of this organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this inbox")]
pub struct Unreadable;

/// What a page may read of one partition: the places strictly between two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Upwards, everything after the mark; from the beginning without one.
    After(Option<Mark>),
    /// Downwards, everything before the mark.
    Before(Mark),
    /// Downwards, the mark itself and everything before it.
    UpTo(Mark),
}

impl Cursor {
    /// The cursor of a reading that has read nothing yet; `heads` is the newest event of each partition.
    pub fn start(order: Order, heads: &Marks) -> Self {
        match order {
            Order::Ascending => Self::Ascending(Marks::new()),
            Order::Descending => Self::Descending { start: heads.clone(), reached: Marks::new() },
        }
    }

    /// The direction it goes.
    pub const fn order(&self) -> Order {
        match self {
            Self::Ascending(_) => Order::Ascending,
            Self::Descending { .. } => Order::Descending,
        }
    }

    /// What is still to be read of `partition`; `None` when it is no part of the reading.
    pub fn range(&self, partition: i32) -> Option<Range> {
        match self {
            Self::Ascending(marks) => Some(Range::After(marks.get(&partition).copied())),
            Self::Descending { start, reached } => {
                let highest = start.get(&partition)?;
                Some(reached.get(&partition).map_or(Range::UpTo(*highest), |mark| Range::Before(*mark)))
            }
        }
    }

    /// Notes that the reading has come to `mark`. A mark behind the one known changes nothing.
    pub fn reach(&mut self, partition: i32, mark: Mark) {
        match self {
            Self::Ascending(marks) => {
                let known = marks.entry(partition).or_insert(mark);
                *known = mark.max(*known);
            }
            Self::Descending { reached, .. } => {
                let known = reached.entry(partition).or_insert(mark);
                *known = mark.min(*known);
            }
        }
    }

    /// Goes past what was dropped (its newest place by partition), but never past what is still there (its oldest place
    /// by partition); `true` when some of it had not been read. A descending reading meets the end of what there is
    /// anyway.
    pub fn skip(&mut self, dropped: &Marks, oldest: &Marks) -> bool {
        let Self::Ascending(marks) = self else { return false };
        let mut missed = false;
        for (partition, gone) in dropped {
            if marks.get(partition).is_some_and(|reached| reached >= gone) {
                continue;
            }
            missed = true;
            // The broker's clock may have stepped back, so that what is kept lies before what was dropped.
            let before_oldest = oldest.get(partition).map(|mark| Mark { offset: (mark.offset - 1).max(0), ..*mark });
            let target = before_oldest.map_or(*gone, |kept| kept.min(*gone));
            if oldest.get(partition).is_none_or(|kept| target < *kept) {
                let known = marks.entry(*partition).or_insert(target);
                *known = target.max(*known);
            }
        }
        missed
    }

    /// The cursor that continues with what arrives later: a descending reading's is the ascending one at its start.
    pub fn resume(&self) -> Self {
        match self {
            Self::Ascending(marks) => Self::Ascending(marks.clone()),
            Self::Descending { start, .. } => Self::Ascending(start.clone()),
        }
    }

    /// The token that a client carries.
    pub fn seal(&self, key: &SealingKey, organization: OrgId) -> String {
        key.seal_token(PURPOSE, organization.as_uuid().as_bytes(), &self.to_bytes())
    }

    /// Reads a client's token.
    ///
    /// # Errors
    /// When it was not made by [`Self::seal`] for this organization.
    pub fn open(key: &SealingKey, organization: OrgId, token: &str) -> Result<Self, Unreadable> {
        let bytes = key.open_token(PURPOSE, organization.as_uuid().as_bytes(), token).ok_or(Unreadable)?;
        Self::from_bytes(&bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Ascending(marks) => {
                bytes.push(0);
                put_marks(&mut bytes, marks);
            }
            Self::Descending { start, reached } => {
                bytes.push(1);
                put_marks(&mut bytes, start);
                put_marks(&mut bytes, reached);
            }
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(Unreadable);
        }
        let cursor = match reader.byte()? {
            0 => Self::Ascending(reader.marks()?),
            1 => Self::Descending { start: reader.marks()?, reached: reader.marks()? },
            _ => return Err(Unreadable),
        };
        if reader.0.is_empty() { Ok(cursor) } else { Err(Unreadable) }
    }
}

fn put_marks(bytes: &mut Vec<u8>, marks: &Marks) {
    put_varint(bytes, marks.len() as u64);
    for (partition, mark) in marks {
        // None of the three is ever negative; if one were, its bits come back as they went.
        put_varint(bytes, u64::from(partition.cast_unsigned()));
        put_varint(bytes, u64::from(mark.log_epoch.cast_unsigned()));
        put_varint(bytes, mark.offset.cast_unsigned());
    }
}

/// Seven bits a byte, lowest first; the high bit says that more follow.
fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (first, rest) = self.0.split_first().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(Unreadable);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    fn varint32(&mut self) -> Result<i32, Unreadable> {
        u32::try_from(self.varint()?).map(u32::cast_signed).map_err(|_| Unreadable)
    }

    fn marks(&mut self) -> Result<Marks, Unreadable> {
        let count = self.varint()?;
        if count > MAX_PARTITIONS {
            return Err(Unreadable);
        }
        let mut marks = Marks::new();
        for _ in 0..count {
            let partition = self.varint32()?;
            let mark = Mark { log_epoch: self.varint32()?, offset: self.varint()?.cast_signed() };
            if marks.insert(partition, mark).is_some() {
                return Err(Unreadable);
            }
        }
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> impl Strategy<Value = Marks> {
        proptest::collection::btree_map(0..i32::MAX, (0..i32::MAX, 0..i64::MAX), 0..20)
            .prop_map(|map| map.into_iter().map(|(p, (log_epoch, offset))| (p, Mark { log_epoch, offset })).collect())
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        prop_oneof![
            marks().prop_map(Cursor::Ascending),
            (marks(), marks()).prop_map(|(start, reached)| Cursor::Descending { start, reached })
        ]
    }

    fn key() -> SealingKey {
        SealingKey::from_bytes([1; 32])
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_went(cursor in cursor()) {
            let org = OrgId::generate();
            prop_assert_eq!(Cursor::open(&key(), org, &cursor.seal(&key(), org)), Ok(cursor));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), order in 0..3_u8) {
            let _read = Cursor::from_bytes(&bytes);
            let _framed = Cursor::from_bytes(&[&[VERSION, order], &bytes[..]].concat());
        }

        #[test]
        fn a_cut_or_longer_cursor_is_refused(cursor in cursor(), cut in 1..10_usize) {
            let bytes = cursor.to_bytes();
            prop_assert_eq!(Cursor::from_bytes(&bytes[..bytes.len().saturating_sub(cut)]), Err(Unreadable));
            prop_assert_eq!(Cursor::from_bytes(&[&bytes[..], &[0]].concat()), Err(Unreadable));
        }
    }

    /// Both ways in: noise as a token, and noise that somebody sealed with the right key.
    #[test]
    fn the_cursor_decoder_stands_any_bytes_and_opens_no_forged_token() {
        let org = OrgId::generate();
        let marks = |count: i32| {
            (0..count).map(|p| (p * 300, Mark { log_epoch: p, offset: i64::from(p) << 40 })).collect::<Marks>()
        };
        let cursors = [
            Cursor::Ascending(Marks::new()),
            Cursor::Ascending(marks(3)),
            Cursor::Descending { start: marks(12), reached: marks(5) },
        ];
        let golden: Vec<Vec<u8>> = cursors.iter().map(Cursor::to_bytes).collect();
        let samples = fuzz::Samples { golden: &golden, tokens: fuzz::ANY_TEXT, header: 2, large: 200_000 };
        fuzz::drive("cursor", &samples, |bytes| {
            let token = key().seal_token(PURPOSE, org.as_uuid().as_bytes(), bytes);
            match Cursor::open(&key(), org, &token) {
                // A varint may have been longer than it must be: what is written again is what counts.
                Ok(cursor) if Cursor::from_bytes(&cursor.to_bytes()) == Ok(cursor.clone()) => Ok(fuzz::Verdict::Read),
                Ok(cursor) => Err(format!("{cursor:?} does not come back")),
                Err(Unreadable) => Ok(fuzz::Verdict::Refused),
            }
        });
        let golden: Vec<Vec<u8>> = cursors.iter().map(|cursor| cursor.seal(&key(), org).into_bytes()).collect();
        let samples = fuzz::Samples { golden: &golden, tokens: fuzz::ANY_TEXT, header: 40, large: 200_000 };
        fuzz::drive("cursor token", &samples, |bytes| {
            let Ok(token) = std::str::from_utf8(bytes) else { return Ok(fuzz::Verdict::Refused) };
            match Cursor::open(&key(), org, token) {
                Ok(_) if golden.iter().any(|known| known == bytes) => Ok(fuzz::Verdict::Read),
                Ok(cursor) => Err(format!("{cursor:?} was forged")),
                Err(Unreadable) => Ok(fuzz::Verdict::Refused),
            }
        });
    }

    const LOW: Mark = Mark { log_epoch: 1, offset: 5 };
    const HIGH: Mark = Mark { log_epoch: 2, offset: 0 };

    #[test]
    fn another_organization_and_noise_are_refused() {
        let token = Cursor::Ascending(Marks::new()).seal(&key(), OrgId::generate());
        assert_eq!(Cursor::open(&key(), OrgId::generate(), &token), Err(Unreadable));
        assert_eq!(Cursor::open(&key(), OrgId::generate(), "50"), Err(Unreadable));
    }

    #[test]
    fn an_ascending_cursor_reads_an_unknown_partition_from_its_beginning() {
        let mut cursor = Cursor::start(Order::Ascending, &Marks::from([(3, HIGH)]));
        assert_eq!(cursor.range(3), Some(Range::After(None)));
        cursor.reach(3, HIGH);
        cursor.reach(3, LOW);
        assert_eq!(cursor.range(3), Some(Range::After(Some(HIGH))));
        assert_eq!(cursor.range(4), Some(Range::After(None)));
        assert_eq!(cursor.resume(), cursor);
    }

    #[test]
    fn a_cursor_goes_past_what_was_dropped_and_tells_whether_it_missed_some() {
        let at = |offset| Mark { log_epoch: 1, offset };
        let dropped = Marks::from([(3, at(50))]);
        let skipped = |reached: Option<i64>, oldest: Option<i64>| {
            let mut cursor = Cursor::Ascending(reached.map(|offset| (3, at(offset))).into_iter().collect());
            let missed = cursor.skip(&dropped, &oldest.map(|offset| (3, at(offset))).into_iter().collect());
            (missed, cursor.range(3))
        };
        assert_eq!(skipped(None, Some(60)), (true, Some(Range::After(Some(at(50))))));
        assert_eq!(skipped(Some(49), None), (true, Some(Range::After(Some(at(50))))));
        assert_eq!(skipped(Some(50), Some(60)), (false, Some(Range::After(Some(at(50))))));
        assert_eq!(
            skipped(Some(10), Some(40)),
            (true, Some(Range::After(Some(at(39))))),
            "what is still there is not skipped"
        );
        assert_eq!(skipped(None, Some(0)), (true, Some(Range::After(None))));
        let mut descending = Cursor::start(Order::Descending, &Marks::from([(3, at(60))]));
        assert!(!descending.skip(&dropped, &Marks::new()));
    }

    #[test]
    fn a_descending_cursor_stays_below_where_it_began_and_resumes_there() {
        let mut cursor = Cursor::start(Order::Descending, &Marks::from([(3, HIGH)]));
        assert_eq!(cursor.range(3), Some(Range::UpTo(HIGH)));
        assert_eq!(cursor.range(4), None);
        cursor.reach(3, LOW);
        cursor.reach(3, HIGH);
        assert_eq!(cursor.range(3), Some(Range::Before(LOW)));
        assert_eq!(cursor.resume(), Cursor::Ascending(Marks::from([(3, HIGH)])));
    }
}
