//! The SQL migrations, embedded, in their order. What they mean is said in their own comments; running them is
//! `platform`'s business.

/// One migration.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Grows by one; never reused.
    pub version: i64,
    /// What it makes.
    pub name: &'static str,
    /// The statements; run in one transaction.
    pub sql: &'static str,
}

/// All migrations ever, oldest first. A landed one is never changed.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "positions", sql: include_str!("../postgres/0001_positions.sql") },
    Migration { version: 2, name: "tenancy", sql: include_str!("../postgres/0002_tenancy.sql") },
    Migration { version: 3, name: "view", sql: include_str!("../postgres/0003_view.sql") },
    Migration { version: 4, name: "dispatcher", sql: include_str!("../postgres/0004_dispatcher.sql") },
    Migration { version: 5, name: "contracts", sql: include_str!("../postgres/0005_contracts.sql") },
    Migration { version: 6, name: "partitions", sql: include_str!("../postgres/0006_partitions.sql") },
    Migration { version: 7, name: "rejected", sql: include_str!("../postgres/0007_rejected.sql") },
    Migration { version: 9, name: "rebuild", sql: include_str!("../postgres/0009_rebuild.sql") },
    Migration { version: 10, name: "erasure", sql: include_str!("../postgres/0010_erasure.sql") },
    Migration { version: 11, name: "refusals", sql: include_str!("../postgres/0011_refusals.sql") },
    Migration { version: 13, name: "tellings", sql: include_str!("../postgres/0013_tellings.sql") },
    Migration { version: 14, name: "contests", sql: include_str!("../postgres/0014_contests.sql") },
    Migration { version: 15, name: "event_ids", sql: include_str!("../postgres/0015_event_ids.sql") },
    Migration { version: 16, name: "awaiting_dedup", sql: include_str!("../postgres/0016_awaiting_dedup.sql") },
    Migration { version: 17, name: "skips", sql: include_str!("../postgres/0017_skips.sql") },
    Migration { version: 18, name: "log_identity", sql: include_str!("../postgres/0018_log_identity.sql") },
];
