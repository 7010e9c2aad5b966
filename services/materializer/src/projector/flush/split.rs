//! Splits a batch into the chunks that one transaction each writes. Pure.

use std::collections::VecDeque;

use crate::projector::decode::{Content, DecodedRecord};

/// Rows that one transaction writes at most, unless one record has more. One JSON record acknowledges up to a thousand
/// events, so that a bound on records bounds nothing.
pub(super) const MAX_ROWS: usize = 5_000;

/// The items in their order, cut so that no chunk writes more than `max_rows` rows.
pub(super) fn by_rows(items: Vec<DecodedRecord>, max_rows: usize) -> VecDeque<Vec<DecodedRecord>> {
    let mut chunks = VecDeque::new();
    let (mut chunk, mut rows) = (Vec::new(), 0);
    for item in items {
        let more = rows_of(&item.content);
        if !chunk.is_empty() && rows + more > max_rows {
            chunks.push_back(std::mem::take(&mut chunk));
            rows = 0;
        }
        rows += more;
        chunk.push(item);
    }
    if !chunk.is_empty() {
        chunks.push_back(chunk);
    }
    chunks
}

/// Puts both halves of a chunk before all others. A chunk of one record stays whole.
pub(super) fn halve(mut chunk: Vec<DecodedRecord>, chunks: &mut VecDeque<Vec<DecodedRecord>>) {
    if chunk.len() > 1 {
        let second = chunk.split_off(chunk.len() / 2);
        chunks.push_front(second);
    }
    chunks.push_front(chunk);
}

fn rows_of(content: &Content) -> usize {
    match content {
        Content::Acks(acks) => acks.len(),
        Content::Event(_) | Content::Attempt(_) | Content::Dead(_) | Content::Expired(_) => 1,
        Content::Skipped => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafka::Record;
    use proptest::prelude::*;
    use schemas::ids::{EventId, OrgId};
    use schemas::native::SystemKey;
    use schemas::records::Ack;
    use schemas::topics::TopicNames;

    use super::*;
    use crate::projector::decode::decode;

    /// A record of the acks topic with so many acks; none is a marker.
    fn item(offset: i64, acks: usize) -> DecodedRecord {
        let topics = TopicNames::with_prefix("");
        let record = Record {
            topic: Arc::from(topics.acks.as_str()),
            partition: 0,
            offset,
            timestamp_ms: 0,
            has_producers_time: false,
            key: None,
            value: None,
            headers: Vec::new(),
            is_marker: true,
        };
        let (org_id, event_id) = (OrgId::generate(), EventId::generate());
        let mut item = decode(record, &topics, &SystemKey::from_bytes([0; 32]), 0);
        if acks > 0 {
            item.content = Content::Acks(vec![Ack { org_id, event_id }; acks]);
        }
        item
    }

    proptest! {
        #[test]
        fn chunks_keep_the_order_and_the_bound(sizes in prop::collection::vec(0..30_usize, 0..40)) {
            let items = sizes.iter().zip(0..).map(|(acks, offset)| item(offset, *acks)).collect();
            let chunks = by_rows(items, 20);
            let offsets: Vec<i64> = chunks.iter().flatten().map(|item| item.record.offset).collect();
            prop_assert!(offsets.iter().copied().eq(0..i64::try_from(sizes.len()).unwrap()));
            for chunk in &chunks {
                let rows: usize = chunk.iter().map(|item| rows_of(&item.content)).sum();
                prop_assert!(rows <= 20 || chunk.iter().filter(|item| rows_of(&item.content) > 0).count() == 1);
            }
        }
    }

    #[test]
    fn halves_come_before_the_other_chunks() {
        let mut chunks = VecDeque::from([vec![item(3, 1)]]);
        halve(vec![item(0, 1), item(1, 1), item(2, 1)], &mut chunks);
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!((lengths, chunks[0][0].record.offset), (vec![1, 2, 1], 0));
    }
}
