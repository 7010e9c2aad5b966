//! What is left to read of one partition: pieces of a span, between the ranges that are skipped. Pure.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rest {
    /// Each as (next offset, first offset behind it); those to come are whole.
    pieces: VecDeque<(i64, i64)>,
    /// First offset behind the span.
    end: i64,
    /// First offset that was not handed over.
    reached: i64,
}

/// What becomes of a partition when a piece is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Reading goes on in this piece.
    SamePiece,
    /// Reading goes on elsewhere: the client must get an error.
    OtherPiece,
    /// The span is read. With an offset, a marker there stands for what came without a record.
    Done(Option<i64>),
}

impl Rest {
    /// The span without the ranges of `skips`, which may overlap; each as (first offset, first offset behind it).
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
        Self { pieces, end: to, reached: from }
    }

    /// Next offset to read; `None`: nothing is left.
    pub(super) fn next(&self) -> Option<i64> {
        self.pieces.front().map(|(next, _)| *next)
    }

    /// First offset behind the piece that is being read.
    pub(super) fn piece_end(&self) -> Option<i64> {
        self.pieces.front().map(|(_, to)| *to)
    }

    /// Whether a record at `offset` belongs to the piece that is being read.
    pub(super) fn holds(&self, offset: i64) -> bool {
        self.pieces.front().is_some_and(|(next, to)| (*next..*to).contains(&offset))
    }

    /// The record before `next` was handed over.
    pub(super) fn hand_over(&mut self, next: i64) {
        self.reached = next;
    }

    /// Everything before `next` is read, with a record or without. Without effect where that is so already.
    pub(super) fn advance(&mut self, next: i64) -> After {
        let mut after = After::SamePiece;
        while let Some((from, to)) = self.pieces.front_mut() {
            if next < *to {
                *from = next.max(*from);
                return after;
            }
            self.pieces.pop_front();
            after = After::OtherPiece;
        }
        After::Done((self.reached < self.end).then(|| self.end - 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn skips_cut_a_span_into_pieces() {
        let pieces = |skips: &[(i64, i64)]| Vec::from(Rest::new((10, 20), skips.to_vec()).pieces);
        assert_eq!(pieces(&[]), [(10, 20)]);
        assert_eq!(pieces(&[(15, 17), (12, 13)]), [(10, 12), (13, 15), (17, 20)]);
        assert_eq!(pieces(&[(5, 12), (18, 30)]), [(12, 18)]);
        assert_eq!(pieces(&[(0, 30)]), []);
        assert_eq!(pieces(&[(0, 5), (20, 25), (14, 14)]), [(10, 20)]);
    }

    #[test]
    fn a_span_is_done_behind_its_last_piece() {
        let mut rest = Rest::new((10, 20), [(15, 17)]);
        assert_eq!((rest.advance(14), rest.next()), (After::SamePiece, Some(14)));
        assert_eq!((rest.advance(15), rest.next()), (After::OtherPiece, Some(17)));
        rest.hand_over(20);
        assert_eq!(rest.advance(20), After::Done(None), "its last record was handed over");
        let mut without = Rest::new((10, 20), [(15, 20)]);
        without.hand_over(15);
        assert_eq!(without.advance(15), After::Done(Some(19)), "the end of the span is skipped");
        assert_eq!(Rest::new((10, 20), [(0, 30)]).advance(10), After::Done(Some(19)), "all of it is skipped");
    }

    proptest! {
        #[test]
        fn each_offset_is_read_once_unless_skipped(
            span in (0_i64..40, 0_i64..40),
            skips in prop::collection::vec((0_i64..40, 0_i64..40), 0..6),
        ) {
            let rest = Rest::new(span, skips.clone());
            let read: Vec<i64> = rest.pieces.iter().flat_map(|(from, to)| *from..*to).collect();
            let is_skipped = |offset: i64| skips.iter().any(|(from, to)| (*from..*to).contains(&offset));
            let wanted: Vec<i64> = (span.0..span.1).filter(|offset| !is_skipped(*offset)).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
