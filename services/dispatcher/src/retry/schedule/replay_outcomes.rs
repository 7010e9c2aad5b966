//! How the deliveries of replays end: appended by the transactions that finish them, added to the replay later. The row
//! of a replay would be a place where all dispatchers wait for each other.

use std::collections::BTreeMap;

use schemas::ids::ReplayId;
use sqlx::postgres::PgConnection;

use crate::delivery::{RowState, signed};

/// Deliveries of replays that one transaction has finished.
#[derive(Debug, Default)]
pub(super) struct ReplayOutcomes(BTreeMap<ReplayId, (u32, u32)>);

impl ReplayOutcomes {
    /// Counts a finished delivery. A cancelled one is neither delivered nor failed.
    pub(super) fn add(&mut self, replay: ReplayId, state: RowState) {
        let (delivered, failed) = self.0.entry(replay).or_default();
        match state {
            RowState::Delivered => *delivered += 1,
            RowState::Failed => *failed += 1,
            RowState::Pending | RowState::Cancelled => {}
        }
    }
}

/// Appends them, in the transaction that finishes the deliveries.
pub(super) async fn append(connection: &mut PgConnection, outcomes: &ReplayOutcomes) -> Result<(), sqlx::Error> {
    if outcomes.0.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO replay_outcomes (replay_id, delivered, failed)
         SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::integer[])",
    )
    .bind(outcomes.0.keys().map(ReplayId::as_uuid).collect::<Vec<_>>())
    .bind(outcomes.0.values().map(|(delivered, _)| signed(*delivered)).collect::<Vec<_>>())
    .bind(outcomes.0.values().map(|(_, failed)| signed(*failed)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
