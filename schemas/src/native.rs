//! stub
use crate::records::{Ack, DeliveryAttempt, Event};

/// One record as it was read from the log of events, whoever wrote it.
#[derive(Debug, Clone, Copy)]
pub struct NativeRecord<'a> {
    /// The topic's name as read, with the deployment's prefix.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The organization's id as text, if the record is what it should be.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Name and value of each header, in their order; a value may be empty.
    pub headers: &'a [(String, Vec<u8>)],
}

/// Why a record is none of ours: what a dead letter carries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unreadable {
    /// Stable, `lower_snake`.
    pub class: &'static str,
    /// One sentence.
    pub message: String,
}

/// x
pub fn read_event(_record: &NativeRecord<'_>) -> Result<Event, Unreadable> {
    Err(Unreadable { class: "x", message: String::new() })
}
/// x
pub fn read_acks(_key: Option<&[u8]>, _value: Option<&[u8]>, _headers: &[(String, Vec<u8>)]) -> Result<Vec<Ack>, Unreadable> {
    Err(Unreadable { class: "x", message: String::new() })
}
/// x
pub fn read_attempt(_key: Option<&[u8]>, _value: Option<&[u8]>) -> Result<DeliveryAttempt, Unreadable> {
    Err(Unreadable { class: "x", message: String::new() })
}
