//! The records of a batch into the tables, by kind, inside the transaction that moves its positions.

use std::collections::BTreeMap;

use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgConnection;

use super::event_ids::{self, Lookup};
use super::{Failure, Flusher, Reading, acks, attempts, events, expired, log_epoch_of, pending_effects};
use crate::metrics::METRICS;
use crate::projector::batch::{Hold, Place};
use crate::projector::decode::{Content, Item};
use crate::projector::event_row::EventRow;
use crate::rejected::rows as rejected;

impl Flusher {
    /// Events before acks and attempts: an effect in the same batch finds its event.
    pub(super) async fn apply(
        &self,
        connection: &mut PgConnection,
        part: &[Item],
        holds: &BTreeMap<Place, Hold>,
        lookup: Lookup,
    ) -> Result<(), Failure> {
        let mut events = Vec::new();
        let mut acknowledged = Vec::new();
        let mut attempted = Vec::new();
        let mut refused = Vec::new();
        let mut expired = expired::Newest::default();
        for item in part {
            let (record, log_epoch) = (&item.record, log_epoch_of(item, holds));
            match &item.content {
                Content::Event(event) => events.push(EventRow::new(record, event, log_epoch)),
                Content::Acks(acks) => {
                    acknowledged.extend(acks.iter().zip(0_i32..).map(|(ack, nth)| acks::Row { record, ack, nth }))
                }
                Content::Attempt(attempt) => attempted.push(attempts::Row { record, attempt }),
                Content::Dead(reason) => refused.extend(rejected::Row::of(record, reason, log_epoch, &self.topics)),
                Content::Expired(org) => expired.note(*org, log_epoch, record),
                Content::Skipped => {}
            }
        }
        if !events.is_empty() {
            self.apply_events(connection, &mut events, lookup).await?;
        }
        if !acknowledged.is_empty() {
            acks::apply(connection, &acknowledged).await?;
        }
        if !attempted.is_empty() {
            attempts::apply(connection, &attempted).await?;
        }
        if matches!(self.reading, Reading::First(_)) {
            rejected::insert(connection, &refused).await?;
            expired::note(connection, &expired).await?;
        }
        Ok(())
    }

    async fn apply_events(
        &self,
        connection: &mut PgConnection,
        rows: &mut [EventRow<'_>],
        lookup: Lookup,
    ) -> Result<(), Failure> {
        let decided = match self.reading {
            Reading::First(_) => event_ids::decide(connection, rows, lookup).await?,
            // Inserting goes by the stored decisions.
            Reading::Again => event_ids::Decided::default(),
        };
        let inserted = events::insert(connection, rows).await?;
        if inserted.events < decided.new_events {
            // An id that ingest made is in the view already, from another record.
            return Err(Failure::Raced);
        }
        METRICS.rows.with_label_values(&["event"]).inc_by(inserted.events);
        METRICS.duplicates.inc_by(decided.new_duplicates);
        if inserted.effects_wait {
            let ids: Vec<(OrgId, EventId)> = rows.iter().map(EventRow::id).collect();
            pending_effects::apply(connection, &ids).await?;
        }
        Ok(())
    }
}
