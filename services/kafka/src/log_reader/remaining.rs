//! What remains to be read of one partition: pieces of a range, between the skipped ranges. Pure.

use std::collections::VecDeque;

/// The part of a range that is not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remaining {
    /// Each as (next offset, first offset after the piece). Reading is in the first one.
    pieces: VecDeque<(i64, i64)>,
    /// First offset after the range.
    end: i64,
    /// First offset that was not delivered.
    delivered_to: i64,
}

/// What to do after reading up to an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Continue in this piece.
    SamePiece,
    /// Continue in another piece: the client must be assigned its start.
    NextPiece,
    /// The range is read. If its last offsets held no record, deliver a marker at this offset.
    Done(Option<i64>),
}

impl Remaining {
    /// The range without `skips`, which may overlap; each as (first offset, first offset after it).
    pub(super) fn new((from, to): (i64, i64), skips: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut skips: Vec<(i64, i64)> = skips.into_iter().collect();
        skips.sort_unstable();
        let (mut pieces, mut next) = (VecDeque::new(), from);
        for (skip_from, skip_to) in skips.into_iter().filter(|(skip_from, skip_to)| skip_from < skip_to) {
            if next < skip_from.min(to) {
                pieces.push_back((next, skip_from.min(to)));
            }
            next = next.max(skip_to);
        }
        if next < to {
            pieces.push_back((next, to));
        }
        Self { pieces, end: to, delivered_to: from }
    }

    /// Next offset to read; `None`: everything is read.
    pub(super) fn next(&self) -> Option<i64> {
        self.pieces.front().map(|(next, _)| *next)
    }

    /// First offset after the piece that is being read.
    pub(super) fn piece_end(&self) -> Option<i64> {
        self.pieces.front().map(|(_, to)| *to)
    }

    /// Whether a record at `offset` belongs to the piece that is being read.
    pub(super) fn contains(&self, offset: i64) -> bool {
        self.pieces.front().is_some_and(|(next, to)| (*next..*to).contains(&offset))
    }

    /// Notes that the record before `next` was delivered.
    pub(super) fn mark_delivered(&mut self, next: i64) {
        self.delivered_to = next;
    }

    /// Notes that reading has reached `next`, whether there was a record or not. An offset that was already reached
    /// changes nothing.
    pub(super) fn advance(&mut self, next: i64) -> NextStep {
        let mut step = NextStep::SamePiece;
        while let Some((from, to)) = self.pieces.front_mut() {
            if next < *to {
                *from = next.max(*from);
                return step;
            }
            self.pieces.pop_front();
            step = NextStep::NextPiece;
        }
        NextStep::Done((self.delivered_to < self.end).then(|| self.end - 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn skips_cut_a_range_into_pieces() {
        let pieces = |skips: &[(i64, i64)]| Vec::from(Remaining::new((10, 20), skips.to_vec()).pieces);
        assert_eq!(pieces(&[]), [(10, 20)]);
        assert_eq!(pieces(&[(15, 17), (12, 13)]), [(10, 12), (13, 15), (17, 20)]);
        assert_eq!(pieces(&[(5, 12), (18, 30)]), [(12, 18)]);
        assert_eq!(pieces(&[(0, 30)]), []);
        assert_eq!(pieces(&[(0, 5), (20, 25), (14, 14)]), [(10, 20)]);
    }

    #[test]
    fn a_range_is_done_after_its_last_piece() {
        let mut remaining = Remaining::new((10, 20), [(15, 17)]);
        assert_eq!((remaining.advance(14), remaining.next()), (NextStep::SamePiece, Some(14)));
        assert_eq!((remaining.advance(15), remaining.next()), (NextStep::NextPiece, Some(17)));
        remaining.mark_delivered(20);
        assert_eq!(remaining.advance(20), NextStep::Done(None), "its last record was delivered");
        let mut without = Remaining::new((10, 20), [(15, 20)]);
        without.mark_delivered(15);
        assert_eq!(without.advance(15), NextStep::Done(Some(19)), "the end of the range is skipped");
        let mut skipped = Remaining::new((10, 20), [(0, 30)]);
        assert_eq!(skipped.advance(10), NextStep::Done(Some(19)), "all of it is skipped");
    }

    proptest! {
        #[test]
        fn each_offset_is_read_once_unless_skipped(
            range in (0_i64..40, 0_i64..40),
            skips in prop::collection::vec((0_i64..40, 0_i64..40), 0..6),
        ) {
            let remaining = Remaining::new(range, skips.clone());
            let read: Vec<i64> = remaining.pieces.iter().flat_map(|(from, to)| *from..*to).collect();
            let is_skipped = |offset: i64| skips.iter().any(|(from, to)| (*from..*to).contains(&offset));
            let wanted: Vec<i64> = (range.0..range.1).filter(|offset| !is_skipped(*offset)).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
