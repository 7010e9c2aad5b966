//! The original log position of a record that was redriven from its dead letter, read from and written to headers. The
//! header names are in `headers`; `triggers dlq redrive` writes the record.

use super::parts::header;
use super::unreadable::Unreadable;
use crate::headers;
use crate::ids::EventId;

/// Longest topic name that Kafka allows.
const MAX_TOPIC_BYTES: usize = 249;

/// The original position of a redriven record. The event id is derived from it if the event has no id. Acceptance time,
/// organization and order are those of the redriven record itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Full name of the topic.
    pub topic: String,
    /// Partition, not negative.
    pub partition: i32,
    /// Offset, not negative.
    pub offset: i64,
    /// Append time there, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl Origin {
    /// Reads the `triggers-origin-*` headers; `None` if there are none.
    ///
    /// # Errors
    /// When one of the four headers is missing or invalid.
    pub fn of_headers(all: &[(String, Vec<u8>)]) -> Result<Option<Self>, Unreadable> {
        Self::read(
            all,
            [headers::ORIGIN_TOPIC, headers::ORIGIN_PARTITION, headers::ORIGIN_OFFSET, headers::ORIGIN_TIMESTAMP],
        )
    }

    /// Reads the position of the original record from the headers of its dead letter.
    ///
    /// # Errors
    /// When one of the four headers is missing or invalid.
    pub fn of_dead_letter(all: &[(String, Vec<u8>)]) -> Result<Option<Self>, Unreadable> {
        Self::read(all, [headers::DLQ_TOPIC, headers::DLQ_PARTITION, headers::DLQ_OFFSET, headers::DLQ_TIMESTAMP])
    }

    fn read(all: &[(String, Vec<u8>)], names: [&str; 4]) -> Result<Option<Self>, Unreadable> {
        let values = names.map(|name| header(all, name));
        if values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let text = |index: usize| values[index].and_then(|value| std::str::from_utf8(value).ok());
        let bad = |index: usize, what: &str| {
            Unreadable::new("bad_origin", format!("the header {} must be {what}", names[index]))
        };
        let topic = text(0).filter(|name| is_topic(name)).ok_or_else(|| bad(0, "the name of a topic"))?;
        Ok(Some(Self {
            topic: topic.to_owned(),
            partition: text(1).and_then(number).filter(|n| *n >= 0).ok_or_else(|| bad(1, "a partition"))?,
            offset: text(2).and_then(number).filter(|n| *n >= 0).ok_or_else(|| bad(2, "an offset"))?,
            timestamp_ms: text(3).and_then(number).ok_or_else(|| bad(3, "milliseconds since the Unix epoch"))?,
        }))
    }

    /// The `triggers-origin-*` headers.
    pub fn to_headers(&self) -> [(&'static str, String); 4] {
        [
            (headers::ORIGIN_TOPIC, self.topic.clone()),
            (headers::ORIGIN_PARTITION, self.partition.to_string()),
            (headers::ORIGIN_OFFSET, self.offset.to_string()),
            (headers::ORIGIN_TIMESTAMP, self.timestamp_ms.to_string()),
        ]
    }

    /// The id of an event without an id whose original position this is.
    pub fn event_id(&self) -> EventId {
        EventId::derived_from_position(&self.topic, self.partition, self.offset, self.timestamp_ms)
    }
}

fn is_topic(name: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Parses a number in its canonical spelling: no plus sign, no leading zeros.
fn number<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(pairs: &[(&str, String)]) -> Vec<(String, Vec<u8>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes())).collect()
    }

    fn origin() -> Origin {
        Origin { topic: "triggers.events.v1".to_owned(), partition: 3, offset: 42, timestamp_ms: 1_700_000_000_000 }
    }

    proptest! {
        #[test]
        fn an_origin_comes_back_from_its_headers(
            topic in "[a-zA-Z0-9._-]{1,249}", partition in 0..=i32::MAX, offset in 0..=i64::MAX,
            timestamp_ms in any::<i64>(),
        ) {
            let origin = Origin { topic, partition, offset, timestamp_ms };
            prop_assert_eq!(Origin::of_headers(&bytes(&origin.to_headers())), Ok(Some(origin)));
        }

        #[test]
        fn an_origin_has_only_one_spelling(
            which in 0..4_usize, value in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let mut headers = bytes(&origin().to_headers());
            headers[which].1 = value;
            if let Ok(read) = Origin::of_headers(&headers) {
                prop_assert_eq!(bytes(&read.unwrap().to_headers()), headers);
            }
        }
    }

    #[test]
    fn all_four_headers_are_required() {
        let whole = bytes(&origin().to_headers());
        assert_eq!(Origin::of_headers(&[]), Ok(None));
        assert_eq!(Origin::of_headers(&[("x".to_owned(), Vec::new())]), Ok(None));
        for missing in 0..4 {
            let mut part = whole.clone();
            part.remove(missing);
            assert_eq!(Origin::of_headers(&part).unwrap_err().class, "bad_origin");
        }
    }

    #[test]
    fn an_invalid_header_is_refused() {
        for (which, bad) in [
            (0, ""),
            (0, "a b"),
            (0, "\u{e4}"),
            (0, &"x".repeat(250)),
            (1, "-1"),
            (1, "2147483648"),
            (1, "03"),
            (1, "+3"),
            (2, "-1"),
            (2, ""),
            (2, "9223372036854775808"),
            (3, "now"),
            (3, "-0"),
        ] {
            let mut headers = bytes(&origin().to_headers());
            headers[which].1 = bad.as_bytes().to_vec();
            assert_eq!(Origin::of_headers(&headers).unwrap_err().class, "bad_origin", "{which} {bad}");
        }
    }
}
