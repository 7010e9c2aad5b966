//! The inbox cursor: which place of each partition a reading has reached, and in which direction it goes. Pure; sealed
//! per organization, so that it tells a tenant nothing about the log. What a page is made of lives in `merge` and
//! `query`.
//!
//! A cursor names places, not rows: it stays good while events arrive, are acknowledged or are filtered otherwise, and
//! while partitions are added.

use std::collections::BTreeMap;

use platform::seal::SealingKey;
use schemas::ids::OrgId;
use serde::{Deserialize, Serialize};

/// Purpose of the sealed token.
const PURPOSE: &str = "cursor";
/// First byte of the sealed bytes; another layout gets another one.
const VERSION: u8 = 2;
/// Far above any partition count.
const MAX_PARTITIONS: usize = 4096;

/// Direction of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A place within one partition. Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Offsets of different log epochs do not compare; a later epoch is later.
    pub log_epoch: i32,
    /// Offset within the partition.
    pub offset: i64,
}

pub(super) type Marks = BTreeMap<i32, Mark>;

/// How far a reading has come. Its byte form depends on the order of variants and fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cursor {
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
pub(super) struct Unreadable;

/// What a page may read of one partition: the places strictly between two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Upwards, everything after the mark; from the beginning without one.
    After(Option<Mark>),
    /// Downwards, everything before the mark.
    Before(Mark),
    /// Downwards, the mark itself and everything before it.
    UpTo(Mark),
}

impl Cursor {
    /// The cursor of a reading that has read nothing yet; `heads` is the newest event of each partition.
    pub(super) fn start(order: Order, heads: &Marks) -> Self {
        match order {
            Order::Ascending => Self::Ascending(Marks::new()),
            Order::Descending => Self::Descending { start: heads.clone(), reached: Marks::new() },
        }
    }

    /// The direction it goes.
    pub(super) const fn order(&self) -> Order {
        match self {
            Self::Ascending(_) => Order::Ascending,
            Self::Descending { .. } => Order::Descending,
        }
    }

    /// What is still to be read of `partition`; `None` when it is no part of the reading.
    pub(super) fn range(&self, partition: i32) -> Option<Range> {
        match self {
            Self::Ascending(marks) => Some(Range::After(marks.get(&partition).copied())),
            Self::Descending { start, reached } => {
                let highest = start.get(&partition)?;
                Some(reached.get(&partition).map_or(Range::UpTo(*highest), |mark| Range::Before(*mark)))
            }
        }
    }

    /// Notes that the reading has come to `mark`. A mark behind the one known changes nothing.
    pub(super) fn reach(&mut self, partition: i32, mark: Mark) {
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
    pub(super) fn skip(&mut self, dropped: &Marks, oldest: &Marks) -> bool {
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
    pub(super) fn resume(&self) -> Self {
        match self {
            Self::Ascending(marks) => Self::Ascending(marks.clone()),
            Self::Descending { start, .. } => Self::Ascending(start.clone()),
        }
    }

    /// The token that a client carries.
    pub(super) fn seal(&self, key: &SealingKey, organization: OrgId) -> String {
        key.seal_token(PURPOSE, organization.as_uuid().as_bytes(), &self.to_bytes())
    }

    /// Reads a client's token.
    ///
    /// # Errors
    /// When it was not made by [`Self::seal`] for this organization.
    pub(super) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Result<Self, Unreadable> {
        let bytes = key.open_token(PURPOSE, organization.as_uuid().as_bytes(), token).ok_or(Unreadable)?;
        Self::from_bytes(&bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        // Into memory, and there is nothing in a cursor that the format does not know.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (&VERSION, rest) = bytes.split_first().ok_or(Unreadable)? else { return Err(Unreadable) };
        let cursor: Self = postcard::from_bytes(rest).map_err(|_| Unreadable)?;
        let is_bounded = match &cursor {
            Self::Ascending(marks) => marks.len() <= MAX_PARTITIONS,
            Self::Descending { start, reached } => start.len().max(reached.len()) <= MAX_PARTITIONS,
        };
        // One form for each cursor: none with bytes left over, or with a partition named twice.
        if is_bounded && cursor.to_bytes() == bytes { Ok(cursor) } else { Err(Unreadable) }
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
                Ok(cursor) if cursor.to_bytes() == bytes => Ok(fuzz::Verdict::Read),
                Ok(cursor) => Err(format!("{cursor:?} has another form")),
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

    #[test]
    fn the_form_is_fixed_and_hostile_forms_are_refused() {
        let one = Mark { log_epoch: 1, offset: 300 };
        let bytes = Cursor::Ascending(Marks::from([(3, one)])).to_bytes();
        // Version, variant, count; partition, epoch and offset as zigzag varints.
        assert_eq!(bytes, [VERSION, 0, 1, 6, 2, 0xd8, 0x04]);
        for (bytes, reason) in [
            (vec![VERSION - 1, 0, 0], "another version"),
            (vec![VERSION, 2, 0], "an unknown variant"),
            (vec![VERSION, 0, 0, 0], "a byte too many"),
            (vec![VERSION, 0, 0x80, 0], "a count that is longer than it must be"),
            (vec![VERSION, 0, 2, 6, 2, 2, 6, 2, 4], "a partition twice"),
            (vec![VERSION, 0, 2, 6, 2, 2, 4, 2, 4], "partitions in another order"),
            (vec![VERSION, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 6, 2, 2], "more partitions than there are bytes"),
        ] {
            assert_eq!(Cursor::from_bytes(&bytes), Err(Unreadable), "{reason}");
        }
        let marks = |count: i32| (0..count).map(|partition| (partition, one)).collect::<Marks>();
        let limit = i32::try_from(MAX_PARTITIONS).unwrap();
        assert!(Cursor::from_bytes(&Cursor::Ascending(marks(limit)).to_bytes()).is_ok());
        assert_eq!(Cursor::from_bytes(&Cursor::Ascending(marks(limit + 1)).to_bytes()), Err(Unreadable));
        let descending = Cursor::Descending { start: Marks::new(), reached: marks(limit + 1) };
        assert_eq!(Cursor::from_bytes(&descending.to_bytes()), Err(Unreadable));
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
