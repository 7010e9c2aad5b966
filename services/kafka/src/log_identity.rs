//! Which log a position belongs to.

use uuid::Uuid;

/// What is stored of the log that a position is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogIdentity {
    /// Kafka's id of the topic; `None`: unknown, so it is not compared.
    pub topic_id: Option<Uuid>,
    /// Highest leader epoch of the records that were read. It is never lower than that of the record before the
    /// position; `None`: unknown, so it is not validated.
    pub leader_epoch: Option<i32>,
}

/// A stored position in one partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionPosition {
    /// Partition.
    pub partition: i32,
    /// Offset of the next record.
    pub next_offset: i64,
    /// The log that the offset is in.
    pub identity: LogIdentity,
}
