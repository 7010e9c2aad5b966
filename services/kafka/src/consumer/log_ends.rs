//! The end of the log of each partition, as librdkafka's statistics last reported it. Lag is computed from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::statistics::Statistics;

/// Ends of the partitions that are read: (topic, partition) -> offset after the last readable record. Cloning shares
/// them.
#[derive(Clone, Default)]
pub struct LogEnds(Arc<Mutex<HashMap<(String, i32), i64>>>);

impl LogEnds {
    /// The end of one partition; `None`: not reported yet.
    pub fn of(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(topic.to_owned(), partition)).copied()
    }

    pub(super) fn update(&self, statistics: &Statistics) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in &statistics.topics {
            for (id, partition) in &topic.partitions {
                // Readers see nothing beyond the last stable offset: an open transaction is no lag of this consumer.
                let end = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
                if *id >= 0 && end >= 0 {
                    ends.insert((name.clone(), *id), end);
                }
            }
        }
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, partition), _| !partitions.contains(partition));
    }
}
