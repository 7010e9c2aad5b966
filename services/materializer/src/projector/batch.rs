//! What is collected between two transactions, by claim. Pure.
//!
//! Guards the one rule that makes positions mean something: a record is taken only under a claim, in offset order,
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;

use platform::fence::Claim;
use platform::kafka::Record;

/// One partition of one topic.
pub(crate) type Place = (Arc<str>, i32);

/// The claim of one partition, and how far it was read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) epoch: i64,
    pub(crate) log_epoch: i32,
    /// Position in PostgreSQL, as this instance last wrote or read it.
    pub(crate) committed: i64,
    /// Append time of the last record before `committed`, milliseconds since the Unix epoch.
    pub(crate) record_time_ms: Option<i64>,
    /// Append time of the first record that is collected and not written, so near as is known; same unit.
    pub(crate) waiting_since_ms: Option<i64>,
    /// First offset that is not collected yet.
    collected: i64,
}

/// What one transaction is to write.
#[derive(Debug)]
pub(crate) struct Batch {
    /// In the order in which they were read; in offset order within each place.
    pub(crate) records: Vec<Record>,
    /// The claims of the places they are from, as they stood when the batch was taken.
    pub(crate) holds: BTreeMap<Place, Hold>,
}

/// Collects records while a transaction runs.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    holds: BTreeMap<Place, Hold>,
    /// Events and acks.
    first: Lane,
    /// Deliveries, which yield to them.
    second: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    records: Vec<Record>,
    bytes: usize,
}

impl Lane {
    fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push(record);
    }

    fn forget(&mut self, gone: impl Fn(&Record) -> bool) {
        self.records.retain(|record| !gone(record));
        self.bytes = self.records.iter().map(Record::size).sum();
    }

    /// At least one, however large.
    fn take(&mut self, max_records: usize, max_bytes: usize) -> Vec<Record> {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.size();
            bytes <= max_bytes
        };
        let count = self.records.iter().take(max_records).take_while(fits).count().max(1);
        let taken: Vec<Record> = self.records.drain(..count.min(self.records.len())).collect();
        self.bytes -= taken.iter().map(Record::size).sum::<usize>();
        taken
    }
}

impl Collector {
    /// Collects under these claims from now on.
    pub(crate) fn assign(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            let hold = Hold {
                epoch: claim.epoch,
                log_epoch: claim.log_epoch,
                committed: claim.next_offset,
                record_time_ms: None,
                waiting_since_ms: None,
                collected: claim.next_offset,
            };
            self.stop(&claim.topic, claim.partition);
            self.holds.insert((claim.topic, claim.partition), hold);
        }
    }

    /// Forgets these partitions of every topic and what was collected of them.
    pub(crate) fn revoke(&mut self, partitions: &[i32]) {
        self.holds.retain(|(_, partition), _| !partitions.contains(partition));
        self.first.forget(|record| partitions.contains(&record.partition));
        self.second.forget(|record| partitions.contains(&record.partition));
    }

    /// Forgets one partition of one topic and what was collected of it.
    pub(crate) fn stop(&mut self, topic: &Arc<str>, partition: i32) {
        if self.holds.remove(&(topic.clone(), partition)).is_some() {
            let gone = |record: &Record| record.partition == partition && record.topic == *topic;
            self.first.forget(gone);
            self.second.forget(gone);
        }
    }

    /// Takes the records that are under a claim and not collected yet; the others belong to somebody else, or were read
    /// twice.
    pub(crate) fn collect(&mut self, records: Vec<Record>, is_delivery: impl Fn(&str) -> bool) {
        for record in records {
            let Some(hold) = self.holds.get_mut(&(record.topic.clone(), record.partition)) else { continue };
            if record.offset < hold.collected {
                continue;
            }
            hold.collected = record.offset + 1;
            hold.waiting_since_ms.get_or_insert(record.timestamp_ms);
            if is_delivery(&record.topic) { self.second.push(record) } else { self.first.push(record) }
        }
    }

    /// Whether more may be taken from the consumer. Both lanes are bounded, because one channel feeds both.
    pub(crate) fn has_room(&self, max_records: usize, max_bytes: usize) -> bool {
        [&self.first, &self.second].iter().all(|lane| lane.records.len() < max_records && lane.bytes < max_bytes)
    }

    /// What to write next: events and acks, else deliveries; `None` when nothing is collected.
    pub(crate) fn take_batch(&mut self, max_records: usize, max_bytes: usize) -> Option<Batch> {
        let lane = if self.first.records.is_empty() { &mut self.second } else { &mut self.first };
        let records = lane.take(max_records, max_bytes);
        if records.is_empty() {
            return None;
        }
        let mut holds = BTreeMap::new();
        for record in &records {
            let place = (record.topic.clone(), record.partition);
            if let Some(hold) = self.holds.get(&place) {
                holds.entry(place).or_insert(*hold);
            }
        }
        Some(Batch { records, holds })
    }

    /// Notes a position that was written, unless the claim has changed since.
    pub(crate) fn committed(&mut self, place: &Place, written: &Hold) {
        if let Some(hold) = self.holds.get_mut(place)
            && hold.epoch == written.epoch
        {
            hold.committed = written.committed;
            hold.record_time_ms = written.record_time_ms;
            // Of what was collected meanwhile the first is no older than the last one written.
            hold.waiting_since_ms = written.record_time_ms.filter(|_| hold.collected > hold.committed);
        }
    }

    /// Gives a claim up that was lost. `false`: it was given up before, or there is a newer one.
    pub(crate) fn lost(&mut self, place: &Place, epoch: i64) -> bool {
        let held = self.holds.get(place).is_some_and(|hold| hold.epoch == epoch);
        if held {
            self.stop(&place.0, place.1);
        }
        held
    }

    /// Every place that is held, and how it stands.
    pub(crate) fn holds(&self) -> impl Iterator<Item = (&Place, &Hold)> {
        self.holds.iter()
    }
}

#[cfg(test)]
mod tests;
