//! Reads the ranges of one topic, blocking, on its own thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::debug;

use super::remaining::{NextStep, Remaining};
use super::{OnTruncation, REQUEST_TIMEOUT, ReadError};
use crate::{Record, bounds, undecodable};

/// Without progress for this time, reading has failed.
const STALL_AFTER: Duration = Duration::from_secs(60);
/// How long decode errors may come without a record before the next batches are probed.
const DECODE_PATIENCE: Duration = Duration::from_secs(2);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Largest number of records in a chunk.
const CHUNK_RECORDS: usize = 500;
/// A chunk takes no further record above this size; one record may be larger.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What remains of each partition that is not read to the end of its range.
pub(super) type OpenPartitions = HashMap<i32, Remaining>;

/// Reads one topic.
pub(super) struct TopicReader {
    pub(super) client: BaseConsumer,
    pub(super) config: ClientConfig,
    pub(super) topic: Arc<str>,
    pub(super) open: OpenPartitions,
    pub(super) on_truncation: OnTruncation,
}

impl TopicReader {
    /// Ends with the last record, with an error, or when the receiver is dropped.
    pub(super) fn run(&mut self, sender: &mpsc::Sender<Result<Vec<Record>, ReadError>>) -> Result<(), ReadError> {
        let mut chunk = Chunk::default();
        // Completes ranges that are skipped as a whole.
        for (partition, next) in self.next_offsets() {
            self.advance(&mut chunk, partition, next);
        }
        self.assign()?;
        let (mut last_progress, mut has_decode_error) = (Instant::now(), false);
        let mut last_error = String::from("no answer");
        loop {
            if !chunk.records.is_empty() {
                if sender.blocking_send(Ok(std::mem::take(&mut chunk.records))).is_err() {
                    return Ok(());
                }
                // The receiver may have been busy.
                last_progress = Instant::now();
            } else if sender.is_closed() {
                return Ok(());
            } else if last_progress.elapsed() > STALL_AFTER {
                return Err(ReadError::Stalled(last_error));
            } else if has_decode_error && last_progress.elapsed() > DECODE_PATIENCE {
                has_decode_error = false;
                self.find_undecodable()?;
            }
            if self.open.is_empty() {
                return Ok(());
            }
            if chunk.needs_assignment {
                (chunk.needs_assignment, has_decode_error) = (false, false);
                self.assign()?;
            }
            match self.poll_chunk(&mut chunk) {
                None => {}
                Some(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    self.handle_truncation(&mut chunk)?;
                    last_error = error.to_string();
                }
                Some(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error.into()),
                // Brokers away, leader moving: librdkafka retries it, until `STALL_AFTER`.
                Some(error) => {
                    has_decode_error |= undecodable::is_decode_error(&error);
                    last_error = error.to_string();
                }
            }
        }
    }

    fn next_offsets(&self) -> Vec<(i32, i64)> {
        let next = |(partition, remaining): (&i32, &Remaining)| (*partition, remaining.next().unwrap_or(i64::MAX));
        self.open.iter().map(next).collect()
    }

    fn assign(&self) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in self.next_offsets() {
            assignment.add_partition_offset(&self.topic, partition, Offset::Offset(next))?;
        }
        self.client.assign(&assignment)
    }

    /// Notes that reading of the partition has reached `next`.
    fn advance(&mut self, chunk: &mut Chunk, partition: i32, next: i64) {
        let Some(remaining) = self.open.get_mut(&partition) else { return };
        match remaining.advance(next) {
            NextStep::SamePiece => {}
            NextStep::NextPiece => chunk.needs_assignment = true,
            NextStep::Done(marker) => {
                self.open.remove(&partition);
                chunk.records.extend(marker.map(|offset| Record::marker(self.topic.clone(), partition, offset)));
            }
        }
    }

    /// Probes the next batch of each partition: the error of a poll does not name the partition.
    fn find_undecodable(&self) -> Result<(), ReadError> {
        for (partition, offset) in self.next_offsets() {
            match undecodable::probe(&self.config, &self.topic, partition, offset) {
                Ok(Some(text)) => {
                    return Err(ReadError::Undecodable { topic: self.topic.clone(), partition, offset, text });
                }
                Ok(None) => {}
                Err(error) => {
                    debug!(topic = %self.topic, partition, %error, "Probing a batch failed; reading continues.")
                }
            }
        }
        Ok(())
    }

    /// Continues at the start of the log. If the log of a partition ends before its next offset, its range is done.
    fn handle_truncation(&mut self, chunk: &mut Chunk) -> Result<(), ReadError> {
        if self.on_truncation == OnTruncation::Fail {
            return Err(ReadError::Truncated);
        }
        let next_offsets = self.next_offsets();
        let partitions: Vec<i32> = next_offsets.iter().map(|(partition, _)| *partition).collect();
        let answers = bounds::query(&self.client, &self.topic, &partitions, REQUEST_TIMEOUT);
        for (partition, next) in next_offsets {
            // Without an answer it is read from the same offset again, and the error comes again.
            let Some(Ok(log)) = answers.get(&partition) else { continue };
            let to = if next > log.end { i64::MAX } else { log.start };
            self.advance(chunk, partition, to);
        }
        chunk.needs_assignment = true;
        Ok(())
    }

    /// The client's next offset in a partition; `None`: it has met neither a record nor a transaction marker.
    fn client_offset(&self, partition: i32) -> Option<i64> {
        match self.client.position().ok()?.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    /// Polls up to a chunk; returns the error that ended it.
    fn poll_chunk(&mut self, chunk: &mut Chunk) -> Option<KafkaError> {
        let mut bytes = 0;
        let mut timeout = POLL_TIMEOUT;
        while chunk.records.len() < CHUNK_RECORDS
            && bytes < CHUNK_BYTES
            && !self.open.is_empty()
            && !chunk.needs_assignment
        {
            let client = &self.client;
            match client.poll(timeout) {
                None => break,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    if let Some(remaining) = self.open.get_mut(&partition) {
                        // A record after the piece shows that there is no further record in the piece.
                        if remaining.contains(offset) {
                            remaining.mark_delivered(offset + 1);
                            let record = Record::copy_of(&message, &self.topic);
                            bytes += record.size();
                            chunk.records.push(record);
                        }
                        drop(message);
                        self.advance(chunk, partition, offset + 1);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    // A new leader, or a replica that serves the reads, may end before the range: its records come
                    // later. The client also advances over offsets without a record, so only its offset shows that the
                    // piece is read.
                    let end = self.open.get(&partition).and_then(Remaining::piece_end);
                    if let Some(end) = end
                        && self.client_offset(partition).is_some_and(|next| next >= end)
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

/// Result of one poll.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    /// Some partition must be read at another offset than the client's.
    needs_assignment: bool,
}
