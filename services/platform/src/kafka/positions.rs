//! What the brokers say of the logs that stored positions are in: looked at as a consumer looks that claims them, for
//! who is no consumer.
//!
//! Whether a position lies inside is told by [`super::bounds::outside`]; moving one is [`crate::fence::repair`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::bounds::{self, Answers, Asked, LogBounds};
use super::{KafkaConfig, younger};
use crate::fence::repair::StoredPosition;

/// In the order of `positions`, which were read together with their times. A partition whose leader does not answer, or
/// a topic that is not there, takes nothing from the others. `timeout` is that of one request.
///
/// # Errors
/// When no broker answers at all.
pub async fn look(
    kafka: &KafkaConfig,
    positions: &[StoredPosition],
    timeout: Duration,
) -> Result<Vec<Result<LogBounds, KafkaError>>, KafkaError> {
    let (config, asked) = (kafka.clone(), positions.to_vec());
    let answers = tokio::task::spawn_blocking(move || ask(&config, &asked, timeout))
        .await
        .map_err(|_| KafkaError::Canceled)??;
    let mut looked = Vec::with_capacity(positions.len());
    for (position, answer) in positions.iter().zip(answers) {
        // What looks younger before a position may be the end of a transaction.
        let asked: Asked = (position.partition, position.record_time_ms);
        let answer = match answer {
            Ok(bounds) => {
                younger::seen(kafka, &Arc::from(position.topic.as_str()), asked, position.next_offset, bounds).await
            }
            Err(error) => Err(error),
        };
        looked.push(answer);
    }
    Ok(looked)
}

fn ask(
    kafka: &KafkaConfig,
    positions: &[StoredPosition],
    timeout: Duration,
) -> Result<Vec<Result<LogBounds, KafkaError>>, KafkaError> {
    let client: BaseConsumer = kafka.admin_client("positions").create()?;
    // Asked once: asking for each topic would take as many time-outs.
    client.fetch_metadata(None, timeout)?;
    let mut asked: BTreeMap<(&str, &str), Vec<Asked>> = BTreeMap::new();
    for position in positions {
        asked
            .entry((&position.consumer, &position.topic))
            .or_default()
            .push((position.partition, position.record_time_ms));
    }
    let mut answers: BTreeMap<(&str, &str), Answers<LogBounds>> = BTreeMap::new();
    for ((consumer, topic), partitions) in asked {
        answers.insert((consumer, topic), bounds::ask(&client, topic, &partitions, timeout));
    }
    let unknown = || Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
    let mut looked = Vec::with_capacity(positions.len());
    for position in positions {
        let of_topic = answers.get_mut(&(position.consumer.as_str(), position.topic.as_str()));
        looked.push(of_topic.and_then(|of_topic| of_topic.remove(&position.partition)).unwrap_or_else(unknown));
    }
    Ok(looked)
}
