//! One dead letter: the record it was made of, where that stood, and why it was refused. Pure. Reading the topic is
//! `log`'s business.

use std::fmt;
use std::str::FromStr;

use platform::kafka::Record;
use schemas::headers;
use schemas::ids::OrgId;
use schemas::native::{Origin, UNPACKABLE_BATCH};

/// The place of a record as people write it: `TOPIC/PARTITION/OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl Place {
    pub fn of(origin: &Origin) -> Self {
        Self { topic: origin.topic.clone(), partition: origin.partition, offset: origin.offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (rest, offset) = text.rsplit_once('/')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            let place =
                Self { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (!topic.is_empty() && place.partition >= 0 && place.offset >= 0).then_some(place)
        };
        read().ok_or_else(|| "must be TOPIC/PARTITION/OFFSET, as `triggers dlq list` prints it".to_owned())
    }
}

/// Where a dead letter itself stands: partition and offset of the topic of dead letters.
pub type At = (i32, i64);

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// As it stands on the topic of dead letters.
    pub record: Record,
    /// Where the refused record stands.
    pub refused_at: Origin,
    /// Where that record stood first, if it was written again before; else the same.
    pub first: Origin,
}

impl Letter {
    /// What a record on the topic of dead letters says; `None` when it is no dead letter.
    pub fn read(record: Record) -> Option<Self> {
        let refused_at = Origin::of_dead_letter(&record.headers).ok().flatten()?;
        // An origin that cannot be read is why the record was refused, and is mended by writing it again.
        let first = Origin::of_headers(&record.headers).ok().flatten().unwrap_or_else(|| refused_at.clone());
        Some(Self { record, refused_at, first })
    }

    pub fn at(&self) -> At {
        (self.record.partition, self.record.offset)
    }

    /// Whether it was made of the record that was written first.
    pub fn is_of_the_first(&self) -> bool {
        self.refused_at == self.first
    }

    /// Class of the reason.
    pub fn class(&self) -> String {
        self.text(headers::DLQ_ERROR_CLASS)
    }

    /// The reason.
    pub fn message(&self) -> String {
        self.text(headers::DLQ_ERROR_MESSAGE)
    }

    /// When this letter's record was refused, milliseconds since the Unix epoch.
    pub fn first_seen_ms(&self) -> Option<i64> {
        self.text(headers::DLQ_FIRST_SEEN).parse().ok()
    }

    /// The organization that is the record's key.
    pub fn organization(&self) -> Option<OrgId> {
        std::str::from_utf8(self.record.key.as_deref()?).ok()?.parse().ok()
    }

    /// Whether the record was too large even for the dead letters, so that only its place is here.
    pub fn is_place_only(&self) -> bool {
        self.record.value.is_none() && self.class() != "null_value" && !self.is_of_a_batch()
    }

    /// Whether it stands for a whole batch that could not be unpacked, of which nobody has seen any bytes.
    pub fn is_of_a_batch(&self) -> bool {
        self.class() == UNPACKABLE_BATCH
    }

    fn text(&self, name: &str) -> String {
        // A producer may have written headers of these names too; ours come last.
        let value =
            self.record.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

/// The headers with which a record goes to its topic again: its own, and where it stood first.
pub fn headers_again(own: &[(String, Vec<u8>)], first: &Origin) -> Vec<(String, Vec<u8>)> {
    let origin = first.to_headers();
    let is_ours = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with(headers::DLQ_PREFIX) || origin.iter().any(|(ours, _)| *ours == name)
    };
    let kept = own.iter().filter(|(name, _)| !is_ours(name)).cloned();
    kept.chain(origin.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes()))).collect()
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::*;

    /// A dead letter at `at`, written at `written_ms`, of a record at offset `refused` that stood first at offset
    /// `first`.
    pub fn letter(at: At, written_ms: i64, refused: i64, first: i64, class: &str, key: Option<&str>) -> Letter {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let mut all = vec![header("x", "kept")];
        if first != refused {
            let first = Origin { topic: "t.events".to_owned(), partition: 3, offset: first, timestamp_ms: 5 };
            all.extend(first.to_headers().map(|(name, value)| header(name, &value)));
        }
        all.extend([
            header(headers::DLQ_TOPIC, "t.events"),
            header(headers::DLQ_PARTITION, "3"),
            header(headers::DLQ_OFFSET, &refused.to_string()),
            header(headers::DLQ_TIMESTAMP, "5"),
            header(headers::DLQ_ERROR_CLASS, class),
            header(headers::DLQ_ERROR_MESSAGE, "why"),
            header(headers::DLQ_FIRST_SEEN, &written_ms.to_string()),
        ]);
        let record = Record {
            topic: Arc::from("t.dead"),
            partition: at.0,
            offset: at.1,
            timestamp_ms: written_ms,
            key: key.map(|key| key.as_bytes().to_vec()),
            value: Some(b"v".to_vec()),
            headers: all,
            is_marker: false,
            unpackable: None,
        };
        Letter::read(record).unwrap()
    }

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        let place = Place { topic: "a/b".to_owned(), partition: 3, offset: 1234 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "t", "t/1", "/1/2", "t/x/1", "t/1/-1", "t/-1/1", "t/1/2/"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_goes_back_with_its_own_headers_and_its_first_place() {
        let redriven = letter((0, 0), 9, 8, 7, "malformed", None);
        assert_eq!((redriven.refused_at.offset, redriven.first.offset, redriven.is_of_the_first()), (8, 7, false));
        let mut own = redriven.record.headers.clone();
        own.push(("Triggers-DLQ-Topic".to_owned(), b"forged".to_vec()));
        own.push(("TRIGGERS-ORIGIN-OFFSET".to_owned(), b"forged".to_vec()));
        let again = headers_again(&own, &redriven.first);
        let names: Vec<&str> = again.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "x",
                "triggers-origin-topic",
                "triggers-origin-partition",
                "triggers-origin-offset",
                "triggers-origin-timestamp"
            ]
        );
        assert_eq!(Origin::of_headers(&again).unwrap().unwrap(), redriven.first);
    }

    #[test]
    fn a_record_that_was_refused_for_its_origin_goes_back_with_the_place_where_it_stands() {
        let mut record = letter((0, 0), 9, 8, 8, "bad_origin", None).record;
        record.headers.insert(0, ("triggers-origin-offset".to_owned(), b"7".to_vec()));
        let letter = Letter::read(record).unwrap();
        assert_eq!(letter.first, letter.refused_at);
        let again = headers_again(&letter.record.headers, &letter.first);
        assert_eq!(Origin::of_headers(&again).unwrap().unwrap(), letter.refused_at);
    }

    #[test]
    fn a_record_without_a_place_is_no_dead_letter() {
        let mut record = letter((0, 0), 9, 8, 8, "malformed", None).record;
        record.headers.retain(|(name, _)| name != headers::DLQ_OFFSET);
        assert!(Letter::read(record).is_none());
    }
}
