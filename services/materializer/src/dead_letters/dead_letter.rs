//! One dead letter: the rejected record, its position, and the reason. Pure. `topic` reads them.

use std::fmt;
use std::str::FromStr;

use kafka::Record;
use schemas::headers;
use schemas::ids::OrgId;
use schemas::native::Origin;
use schemas::topics::TopicNames;

/// Topic, partition and offset of a record, in text: `TOPIC/PARTITION/OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl RecordPosition {
    pub fn of(origin: &Origin) -> Self {
        Self { topic: origin.topic.clone(), partition: origin.partition, offset: origin.offset }
    }
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for RecordPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (rest, offset) = text.rsplit_once('/')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            let position =
                Self { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (!topic.is_empty() && position.partition >= 0 && position.offset >= 0).then_some(position)
        };
        read().ok_or_else(|| "must be TOPIC/PARTITION/OFFSET, as `triggers dlq list` prints it".to_owned())
    }
}

/// Partition and offset of a dead letter, on the topic of dead letters.
pub type PartitionOffset = (i32, i64);

#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The record on the topic of dead letters.
    pub record: Record,
    /// Position of the rejected record.
    pub refused_at: Origin,
    /// Its first position, if it was redriven before; else the same.
    pub first: Origin,
}

impl DeadLetter {
    /// Parses a record of the topic of dead letters; `None` if it is no dead letter.
    pub fn read(record: Record) -> Option<Self> {
        let refused_at = Origin::of_dead_letter(&record.headers).ok().flatten()?;
        // A record with an unreadable origin was rejected for it; a redrive replaces the origin.
        let first = Origin::of_headers(&record.headers).ok().flatten().unwrap_or_else(|| refused_at.clone());
        Some(Self { record, refused_at, first })
    }

    /// Position of the dead letter itself.
    pub fn partition_offset(&self) -> PartitionOffset {
        (self.record.partition, self.record.offset)
    }

    /// Whether the rejected record was not a redriven one.
    pub fn is_first_rejection(&self) -> bool {
        self.refused_at == self.first
    }

    /// Class of the error.
    pub fn class(&self) -> String {
        self.text(headers::DLQ_ERROR_CLASS)
    }

    pub fn message(&self) -> String {
        self.text(headers::DLQ_ERROR_MESSAGE)
    }

    /// When the record was rejected, milliseconds since the Unix epoch.
    pub fn first_seen_ms(&self) -> Option<i64> {
        self.text(headers::DLQ_FIRST_SEEN).parse().ok()
    }

    /// The organization that is the record's key.
    pub fn organization(&self) -> Option<OrgId> {
        std::str::from_utf8(self.record.key.as_deref()?).ok()?.parse().ok()
    }

    /// Whether the dead letter has only the position of the record, which was too large for the topic of dead letters.
    pub fn is_position_only(&self) -> bool {
        self.record.value.is_none() && self.class() != "null_value"
    }

    fn text(&self, name: &str) -> String {
        // A producer may have written headers with these names too; ours come last.
        let value =
            self.record.headers.iter().rev().find(|(header, _)| header == name).map(|(_, value)| value.as_slice());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

/// A record that is ready to be written to its topic again.
#[derive(Debug, Clone)]
pub struct RedriveRecord {
    /// Position of its dead letter.
    pub partition_offset: PartitionOffset,
    /// Position of the rejected record.
    pub position: RecordPosition,
    /// Full name of its topic.
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Its own headers, and its first position.
    pub headers: Vec<(String, Vec<u8>)>,
    /// It was too large for the topic of dead letters, and may be too large for its own topic.
    pub is_large: bool,
}

/// Why a record cannot be redriven.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RedriveRefusal {
    /// A dead letter may name any topic, but only topics of the deployment are written.
    #[error("{0}: topic {1} does not belong to this deployment")]
    ForeignTopic(RecordPosition, String),
    /// The bytes of the record are lost.
    #[error("{0}: the record was too large for the topic of dead letters, and its own topic no longer has it")]
    Expired(RecordPosition),
}

impl DeadLetter {
    /// Checks that its record may be redriven; `position` names it in the error.
    pub fn check_topic(&self, position: &RecordPosition, topics: &TopicNames) -> Result<(), RedriveRefusal> {
        let topic = &self.refused_at.topic;
        if [&topics.events, &topics.acks, &topics.deliveries].contains(&topic) {
            return Ok(());
        }
        Err(RedriveRefusal::ForeignTopic(position.clone(), topic.clone()))
    }

