//! Whether what looks younger before a position is a record. Asked for a time, the brokers also tell the end of a
//! transaction and what was aborted, and those may be a whole transaction younger than the last record that was read.
//! So the place is read before anybody stops.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::warn;

use super::KafkaConfig;
use super::bounds::{Asked, CLOCK_SLACK_MS, LogBounds};
use super::log_reader::{self, OnTruncation, ReadError, Span};

/// How long reading may take. It ends with the first record that is younger; else it is the ends of a few transactions.
/// What takes longer is a long aborted stretch rather than a record, and counts as read: nobody could say more, and
/// waiting for it would leave the partition unread. Long enough for a leader that is slow because it is new.
const TIMEOUT: Duration = Duration::from_secs(15);

/// `bounds`, of which what is younger and lies before `next_offset` is a record that readers see, if there is any.
///
/// # Errors
/// When the place cannot be read: then nothing is known.
pub async fn seen(
    kafka: &KafkaConfig,
    topic: &Arc<str>,
    (partition, time_ms): Asked,
    next_offset: i64,
    bounds: LogBounds,
) -> Result<LogBounds, KafkaError> {
    let (Some(time_ms), Some(from)) = (time_ms, bounds.first_later) else { return Ok(bounds) };
    // Outside of the bounds the position is in doubt no more.
    if from >= next_offset || !(bounds.begin..=bounds.end).contains(&next_offset) {
        return Ok(bounds);
    }
    let span = Span { topic: topic.clone(), partition, from: from.max(bounds.begin), to: next_offset };
    let first = tokio::time::timeout(TIMEOUT, first_after(kafka, span, time_ms.saturating_add(CLOCK_SLACK_MS)));
    let first_later = match first.await {
        Ok(Ok(first)) => first,
        Ok(Err(ReadError::Kafka(error))) => return Err(error),
        Ok(Err(ReadError::Truncated)) => return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetOutOfRange)),
        Ok(Err(ReadError::Stalled(_) | ReadError::Undecodable { .. })) | Err(_) => {
            warn!(%topic, partition, from, "What lies before the position could not be read in time; it counts as read.");
            None
        }
    };
    Ok(LogBounds { first_later, ..bounds })
}

async fn first_after(kafka: &KafkaConfig, span: Span, time_ms: i64) -> Result<Option<i64>, ReadError> {
    let mut inflow = log_reader::read(kafka, vec![span], &[], OnTruncation::Fail)?;
    while let Some(records) = inflow.recv().await {
        let records = records?;
        let first = records.iter().find(|record| record.log_time_ms().is_some_and(|appended_ms| appended_ms > time_ms));
        if let Some(first) = first {
            return Ok(Some(first.offset));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_a_record_that_is_younger_makes_a_log_another_one() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("events", 1, 1).unwrap();
        let kafka = KafkaConfig::new(mock.bootstrap_servers(), "");
        let config = kafka.client("test");
        let publish = move || {
            let producer: BaseProducer = config.create().unwrap();
            for time_ms in [1_000, 2_000, 20_000] {
                let record = BaseRecord::<str, str>::to("events").partition(0).payload("v").timestamp(time_ms);
                producer.send(record).map_err(|(error, _)| error).unwrap();
                producer.flush(TIMEOUT).unwrap();
            }
        };
        tokio::task::spawn_blocking(publish).await.unwrap();
        let topic: Arc<str> = "events".into();
        let seen = async |time_ms, next, later| {
            let bounds = LogBounds { begin: 0, end: 3, first_later: Some(later) };
            seen(&kafka, &topic, (0, Some(time_ms)), next, bounds).await.unwrap().first_later
        };
        assert_eq!(seen(2_000, 3, 1).await, Some(2), "the record, not the place before it");
        assert_eq!(seen(2_000, 2, 1).await, None, "no record is younger: the place was the end of a transaction");
        assert_eq!(seen(15_000, 3, 1).await, None, "within the slack");
        assert_eq!(seen(2_000, 1, 1).await, Some(1), "what was not read yet is not looked at");
    }
}
