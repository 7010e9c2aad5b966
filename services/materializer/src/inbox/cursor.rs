//! The inbox cursor: the offset that a client has read in each partition, and the sort order. Pure. The token is sealed
//! per organization, so that tenants learn nothing about the log.
//!
//! A cursor holds offsets, not rows. It stays valid while events arrive or are acknowledged, when the filter changes
//! and when partitions are added.

use std::collections::BTreeMap;

use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Purpose of the cursor's seal.
const PURPOSE: &str = "cursor";
/// First byte of the cursor; every change of the layout changes it.
const VERSION: u8 = 2;
/// Far above any partition count.
const MAX_PARTITIONS: usize = 4096;

/// Sort order of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
pub(super) enum SortOrder {
    /// Oldest first.
    #[schema(rename = "asc")]
    Ascending,
    /// Newest first.
    #[schema(rename = "desc")]
    Descending,
}

/// Log epoch and offset within one partition, in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct EpochOffset {
    /// Offsets of different log epochs do not compare; a later epoch is later.
    pub log_epoch: i32,
    /// Offset within the partition.
    pub offset: i64,
}

pub(super) type OffsetsByPartition = BTreeMap<i32, EpochOffset>;

/// The offsets that a client has read. The byte form depends on the order of variants and fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum InboxCursor {
    /// Everything up to and including these offsets was read; a partition without one was not read yet.
    Ascending(OffsetsByPartition),
    /// Reads downwards from the newest events at the first page.
    Descending {
        /// The newest event of each partition at the first page. A partition without one is newer and is not
        /// read.
        start: OffsetsByPartition,
        /// The oldest event read so far; a partition without one was not read yet.
        reached: OffsetsByPartition,
    },
}

/// The token is not a cursor of this organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this inbox")]
pub(super) struct InvalidCursor;

/// The offsets of one partition that a page may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnreadRange {
    /// Upwards, everything after the offset; from the start without one.
    After(Option<EpochOffset>),
    /// Downwards, everything before the offset.
    Before(EpochOffset),
    /// Downwards, the offset itself and everything before it.
    UpTo(EpochOffset),
}

impl InboxCursor {
    /// A cursor that has read nothing yet; `newest` is the newest event of each partition.
    pub(super) fn start(order: SortOrder, newest: &OffsetsByPartition) -> Self {
        match order {
            SortOrder::Ascending => Self::Ascending(OffsetsByPartition::new()),
            SortOrder::Descending => Self::Descending { start: newest.clone(), reached: OffsetsByPartition::new() },
        }
    }

    /// Its sort order.
    pub(super) const fn order(&self) -> SortOrder {
        match self {
            Self::Ascending(_) => SortOrder::Ascending,
            Self::Descending { .. } => SortOrder::Descending,
        }
    }

    /// The unread offsets of `partition`; `None` if the cursor does not cover it.
    pub(super) fn range(&self, partition: i32) -> Option<UnreadRange> {
        match self {
            Self::Ascending(offsets) => Some(UnreadRange::After(offsets.get(&partition).copied())),
            Self::Descending { start, reached } => {
                let highest = start.get(&partition)?;
                Some(
                    reached
                        .get(&partition)
                        .map_or(UnreadRange::UpTo(*highest), |epoch_offset| UnreadRange::Before(*epoch_offset)),
                )
            }
        }
    }

    /// Moves the cursor to `epoch_offset`; an offset that was read already changes nothing.
    pub(super) fn advance(&mut self, partition: i32, epoch_offset: EpochOffset) {
        match self {
            Self::Ascending(offsets) => {
                let last = offsets.entry(partition).or_insert(epoch_offset);
                *last = epoch_offset.max(*last);
            }
            Self::Descending { reached, .. } => {
                let last = reached.entry(partition).or_insert(epoch_offset);
                *last = epoch_offset.min(*last);
            }
        }
    }

    /// Moves past dropped events (the newest by partition), but never past events still in the view (the oldest by
    /// partition). Returns `true` if some dropped events had not been read. A descending cursor needs no skip.
    pub(super) fn skip_dropped(&mut self, dropped: &OffsetsByPartition, oldest: &OffsetsByPartition) -> bool {
        let Self::Ascending(offsets) = self else { return false };
        let mut missed = false;
        for (partition, gone) in dropped {
            if offsets.get(partition).is_some_and(|reached| reached >= gone) {
                continue;
            }
            missed = true;
            // The broker's clock may have stepped back, so that kept events come before dropped ones.
            let before_oldest = oldest
                .get(partition)
                .map(|epoch_offset| EpochOffset { offset: (epoch_offset.offset - 1).max(0), ..*epoch_offset });
            let target = before_oldest.map_or(*gone, |kept| kept.min(*gone));
            if oldest.get(partition).is_none_or(|kept| target < *kept) {
                let last = offsets.entry(*partition).or_insert(target);
                *last = target.max(*last);
            }
        }
        missed
    }

