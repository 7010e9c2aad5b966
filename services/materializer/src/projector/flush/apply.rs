//! Writes the records of a chunk into the tables, by kind, inside the transaction that moves the positions.

use schemas::ids::{EventId, OrgId};
use schemas::topics::TopicNames;
use sqlx::postgres::PgConnection;

use super::event_ids::{self, DecisionCounts, Lookup};
use super::outcome::TransactionError;
use super::positions::{OwnedPartitions, log_epoch_of};
use super::read_mode::ReadMode;
use super::{acks, attempts, events, expired, pending_effects};
use crate::metrics::METRICS;
use crate::projector::decode::{Content, DecodedRecord};
use crate::projector::event_row::EventRow;
use crate::rejected::rows as rejected;

/// Applies events before acks and attempts, so that an ack or attempt in the same chunk finds its event.
pub(super) async fn apply(
    connection: &mut PgConnection,
    (mode, topics): (&ReadMode, &TopicNames),
    chunk: &[DecodedRecord],
    owned: &OwnedPartitions,
    lookup: Lookup,
) -> Result<(), TransactionError> {
    let mut events = Vec::new();
    let mut acknowledged = Vec::new();
    let mut attempted = Vec::new();
    let mut rejected_rows = Vec::new();
    let mut expired = expired::NewestExpired::default();
    for item in chunk {
        let (record, log_epoch) = (&item.record, log_epoch_of(item, owned));
        match &item.content {
            Content::Event(event) => events.push(EventRow::new(record, event, log_epoch)),
            Content::Acks(acks) => {
                acknowledged.extend(acks.iter().zip(0_i32..).map(|(ack, index)| acks::AckRow { record, ack, index }));
            }
            Content::Attempt(attempt) => attempted.push(attempts::AttemptRow { record, attempt }),
            Content::Dead(reason) => rejected_rows.extend(rejected::RejectedRow::of(record, reason, log_epoch, topics)),
            Content::Expired(org) => expired.add(*org, log_epoch, record),
            Content::Skipped => {}
        }
    }
    if !events.is_empty() {
        apply_events(connection, mode, &mut events, lookup).await?;
    }
    if !acknowledged.is_empty() {
        acks::apply(connection, &acknowledged).await?;
    }
    if !attempted.is_empty() {
        attempts::apply(connection, &attempted).await?;
    }
    if matches!(mode, ReadMode::Live(_)) {
        rejected::insert(connection, &rejected_rows).await?;
        expired::record_gaps(connection, &expired).await?;
    }
    Ok(())
}

async fn apply_events(
    connection: &mut PgConnection,
    mode: &ReadMode,
    rows: &mut [EventRow<'_>],
    lookup: Lookup,
) -> Result<(), TransactionError> {
    let counts = match mode {
        ReadMode::Live(_) => event_ids::decide(connection, rows, lookup).await?,
        // The insert reads the stored decisions.
        ReadMode::Replayed => DecisionCounts::default(),
    };
    let inserted = events::insert(connection, rows).await?;
    if inserted.events < counts.new_events {
        // The view already has an id that ingest made, from another record.
        return Err(TransactionError::Conflict);
    }
    METRICS.rows.with_label_values(&["event"]).inc_by(inserted.events);
    METRICS.duplicates.inc_by(counts.new_duplicates);
    if inserted.has_pending_effects {
        let ids: Vec<(OrgId, EventId)> = rows.iter().map(EventRow::id).collect();
        pending_effects::apply(connection, &ids).await?;
    }
    Ok(())
}
