//! Checks that the logs still contain the positions of the live view. In another log of the same name, new records
//! would get the positions of old ones, and rows that only the live view still has would count as differences.

use std::time::Duration;

use kafka::fence::repair;
use kafka::{KafkaConfig, positions};
use sqlx::postgres::PgPool;

use super::error::RebuildError;
use crate::projector::CONSUMER;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Fails if a live position is outside of its log, or if Kafka does not report the bounds of the log.
pub(super) async fn check_positions(pool: &PgPool, kafka: &KafkaConfig) -> Result<(), RebuildError> {
    let mut stored = repair::positions(pool).await?;
    stored.retain(|position| position.consumer == CONSUMER);
    let states = positions::look(kafka, &stored, TIMEOUT).await?;
    for (position, state) in stored.iter().zip(states) {
        let partition = format!("{}[{}]", position.topic, position.partition);
        let unknown = |error| {
            RebuildError::Unsuitable(format!(
                "cannot check whether the position of {partition} is inside of its log: {error}; try again"
            ))
        };
        if let Some(outside) = state.map_err(unknown)?.outside {
            let message = format!(
                "the position of {partition} is outside of its log, so the log cannot be read again: {outside}; see: \
                 triggers positions list"
            );
            return Err(RebuildError::Unsuitable(message));
        }
    }
    Ok(())
}
