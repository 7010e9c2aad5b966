//! Settings of the projector.

use std::time::Duration;

/// Consumer name in `consumer_positions`: records before its positions are visible in the view.
pub const CONSUMER: &str = schemas::topics::MATERIALIZER;

/// Ten years: an inbox is no archive.
pub const MAX_RETENTION_DAYS: u32 = 3650;

/// Settings of the projector.
#[derive(Debug, Clone)]
pub struct ProjectorConfig {
    /// Maximum records in one transaction.
    pub max_flush_records: usize,
    /// Maximum bytes of records in one transaction.
    pub max_flush_bytes: usize,
    /// How long Kafka waits for a silent instance before it reassigns the partitions.
    pub session_timeout: Duration,
    /// How long a lag may last without a record before the consumer is restarted.
    pub stall_after: Duration,
    /// How often rows that are no longer needed are deleted.
    pub sweep_interval: Duration,
    /// Minimum number of days that the view keeps an event, acknowledged or not; 1 to [`MAX_RETENTION_DAYS`].
    pub retention_days: u32,
    /// How often time partitions of the view are created ahead and expired ones are dropped.
    pub retention_interval: Duration,
    /// How long a shutdown may take: the running transaction, and at the same time, in half of
    /// it, leaving the group.
    pub shutdown_deadline: Duration,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self {
            max_flush_records: 1000,
            max_flush_bytes: 8 * 1024 * 1024,
            session_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            sweep_interval: Duration::from_secs(60),
            retention_days: 30,
            retention_interval: Duration::from_secs(600),
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}
