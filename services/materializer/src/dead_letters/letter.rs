//! One dead letter: the record it was made of, where that stood, and why it was refused. Pure. Reading the topic is
//! `topic`'s business.

use std::fmt;
use std::str::FromStr;

use platform::kafka::Record;
use schemas::headers;
use schemas::ids::OrgId;
use schemas::native::Origin;
use schemas::topics::TopicNames;

/// Topic, partition and offset of a record, as people write them: `TOPIC/PARTITION/OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPlace {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl RecordPlace {
    /// Of the record that `origin` names.
    pub fn of(origin: &Origin) -> Self {
        Self { topic: origin.topic.clone(), partition: origin.partition, offset: origin.offset }
    }
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for RecordPlace {
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
        // An origin that cannot be read is why the record was refused, and is replaced when it is written again.
        let first = Origin::of_headers(&record.headers).ok().flatten().unwrap_or_else(|| refused_at.clone());
        Some(Self { record, refused_at, first })
    }

    /// Where the letter itself is.
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
        self.record.value.is_none() && self.class() != "null_value"
    }

    fn text(&self, name: &str) -> String {
        // A producer may have written headers of these names too; ours come last.
        let value =
            self.record.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

/// A record that is ready to go to its topic again.
#[derive(Debug, Clone)]
pub struct Again {
    /// The letter it is made of.
    pub at: At,
    /// The record that was refused.
    pub place: RecordPlace,
    /// Full name of its topic.
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Its own headers, and where it was written first.
    pub headers: Vec<(String, Vec<u8>)>,
    /// It was too large for the dead letters, and may be for its topic.
    pub is_large: bool,
}

/// Why a record does not go back to its topic.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A letter may name any topic.
    #[error("{0}: {1} is no topic of this deployment")]
    ForeignTopic(RecordPlace, String),
    /// Nobody has its bytes.
    #[error("{0}: only its place is kept, since it was too large for the dead letters, and the log no longer has it")]
    Expired(RecordPlace),
}

impl Letter {
    /// Whether its record may go back at all; `place` is what it is called.
    pub fn check(&self, place: &RecordPlace, topics: &TopicNames) -> Result<(), Refusal> {
        let topic = &self.refused_at.topic;
        if [&topics.events, &topics.acks, &topics.deliveries].contains(&topic) {
            return Ok(());
        }
        Err(Refusal::ForeignTopic(place.clone(), topic.clone()))
    }

    /// What goes back: the letter's own record, or the one `of_the_log` where only its place is in the letter.
    ///
    /// # Errors
    /// When nobody has it.
    pub fn again(self, place: RecordPlace, of_the_log: Option<Record>) -> Result<Again, Refusal> {
        let (at, is_large, topic) = (self.at(), self.is_place_only(), self.refused_at.topic.clone());
        let record = match (is_large, of_the_log) {
            (false, _) => self.record,
            (true, Some(record)) => record,
            (true, None) => return Err(Refusal::Expired(place)),
        };
        let headers = headers_again(&record.headers, &self.first);
        Ok(Again { at, place, topic, key: record.key, value: record.value, headers, is_large })
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
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A dead letter at `at`, written at `written_ms`, of a record at offset `refused` that stood first at offset
    /// `first`.
    pub(crate) fn letter(at: At, written_ms: i64, refused: i64, first: i64, class: &str, key: Option<&str>) -> Letter {
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
        };
        Letter::read(record).unwrap()
    }

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        let place = RecordPlace { topic: "a/b".to_owned(), partition: 3, offset: 1234 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "t", "t/1", "/1/2", "t/x/1", "t/1/-1", "t/-1/1", "t/1/2/"] {
            assert!(bad.parse::<RecordPlace>().is_err(), "{bad}");
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
    fn a_record_goes_back_to_topics_of_the_deployment_only() {
        let refused = letter((0, 0), 9, 8, 8, "malformed", None);
        let place = RecordPlace::of(&refused.first);
        let foreign = Refusal::ForeignTopic(place.clone(), "t.events".to_owned());
        assert_eq!(refused.check(&place, &TopicNames::with_prefix("t.")), Err(foreign));
        let mut topics = TopicNames::with_prefix("t.");
        topics.events = "t.events".to_owned();
        assert_eq!(refused.check(&place, &topics), Ok(()));
    }

    #[test]
    fn a_record_of_which_only_the_place_is_kept_goes_back_from_the_log() {
        let whole = letter((0, 0), 9, 8, 8, "value_too_large", None);
        let mut place_only = whole.clone();
        place_only.record.value = None;
        let place = RecordPlace::of(&whole.first);
        let refused = place_only.clone().again(place.clone(), None).unwrap_err();
        assert_eq!(refused, Refusal::Expired(place.clone()));
        let again = place_only.again(place.clone(), Some(whole.record.clone())).unwrap();
        assert_eq!((again.value.as_deref(), again.is_large), (Some(&b"v"[..]), true));
        assert!(!whole.again(place, None).unwrap().is_large);
    }

    #[test]
    fn a_record_without_a_place_is_no_dead_letter() {
        let mut record = letter((0, 0), 9, 8, 8, "malformed", None).record;
        record.headers.retain(|(name, _)| name != headers::DLQ_OFFSET);
        assert!(Letter::read(record).is_none());
    }
}
