//! The SQL migrations, embedded, in order. Their comments document the tables; `runtime` runs them. Their result is
//! `schemas/postgres/schema.sql`.

/// One migration.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Rising number; never reused.
    pub version: i64,
    /// What it creates.
    pub name: &'static str,
    /// The statements; run in one transaction.
    pub sql: &'static str,
}

/// All migrations, oldest first. A released migration never changes.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "positions", sql: include_str!("../postgres/migrations/0001_positions.sql") },
    Migration { version: 2, name: "tenancy", sql: include_str!("../postgres/migrations/0002_tenancy.sql") },
    Migration { version: 3, name: "view", sql: include_str!("../postgres/migrations/0003_view.sql") },
    Migration { version: 4, name: "dispatcher", sql: include_str!("../postgres/migrations/0004_dispatcher.sql") },
    Migration { version: 5, name: "contract", sql: include_str!("../postgres/migrations/0005_contract.sql") },
    Migration { version: 6, name: "rate_limits", sql: include_str!("../postgres/migrations/0006_rate_limits.sql") },
    Migration { version: 7, name: "audit_log", sql: include_str!("../postgres/migrations/0007_audit_log.sql") },
    Migration {
        version: 8,
        name: "payload_encoding",
        sql: include_str!("../postgres/migrations/0008_payload_encoding.sql"),
    },
    Migration {
        version: 9,
        name: "default_endpoint_and_audit",
        sql: include_str!("../postgres/migrations/0009_default_endpoint_and_audit.sql"),
    },
    Migration { version: 10, name: "limit_scopes", sql: include_str!("../postgres/migrations/0010_limit_scopes.sql") },
    Migration {
        version: 11,
        name: "delivery_queues",
        sql: include_str!("../postgres/migrations/0011_delivery_queues.sql"),
    },
    Migration { version: 12, name: "endpoints", sql: include_str!("../postgres/migrations/0012_endpoints.sql") },
    Migration { version: 13, name: "deliveries", sql: include_str!("../postgres/migrations/0013_deliveries.sql") },
    Migration { version: 14, name: "retries", sql: include_str!("../postgres/migrations/0014_retries.sql") },
    Migration {
        version: 15,
        name: "receiver_auth",
        sql: include_str!("../postgres/migrations/0015_receiver_auth.sql"),
    },
    Migration { version: 16, name: "replays", sql: include_str!("../postgres/migrations/0016_replays.sql") },
    Migration {
        version: 17,
        name: "endpoint_rates",
        sql: include_str!("../postgres/migrations/0017_endpoint_rates.sql"),
    },
    Migration {
        version: 18,
        name: "ordered_lanes",
        sql: include_str!("../postgres/migrations/0018_ordered_lanes.sql"),
    },
    Migration {
        version: 19,
        name: "batched_delivery",
        sql: include_str!("../postgres/migrations/0019_batched_delivery.sql"),
    },
    Migration {
        version: 20,
        name: "replay_outcomes",
        sql: include_str!("../postgres/migrations/0020_replay_outcomes.sql"),
    },
    Migration { version: 21, name: "first_due", sql: include_str!("../postgres/migrations/0021_first_due.sql") },
    Migration { version: 22, name: "view_indexes", sql: include_str!("../postgres/migrations/0022_view_indexes.sql") },
    Migration {
        version: 23,
        name: "view_event_types",
        sql: include_str!("../postgres/migrations/0023_view_event_types.sql"),
    },
];

/// SQL text of a subquery: the first events in an order by position, acknowledged or not. `$events` is `view.events`,
/// `contract.events` or `events`, and its alias is `e`.
///
/// An event is in one of two partial indexes. PostgreSQL reads both only as far as needed if each half has its own
/// `ORDER BY` and `LIMIT`; without them it reads and sorts all events of the organization.
#[macro_export]
macro_rules! events_in_log_order {
    (
        SELECT $columns:literal FROM $events:literal WHERE $conditions:literal
        ORDER BY $order:literal LIMIT $limit:literal
    ) => {
        concat!(
            "(SELECT * FROM ((SELECT ",
            $columns,
            " FROM ",
            $events,
            " e WHERE ",
            $conditions,
            " AND e.acknowledged_at IS NULL ORDER BY ",
            $order,
            " LIMIT ",
            $limit,
            ") UNION ALL (SELECT ",
            $columns,
            " FROM ",
            $events,
            " e WHERE ",
            $conditions,
            " AND e.acknowledged_at IS NOT NULL ORDER BY ",
            $order,
            " LIMIT ",
            $limit,
            ")) AS halves ORDER BY ",
            $order,
            " LIMIT ",
            $limit,
            ")"
        )
    };
}
