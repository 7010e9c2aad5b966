//! An independent reading of the log: the events and acknowledgements topics from begin to end, with the decoder of
//! `schemas` and nothing of the product's consumers.
//!
//! "The view equals one rebuilt from the log" is judged on this reading (`check::equals_the_log`). A rebuild by the
//! product's own command, with its comparison of checksums, stands beside it: in `rebuilt`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::native::{NativeRecord, read_acks, read_event};
use schemas::topics::TopicNames;
use uuid::Uuid;

use super::check::LogEvent;
use super::positions::Ends;

/// How long no record may come while some are missing.
const SILENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// What the log says.
#[derive(Default)]
pub struct Reading {
    /// Events in the order of their partitions.
    pub events: Vec<LogEvent>,
    /// Acknowledged: organization and event.
    pub acked: HashSet<(Uuid, Uuid)>,
    /// Records that say nothing, with their place and the reason.
    pub unreadable: Vec<String>,
}

/// Reads from `from` to `to`, both as the topics ended at some time; without `from` from the begin. Blocks.
pub fn read(client: &BaseConsumer, topics: &TopicNames, from: Option<&Ends>, to: &Ends) -> anyhow::Result<Reading> {
    let mut reading = Reading::default();
    let mut open = TopicPartitionList::new();
    let mut left: std::collections::BTreeMap<(String, i32), i64> = std::collections::BTreeMap::new();
    for ((topic, partition), end) in to.iter().filter(|((topic, _), _)| *topic != topics.deliveries) {
        let begin = from.and_then(|from| from.get(&(topic.clone(), *partition)).copied()).unwrap_or(0);
        if begin < *end {
            open.add_partition_offset(topic, *partition, Offset::Offset(begin))?;
            left.insert((topic.clone(), *partition), *end);
        }
    }
    client.assign(&open).context("assigning the log")?;
    let mut heard = Instant::now();
    while !left.is_empty() {
        if heard.elapsed() > SILENCE {
            bail!("the log stays silent with {} partitions not read to their ends", left.len());
        }
        match client.poll(POLL) {
            None => continue,
            // Errors pass: a broker may be on its way back.
            Some(Err(_)) => continue,
            Some(Ok(message)) => {
                heard = Instant::now();
                let place = (message.topic().to_owned(), message.partition());
                let Some(end) = left.get(&place).copied() else { continue };
                if message.offset() < end {
                    take(&message, topics, &mut reading);
                }
                if message.offset() + 1 >= end {
                    left.remove(&place);
                }
            }
        }
    }
    client.unassign()?;
    Ok(reading)
}

fn take(message: &BorrowedMessage<'_>, topics: &TopicNames, reading: &mut Reading) {
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
    let place = (record.partition, record.offset);
    let said = if record.topic == topics.events {
        read_event(&record).map(|event| {
            let name = event.dedup.map(|dedup| (dedup.kind.as_str().to_owned(), dedup.key, dedup.body_hash));
            reading.events.push(LogEvent { org: event.org_id.as_uuid(), id: event.event_id.as_uuid(), name, place });
        })
    } else {
        read_acks(record.key, record.value, record.headers).map(|acks| {
            reading.acked.extend(acks.iter().map(|ack| (ack.org_id.as_uuid(), ack.event_id.as_uuid())));
        })
    };
    if let Err(reason) = said {
        reading.unreadable.push(format!("{}/{}/{}: {reason}", record.topic, place.0, place.1));
    }
}
