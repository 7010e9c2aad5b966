//! Checks that the logs still contain the positions of the live view. In another log of the same name, new records
//! would get the positions of old ones, and rows that only the live view still has would count as differences.

use std::time::Duration;

use kafka::fence::repair;
use kafka::log_state::LogState;
use kafka::{KafkaConfig, positions};
use sqlx::postgres::PgPool;
use tracing::warn;

use super::error::RebuildError;
use crate::projector::CONSUMER;

/// Of one request. A rebuild takes minutes anyway, so brokers that are slow under load are asked again.
const TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Fails if a live position is outside of its log, or if Kafka does not report the bounds of the log.
pub(super) async fn check_positions(pool: &PgPool, kafka: &KafkaConfig) -> Result<(), RebuildError> {
    let mut unchecked = repair::positions(pool).await?;
    unchecked.retain(|position| position.consumer == CONSUMER);
    for attempts_left in (0..ATTEMPTS).rev() {
        let asked = std::mem::take(&mut unchecked);
        let states = match positions::check(kafka, &asked, TIMEOUT).await {
            Ok(states) => states,
            Err(error) if attempts_left > 0 => {
                warn!(%error, "Kafka does not report the bounds of the logs; asking again before the rebuild.");
                tokio::time::sleep(RETRY_PAUSE).await;
                unchecked = asked;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for (position, state) in asked.into_iter().zip(states) {
            let partition = format!("{}[{}]", position.topic, position.partition);
            match state {
                Ok(LogState { mismatch: None, .. }) => {}
                Ok(LogState { mismatch: Some(mismatch), .. }) => {
                    let message = format!(
                        "the position of {partition} is outside of its log, so the log cannot be read again: \
                         {mismatch}; see: triggers positions list"
                    );
                    return Err(RebuildError::Unsuitable(message));
                }
                Err(error) if attempts_left > 0 => {
                    warn!(%partition, %error, "Bounds of the log are unknown; asking again before the rebuild.");
                    unchecked.push(position);
                }
                Err(error) => {
                    let message = format!(
                        "cannot check whether the position of {partition} is inside of its log: {error}; try again"
                    );
                    return Err(RebuildError::Unsuitable(message));
                }
            }
        }
        if unchecked.is_empty() {
            break;
        }
    }
    Ok(())
}
