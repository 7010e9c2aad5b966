//! An independent reader of the log: the topics of events and acknowledgements, with the decoder of `schemas` and none
//! of the product's consumers.
//!
//! `check::view_matches_log` compares the view with what it reads. `rebuild_check` compares it with the product's own
//! rebuild.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::native::{NativeRecord, read_acks, read_event};
use schemas::topics::TopicNames;
use uuid::Uuid;

use crate::check::LogEvent;
use crate::offsets::EndOffsets;

/// Longest wait for the next record.
const MAX_GAP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// What the log contains.
#[derive(Default)]
pub(crate) struct LogContent {
    /// Events, in order within their partition.
    pub events: Vec<LogEvent>,
    /// Organization and id of each acknowledged event.
    pub acked: HashSet<(Uuid, Uuid)>,
    /// Records that cannot be decoded: position and reason.
    pub undecodable: Vec<String>,
}

/// Reads from `from` to `to`; without `from` from the start of the log. Blocks.
pub(crate) fn read(
    client: &BaseConsumer,
    topics: &TopicNames,
    from: Option<&EndOffsets>,
    to: &EndOffsets,
) -> anyhow::Result<LogContent> {
    let mut content = LogContent::default();
    let mut assignment = TopicPartitionList::new();
    let mut unfinished: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for ((topic, partition), end) in to.iter().filter(|((topic, _), _)| *topic != topics.deliveries) {
        let start = from.and_then(|from| from.get(&(topic.clone(), *partition)).copied()).unwrap_or(0);
        if start < *end {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(start))?;
            unfinished.insert((topic.clone(), *partition), *end);
        }
    }
    client.assign(&assignment).context("assigning the log")?;
    let mut last_record = Instant::now();
    while !unfinished.is_empty() {
        if last_record.elapsed() > MAX_GAP {
            bail!(
                "no record for {} s, and {} partitions are not read to their end",
                MAX_GAP.as_secs(),
                unfinished.len()
            );
        }
        match client.poll(POLL) {
            None => continue,
            // librdkafka retries: a broker may be restarting.
            Some(Err(_)) => continue,
            Some(Ok(message)) => {
                last_record = Instant::now();
                let partition = (message.topic().to_owned(), message.partition());
                let Some(end) = unfinished.get(&partition).copied() else { continue };
                if message.offset() < end {
                    decode(&message, topics, &mut content);
                }
                if message.offset() + 1 >= end {
                    unfinished.remove(&partition);
                }
            }
        }
    }
    client.unassign()?;
    Ok(content)
}

fn decode(message: &BorrowedMessage<'_>, topics: &TopicNames, content: &mut LogContent) {
    let headers: Vec<(String, Vec<u8>)> = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    let record = NativeRecord {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key(),
        value: message.payload(),
        headers: &headers,
    };
    let position = (record.partition, record.offset);
    let decoded = if record.topic == topics.events {
        read_event(&record).map(|event| {
            let dedup = event.dedup.map(|dedup| (dedup.kind.as_str().to_owned(), dedup.key, dedup.body_hash));
            content.events.push(LogEvent {
                org: event.org_id.as_uuid(),
                id: event.event_id.as_uuid(),
                dedup,
                position,
            });
        })
    } else {
        read_acks(record.key, record.value, record.headers).map(|acks| {
            content.acked.extend(acks.iter().map(|ack| (ack.org_id.as_uuid(), ack.event_id.as_uuid())));
        })
    };
    if let Err(reason) = decoded {
        content.undecodable.push(format!("{}/{}/{}: {reason}", record.topic, position.0, position.1));
    }
}
