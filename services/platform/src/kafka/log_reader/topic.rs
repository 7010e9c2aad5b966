//! Reads the spans of one topic, blocking, on a thread of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::debug;

use super::rest::{After, Rest};
use super::{CALL, OnTruncation, ReadError};
use crate::kafka::{Record, bounds, undecodable};

/// Without any progress for so long, reading has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long decode errors may be all that comes, before the next batches are probed.
const DECODE_PATIENCE: Duration = Duration::from_secs(2);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Records that are handed over at once.
const CHUNK_RECORDS: usize = 500;
/// Their bytes; one record may be larger.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What is left of each partition that is not read to its end.
pub(super) type Open = HashMap<i32, Rest>;

/// See the module.
pub(super) struct TopicReader {
    pub(super) client: BaseConsumer,
    pub(super) config: ClientConfig,
    pub(super) topic: Arc<str>,
    pub(super) open: Open,
    pub(super) on_truncation: OnTruncation,
}

impl TopicReader {
    /// Ends with the last record, with an error, or when nobody takes the records any more.
    pub(super) fn run(&mut self, sender: &mpsc::Sender<Result<Vec<Record>, ReadError>>) -> Result<(), ReadError> {
        let mut chunk = Chunk::default();
        // Closes spans of which all is skipped.
        for (partition, next) in self.nexts() {
            self.advance(&mut chunk, partition, next);
        }
        self.assign()?;
        let (mut last_progress, mut has_decode_error) = (Instant::now(), false);
        let mut trouble = String::from("no answer");
        loop {
            if !chunk.records.is_empty() {
                if sender.blocking_send(Ok(std::mem::take(&mut chunk.records))).is_err() {
                    return Ok(());
                }
                // The owner may have taken its time.
                last_progress = Instant::now();
            } else if sender.is_closed() {
                return Ok(());
            } else if last_progress.elapsed() > PATIENCE {
                return Err(ReadError::Stalled(trouble));
            } else if has_decode_error && last_progress.elapsed() > DECODE_PATIENCE {
                has_decode_error = false;
                self.find_undecodable()?;
            }
            if self.open.is_empty() {
                return Ok(());
            }
            if chunk.has_moved {
                (chunk.has_moved, has_decode_error) = (false, false);
                self.assign()?;
            }
            match self.poll_chunk(&mut chunk) {
                None => {}
                Some(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    self.truncated(&mut chunk)?;
                    trouble = error.to_string();
                }
                Some(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error.into()),
                // Brokers away, leader moving: librdkafka retries it, up to our patience.
                Some(error) => {
                    has_decode_error |= undecodable::is_decode_error(&error);
                    trouble = error.to_string();
                }
            }
        }
    }

    fn nexts(&self) -> Vec<(i32, i64)> {
        let next = |(partition, rest): (&i32, &Rest)| (*partition, rest.next().unwrap_or(i64::MAX));
        self.open.iter().map(next).collect()
    }

    fn assign(&self) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in self.nexts() {
            assignment.add_partition_offset(&self.topic, partition, Offset::Offset(next))?;
        }
        self.client.assign(&assignment)
    }

    /// Everything of the partition before `next` is read.
    fn advance(&mut self, chunk: &mut Chunk, partition: i32, next: i64) {
        let Some(rest) = self.open.get_mut(&partition) else { return };
        match rest.advance(next) {
            After::SamePiece => {}
            After::OtherPiece => chunk.has_moved = true,
            After::Done(marker) => {
                self.open.remove(&partition);
                chunk.records.extend(marker.map(|offset| Record::marker(self.topic.clone(), partition, offset)));
            }
        }
    }

    /// The next batch of each partition is tried alone: the error that came has no partition.
    fn find_undecodable(&self) -> Result<(), ReadError> {
        for (partition, offset) in self.nexts() {
            match undecodable::probe(&self.config, &self.topic, partition, offset) {
                Ok(Some(text)) => {
                    return Err(ReadError::Undecodable { topic: self.topic.clone(), partition, offset, text });
                }
                Ok(None) => {}
                Err(error) => debug!(topic = %self.topic, partition, %error, "Whether a batch decodes is not known."),
            }
        }
        Ok(())
    }

    /// Goes on where the log begins now. Of a partition whose log ends before the place, nothing is left.
    fn truncated(&mut self, chunk: &mut Chunk) -> Result<(), ReadError> {
        if self.on_truncation == OnTruncation::Fail {
            return Err(ReadError::Truncated);
        }
        let nexts = self.nexts();
        let asked: Vec<bounds::Asked> = nexts.iter().map(|(partition, _)| (*partition, None)).collect();
        let answers = bounds::ask(&self.client, &self.topic, &asked, CALL);
        for (partition, next) in nexts {
            // One that is not known now is read from the same place again, and comes here again.
            let Some(Ok(log)) = answers.get(&partition) else { continue };
            let to = if next > log.end { i64::MAX } else { log.begin };
            self.advance(chunk, partition, to);
        }
        chunk.has_moved = true;
        Ok(())
    }

    /// The next offset of a partition; `None`: nothing of it came, neither a record nor the end of a transaction.
    fn stands_at(&self, partition: i32) -> Option<i64> {
        match self.client.position().ok()?.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    /// Takes what is there, up to a chunk, and answers the error that it ended with.
    fn poll_chunk(&mut self, chunk: &mut Chunk) -> Option<KafkaError> {
        let mut bytes = 0;
        let mut timeout = POLL_TIMEOUT;
        while chunk.records.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES && !self.open.is_empty() && !chunk.has_moved {
            let client = &self.client;
            match client.poll(timeout) {
                None => break,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    if let Some(rest) = self.open.get_mut(&partition) {
                        // Whatever lies before a record beyond the piece is no record.
                        if rest.holds(offset) {
                            rest.hand_over(offset + 1);
                            let record = Record::copy_of(&message, &self.topic);
                            bytes += record.size();
                            chunk.records.push(record);
                        }
                        drop(message);
                        self.advance(chunk, partition, offset + 1);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    // A leader that is new, or a replica that is read instead, may end before the span: its records
                    // come later. What was passed without a record has moved the client, so only where it stands tells
                    // that nothing is left.
                    let end = self.open.get(&partition).and_then(Rest::piece_end);
                    if let Some(end) = end
                        && self.stands_at(partition).is_some_and(|next| next >= end)
                    {
                        self.advance(chunk, partition, end);
                    }
                }
                Some(Err(error)) => return Some(error),
            }
            timeout = Duration::ZERO;
        }
        None
    }
}

/// What one poll brings.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    /// Some partition is to be read at another place than the client is at.
    has_moved: bool,
}
