//! Records with the same topic, key and headers, such as the events of one request.

use std::sync::{Arc, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use runtime::budget::Share;
use tokio::time::Instant;

use super::in_flight::{self, PendingReport};
use super::{Producer, PublishError, Submitted};
use crate::partition;

/// Appends records that differ in their values only. What they have in common is looked up and converted once.
pub struct Series<'p, 't> {
    producer: &'p Producer,
    topic: &'t str,
    key: Option<Box<[u8]>>,
    /// `None`: there are none.
    headers: Option<OwnedHeaders>,
    /// About the bytes that a record without a value takes until its report.
    bytes: u64,
    /// Bounds the bytes of the key.
    share: Share,
    /// Bounds the records of the partition, if that is known; else those of all.
    records: Share,
}

impl Producer {
    /// Records of one topic, key and set of headers. The partition follows from the key.
    pub fn series<'p, 't>(&'p self, topic: &'t str, key: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Series<'p, 't> {
        Series {
            producer: self,
            topic,
            key: key.map(Box::from),
            headers: (!headers.is_empty()).then(|| {
                headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |owned, (key, value)| {
                    owned.insert(Header { key, value: Some(*value) })
                })
            }),
            bytes: in_flight::bytes_without_value(key, headers),
            share: self.shared.bytes_by_key.of(key.unwrap_or_default().into()),
            records: key
                .and_then(|key| self.partition_of(topic, key))
                .unwrap_or_else(|| self.shared.records.unbounded_share()),
        }
    }

    fn partition_of(&self, topic: &str, key: &[u8]) -> Option<Share> {
        let topics = self.shared.partitions.read().unwrap_or_else(PoisonError::into_inner);
        let bounds = &topics.get(topic)?.partitions;
        let index = partition::of_key(key, i32::try_from(bounds.len()).ok()?);
        bounds.get(usize::try_from(index).ok()?).cloned()
    }
}

impl<'p> Series<'p, '_> {
    /// Hands the next record to the producer without waiting; a value of `None` is a tombstone. Records that are
    /// submitted one after the other are appended in this order.
    ///
    /// # Errors
    /// [`PublishError`]: nothing was sent.
    pub fn submit(&self, value: Option<&[u8]>) -> Result<Submitted<'p>, PublishError> {
        self.submit_with(self.headers.clone(), value)
    }

    /// Hands the only record to the producer.
    ///
    /// # Errors
    /// [`PublishError`]: nothing was sent.
    pub(super) fn submit_only(mut self, value: Option<&[u8]>) -> Result<Submitted<'p>, PublishError> {
        let headers = self.headers.take();
        self.submit_with(headers, value)
    }

    fn submit_with(&self, headers: Option<OwnedHeaders>, value: Option<&[u8]>) -> Result<Submitted<'p>, PublishError> {
        let place = self.records.take(1).map_err(|_| PublishError::Busy)?;
        let length = value.map_or(0, <[u8]>::len) as u64;
        let bytes = self.share.take(self.bytes + length).map_err(|_| PublishError::Busy)?;
        let (producer, report) = self.enqueue(headers, value)?;
        let report = PendingReport::new(report, bytes);
        let submitted_at = Instant::now();
        let deadline = submitted_at + self.producer.shared.settings.delivery_timeout;
        Ok(Submitted { owner: self.producer, producer, report, submitted_at, deadline, _place: place })
    }

    /// Hands the record to the producer. A record that fails here was never queued, so it is not on the log. If the
    /// producer has failed for good, the new producer may take the record.
    fn enqueue(
        &self,
        headers: Option<OwnedHeaders>,
        value: Option<&[u8]>,
    ) -> Result<(Arc<FutureProducer>, DeliveryFuture), PublishError> {
        let mut record = FutureRecord::<[u8], [u8]>::to(self.topic);
        (record.key, record.payload, record.headers) = (self.key.as_deref(), value, headers);
        let not_queued = |error: KafkaError| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => PublishError::Busy,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::Rejected(error.to_string()),
            _ => PublishError::Failed(error.to_string()),
        };
        let producer = self.producer.producer();
        // Not `send`: on a full queue that one sleeps 100 ms at a time on the request's path.
        match producer.send_result(record) {
            Ok(report) => Ok((producer, report)),
            Err((_, record)) if producer.client().fatal_error().is_some() => {
                self.producer.replace_failed(&producer);
                let producer = self.producer.producer();
                let report = producer.send_result(record).map_err(|(error, _record)| not_queued(error))?;
                Ok((producer, report))
            }
            Err((error, _record)) => Err(not_queued(error)),
        }
    }
}