    /// The record to write: that of the dead letter, or `from_log` if the dead letter has no bytes.
    ///
    /// # Errors
    /// When neither has the bytes.
    pub fn redrive(self, position: RecordPosition, from_log: Option<Record>) -> Result<RedriveRecord, RedriveRefusal> {
        let (partition_offset, is_large, topic) =
            (self.partition_offset(), self.is_position_only(), self.refused_at.topic.clone());
        let record = match (is_large, from_log) {
            (false, _) => self.record,
            (true, Some(record)) => record,
            (true, None) => return Err(RedriveRefusal::Expired(position)),
        };
        let headers = redrive_headers(&record.headers, &self.first);
        Ok(RedriveRecord { partition_offset, position, topic, key: record.key, value: record.value, headers, is_large })
    }
}

/// The headers of a redriven record: its own, and its first position.
fn redrive_headers(own: &[(String, Vec<u8>)], first: &Origin) -> Vec<(String, Vec<u8>)> {
    let origin = first.to_headers();
    let is_ours = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with(headers::DLQ_PREFIX) || origin.iter().any(|(ours, _)| *ours == name)
    };
    let kept = own.iter().filter(|(name, _)| !is_ours(name)).cloned();
    kept.chain(origin.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes()))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A dead letter at `at`, written at `written_ms`, of a record at offset `refused` whose first offset was `first`.
    pub(crate) fn dead_letter(
        at: PartitionOffset,
        written_ms: i64,
        refused: i64,
        first: i64,
        class: &str,
        key: Option<&str>,
    ) -> DeadLetter {
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
            has_producers_time: false,
        };
        DeadLetter::read(record).unwrap()
    }

    #[test]
    fn a_position_is_parsed_as_it_is_printed() {
        let position = RecordPosition { topic: "a/b".to_owned(), partition: 3, offset: 1234 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "t", "t/1", "/1/2", "t/x/1", "t/1/-1", "t/-1/1", "t/1/2/"] {
            assert!(bad.parse::<RecordPosition>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redriven_record_keeps_its_headers_and_first_position() {
        let redriven = dead_letter((0, 0), 9, 8, 7, "malformed", None);
        assert_eq!((redriven.refused_at.offset, redriven.first.offset, redriven.is_first_rejection()), (8, 7, false));
        let mut own = redriven.record.headers.clone();
        own.push(("Triggers-DLQ-Topic".to_owned(), b"forged".to_vec()));
        own.push(("TRIGGERS-ORIGIN-OFFSET".to_owned(), b"forged".to_vec()));
        let again = redrive_headers(&own, &redriven.first);
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
    fn a_redrive_replaces_an_unreadable_origin() {
        let mut record = dead_letter((0, 0), 9, 8, 8, "bad_origin", None).record;
        record.headers.insert(0, ("triggers-origin-offset".to_owned(), b"7".to_vec()));
        let dead_letter = DeadLetter::read(record).unwrap();
        assert_eq!(dead_letter.first, dead_letter.refused_at);
        let again = redrive_headers(&dead_letter.record.headers, &dead_letter.first);
        assert_eq!(Origin::of_headers(&again).unwrap().unwrap(), dead_letter.refused_at);
    }

    #[test]
    fn only_topics_of_the_deployment_are_redriven() {
        let refused = dead_letter((0, 0), 9, 8, 8, "malformed", None);
        let position = RecordPosition::of(&refused.first);
        let foreign = RedriveRefusal::ForeignTopic(position.clone(), "t.events".to_owned());
        assert_eq!(refused.check_topic(&position, &TopicNames::with_prefix("t.")), Err(foreign));
        let mut topics = TopicNames::with_prefix("t.");
        topics.events = "t.events".to_owned();
        assert_eq!(refused.check_topic(&position, &topics), Ok(()));
    }

    #[test]
    fn a_record_too_large_for_a_letter_is_redriven_from_the_log() {
        let with_bytes = dead_letter((0, 0), 9, 8, 8, "value_too_large", None);
        let mut position_only = with_bytes.clone();
        position_only.record.value = None;
        let position = RecordPosition::of(&with_bytes.first);
        let refused = position_only.clone().redrive(position.clone(), None).unwrap_err();
        assert_eq!(refused, RedriveRefusal::Expired(position.clone()));
        let again = position_only.redrive(position.clone(), Some(with_bytes.record.clone())).unwrap();
        assert_eq!((again.value.as_deref(), again.is_large), (Some(&b"v"[..]), true));
        assert!(!with_bytes.redrive(position, None).unwrap().is_large);
    }

    #[test]
    fn a_record_without_a_position_is_no_dead_letter() {
        let mut record = dead_letter((0, 0), 9, 8, 8, "malformed", None).record;
        record.headers.retain(|(name, _)| name != headers::DLQ_OFFSET);
        assert!(DeadLetter::read(record).is_none());
    }
}
