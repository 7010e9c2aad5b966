//! Whether the logs are those that the view was read from, up to where it stands. Read from another log of the same
//! name, records would be put where others are, and what only the view still has would be taken for a difference.

use std::time::Duration;

use platform::fence::repair;
use platform::kafka::bounds::outside;
use platform::kafka::{KafkaConfig, positions};
use sqlx::postgres::PgPool;

use super::RebuildError;
use crate::projector::CONSUMER;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses when one of the live positions is outside of its log, or when that cannot be told.
pub(super) async fn are_those_of_the_view(pool: &PgPool, kafka: &KafkaConfig) -> Result<(), RebuildError> {
    let mut stored = repair::positions(pool).await?;
    stored.retain(|position| position.consumer == CONSUMER);
    let looked = positions::look(kafka, &stored, TIMEOUT).await?;
    for (position, bounds) in stored.iter().zip(looked) {
        let place = format!("{}[{}]", position.topic, position.partition);
        let unknown = |error| {
            RebuildError::Unsuitable(format!(
                "whether the position of {place} is inside of its log is not known: {error}"
            ))
        };
        if let Some(outside) = outside(position.next_offset, &bounds.map_err(unknown)?) {
            let message = format!(
                "the position of {place} is outside of its log, so nothing can be read again: {outside}; see: triggers positions list"
            );
            return Err(RebuildError::Unsuitable(message));
        }
    }
    Ok(())
}
