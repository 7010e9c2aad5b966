//! Rows of a bare loop in the product's own table `view.events`: one statement for all of them, then the positions, in
//! one transaction.

use anyhow::{Context, Result};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// The consumer of the bare pipeline in `consumer_positions`.
pub(crate) const CONSUMER: &str = "bench bare pipeline";

/// One array per column.
#[derive(Default)]
pub(crate) struct Rows {
    org_ids: Vec<Uuid>,
    event_ids: Vec<Uuid>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    times: Vec<OffsetDateTime>,
    event_types: Vec<String>,
    payloads: Vec<String>,
}

/// One event of the view.
pub(crate) struct Row<'a> {
    pub(crate) org_id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) at: OffsetDateTime,
    pub(crate) event_type: &'a str,
    pub(crate) payload: &'a str,
}

impl Rows {
    pub(crate) fn push(&mut self, row: &Row<'_>) {
        self.org_ids.push(row.org_id);
        self.event_ids.push(row.event_id);
        self.partitions.push(row.partition);
        self.offsets.push(row.offset);
        self.times.push(row.at);
        self.event_types.push(row.event_type.to_owned());
        self.payloads.push(row.payload.to_owned());
    }

    pub(crate) fn len(&self) -> usize {
        self.event_ids.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes the rows and the next offset of each of their partitions of `topic`.
    pub(crate) async fn write(&self, connection: &mut PgConnection, topic: &str) -> Result<()> {
        let mut next: std::collections::BTreeMap<i32, i64> = std::collections::BTreeMap::new();
        for (partition, offset) in self.partitions.iter().zip(&self.offsets) {
            next.insert(*partition, offset + 1);
        }
        let mut transaction = connection.begin().await.context("starting a transaction")?;
        sqlx::query(
            "INSERT INTO consumer_positions AS p (consumer, topic, partition, next_offset)
             SELECT $1, $2, * FROM UNNEST($3::integer[], $4::bigint[])
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset",
        )
        .bind(CONSUMER)
        .bind(topic)
        .bind(next.keys().copied().collect::<Vec<_>>())
        .bind(next.values().copied().collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await
        .context("writing the positions")?;
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload)
             SELECT org_id, event_id, 1, log_partition, log_offset, accepted_at, event_type, payload::json
             FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::text[],
                         $7::text[])
                  AS t (org_id, event_id, log_partition, log_offset, accepted_at, event_type, payload)
             ON CONFLICT DO NOTHING",
        )
        .bind(&self.org_ids)
        .bind(&self.event_ids)
        .bind(&self.partitions)
        .bind(&self.offsets)
        .bind(&self.times)
        .bind(&self.event_types)
        .bind(&self.payloads)
        .execute(&mut *transaction)
        .await
        .context("writing the rows")?;
        transaction.commit().await.context("committing")
    }
}

/// Creates today's time partition of the view if it is missing.
pub(crate) async fn ensure_time_partition(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT view_ensure_time_partition('view', now(), 5)")
        .execute(connection)
        .await
        .context("creating a time partition")?;
    Ok(())
}