    /// The cursor for later events: a descending cursor becomes an ascending one at its start.
    pub(super) fn resume(&self) -> Self {
        match self {
            Self::Ascending(offsets) => Self::Ascending(offsets.clone()),
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
    pub(super) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Result<Self, InvalidCursor> {
        let bytes = key.open_token(PURPOSE, organization.as_uuid().as_bytes(), token).ok_or(InvalidCursor)?;
        Self::from_bytes(&bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        // It is written into memory, and the format has all types of a cursor.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidCursor> {
        let (&VERSION, rest) = bytes.split_first().ok_or(InvalidCursor)? else { return Err(InvalidCursor) };
        let cursor: Self = postcard::from_bytes(rest).map_err(|_| InvalidCursor)?;
        let is_bounded = match &cursor {
            Self::Ascending(offsets) => offsets.len() <= MAX_PARTITIONS,
            Self::Descending { start, reached } => start.len().max(reached.len()) <= MAX_PARTITIONS,
        };
        // One form for each cursor: none with bytes left over, or with a partition named twice.
        if is_bounded && cursor.to_bytes() == bytes { Ok(cursor) } else { Err(InvalidCursor) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets() -> impl Strategy<Value = OffsetsByPartition> {
        proptest::collection::btree_map(0..i32::MAX, (0..i32::MAX, 0..i64::MAX), 0..20).prop_map(|map| {
            map.into_iter().map(|(p, (log_epoch, offset))| (p, EpochOffset { log_epoch, offset })).collect()
        })
    }

    fn cursor() -> impl Strategy<Value = InboxCursor> {
        prop_oneof![
            offsets().prop_map(InboxCursor::Ascending),
            (offsets(), offsets()).prop_map(|(start, reached)| InboxCursor::Descending { start, reached })
        ]
    }

    fn key() -> SealingKey {
        SealingKey::from_bytes([1; 32])
    }

    proptest! {
        #[test]
        fn cursor_round_trips(cursor in cursor()) {
            let org = OrgId::generate();
            prop_assert_eq!(InboxCursor::open(&key(), org, &cursor.seal(&key(), org)), Ok(cursor));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), order in 0..3_u8) {
            let _read = InboxCursor::from_bytes(&bytes);
            let _framed = InboxCursor::from_bytes(&[&[VERSION, order], &bytes[..]].concat());
        }

        #[test]
        fn a_cut_or_longer_cursor_is_refused(cursor in cursor(), cut in 1..10_usize) {
            let bytes = cursor.to_bytes();
            prop_assert_eq!(InboxCursor::from_bytes(&bytes[..bytes.len().saturating_sub(cut)]), Err(InvalidCursor));
            prop_assert_eq!(InboxCursor::from_bytes(&[&bytes[..], &[0]].concat()), Err(InvalidCursor));
        }
    }

    /// Noise as a token, and noise that was sealed with the right key.
    #[test]
    fn cursor_decoder_survives_any_bytes_and_rejects_forged_tokens() {
        let org = OrgId::generate();
        let offsets = |count: i32| {
            (0..count)
                .map(|p| (p * 300, EpochOffset { log_epoch: p, offset: i64::from(p) << 40 }))
                .collect::<OffsetsByPartition>()
        };
        let cursors = [
            InboxCursor::Ascending(OffsetsByPartition::new()),
            InboxCursor::Ascending(offsets(3)),
            InboxCursor::Descending { start: offsets(12), reached: offsets(5) },
        ];
        let golden: Vec<Vec<u8>> = cursors.iter().map(InboxCursor::to_bytes).collect();
        let samples = fuzz::Samples { golden: &golden, tokens: fuzz::ANY_TEXT, header: 2, large: 200_000 };
        fuzz::drive("cursor", &samples, |bytes| {
            let token = key().seal_token(PURPOSE, org.as_uuid().as_bytes(), bytes);
            match InboxCursor::open(&key(), org, &token) {
                Ok(cursor) if cursor.to_bytes() == bytes => Ok(fuzz::DecodeOutcome::Read),
                Ok(cursor) => Err(format!("{cursor:?} has another form")),
                Err(InvalidCursor) => Ok(fuzz::DecodeOutcome::Refused),
            }
        });
        let golden: Vec<Vec<u8>> = cursors.iter().map(|cursor| cursor.seal(&key(), org).into_bytes()).collect();
        let samples = fuzz::Samples { golden: &golden, tokens: fuzz::ANY_TEXT, header: 40, large: 200_000 };
        fuzz::drive("cursor token", &samples, |bytes| {
            let Ok(token) = std::str::from_utf8(bytes) else { return Ok(fuzz::DecodeOutcome::Refused) };
            match InboxCursor::open(&key(), org, token) {
                Ok(_) if golden.iter().any(|token| token == bytes) => Ok(fuzz::DecodeOutcome::Read),
                Ok(cursor) => Err(format!("{cursor:?} was forged")),
                Err(InvalidCursor) => Ok(fuzz::DecodeOutcome::Refused),
            }
        });
    }

    #[test]
    fn the_form_is_fixed_and_hostile_forms_are_refused() {
        let one = EpochOffset { log_epoch: 1, offset: 300 };
        let bytes = InboxCursor::Ascending(OffsetsByPartition::from([(3, one)])).to_bytes();
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
            assert_eq!(InboxCursor::from_bytes(&bytes), Err(InvalidCursor), "{reason}");
        }
        let offsets = |count: i32| (0..count).map(|partition| (partition, one)).collect::<OffsetsByPartition>();
        let limit = i32::try_from(MAX_PARTITIONS).unwrap();
        assert!(InboxCursor::from_bytes(&InboxCursor::Ascending(offsets(limit)).to_bytes()).is_ok());
        assert_eq!(InboxCursor::from_bytes(&InboxCursor::Ascending(offsets(limit + 1)).to_bytes()), Err(InvalidCursor));
        let descending = InboxCursor::Descending { start: OffsetsByPartition::new(), reached: offsets(limit + 1) };
        assert_eq!(InboxCursor::from_bytes(&descending.to_bytes()), Err(InvalidCursor));
    }

    const LOW: EpochOffset = EpochOffset { log_epoch: 1, offset: 5 };
    const HIGH: EpochOffset = EpochOffset { log_epoch: 2, offset: 0 };

    #[test]
    fn another_organization_and_noise_are_refused() {
        let token = InboxCursor::Ascending(OffsetsByPartition::new()).seal(&key(), OrgId::generate());
        assert_eq!(InboxCursor::open(&key(), OrgId::generate(), &token), Err(InvalidCursor));
        assert_eq!(InboxCursor::open(&key(), OrgId::generate(), "50"), Err(InvalidCursor));
    }

    #[test]
    fn ascending_cursor_reads_a_new_partition_from_its_start() {
        let mut cursor = InboxCursor::start(SortOrder::Ascending, &OffsetsByPartition::from([(3, HIGH)]));
        assert_eq!(cursor.range(3), Some(UnreadRange::After(None)));
        cursor.advance(3, HIGH);
        cursor.advance(3, LOW);
        assert_eq!(cursor.range(3), Some(UnreadRange::After(Some(HIGH))));
        assert_eq!(cursor.range(4), Some(UnreadRange::After(None)));
        assert_eq!(cursor.resume(), cursor);
    }

    #[test]
    fn cursor_skips_dropped_events_and_reports_a_gap() {
        let at = |offset| EpochOffset { log_epoch: 1, offset };
        let dropped = OffsetsByPartition::from([(3, at(50))]);
        let skipped = |reached: Option<i64>, oldest: Option<i64>| {
            let mut cursor = InboxCursor::Ascending(reached.map(|offset| (3, at(offset))).into_iter().collect());
            let missed = cursor.skip_dropped(&dropped, &oldest.map(|offset| (3, at(offset))).into_iter().collect());
            (missed, cursor.range(3))
        };
        assert_eq!(skipped(None, Some(60)), (true, Some(UnreadRange::After(Some(at(50))))));
        assert_eq!(skipped(Some(49), None), (true, Some(UnreadRange::After(Some(at(50))))));
        assert_eq!(skipped(Some(50), Some(60)), (false, Some(UnreadRange::After(Some(at(50))))));
        assert_eq!(
            skipped(Some(10), Some(40)),
            (true, Some(UnreadRange::After(Some(at(39))))),
            "what is still there is not skipped"
        );
        assert_eq!(skipped(None, Some(0)), (true, Some(UnreadRange::After(None))));
        let mut descending = InboxCursor::start(SortOrder::Descending, &OffsetsByPartition::from([(3, at(60))]));
        assert!(!descending.skip_dropped(&dropped, &OffsetsByPartition::new()));
    }

    #[test]
    fn descending_cursor_stays_below_its_start_and_resumes_there() {
        let mut cursor = InboxCursor::start(SortOrder::Descending, &OffsetsByPartition::from([(3, HIGH)]));
        assert_eq!(cursor.range(3), Some(UnreadRange::UpTo(HIGH)));
        assert_eq!(cursor.range(4), None);
        cursor.advance(3, LOW);
        cursor.advance(3, HIGH);
        assert_eq!(cursor.range(3), Some(UnreadRange::Before(LOW)));
        assert_eq!(cursor.resume(), InboxCursor::Ascending(OffsetsByPartition::from([(3, HIGH)])));
    }
}
