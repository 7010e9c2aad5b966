//! What the brokers say of the logs that stored positions are in: asked as a consumer asks that claims them, for
//! commands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaConfig;
use super::bounds::PerPartition;
use super::log_identity::PartitionPosition;
use super::log_state::{self, LogState};
use crate::fence::repair::StoredPosition;

/// In the order of `positions`. A partition whose leader does not answer, or a topic that is not there, takes nothing
/// from the others. `timeout` is that of one request.
///
/// # Errors
/// When no broker answers at all, or the ids of the topics cannot be had.
pub async fn check(
    kafka: &KafkaConfig,
    positions: &[StoredPosition],
    timeout: Duration,
) -> Result<Vec<Result<LogState, KafkaError>>, KafkaError> {
    let (config, asked) = (kafka.clone(), positions.to_vec());
    tokio::task::spawn_blocking(move || ask(&config, &asked, timeout)).await.map_err(|_| KafkaError::Canceled)?
}

fn ask(
    kafka: &KafkaConfig,
    positions: &[StoredPosition],
    timeout: Duration,
) -> Result<Vec<Result<LogState, KafkaError>>, KafkaError> {
    let client: BaseConsumer = kafka.admin_client("positions").create()?;
    // Asked once: asking for each topic would take as many timeouts.
    client.fetch_metadata(None, timeout)?;
    let mut asked: BTreeMap<(&str, &str), Vec<PartitionPosition>> = BTreeMap::new();
    for position in positions {
        asked.entry((&position.consumer, &position.topic)).or_default().push(position.in_partition());
    }
    let topics: BTreeSet<&str> = asked.keys().map(|(_, topic)| *topic).collect();
    // The operator's decision depends on the ids, so nothing is reported without them.
    let ids = log_state::topic_ids(client.client(), &topics.into_iter().collect::<Vec<_>>(), timeout)?;
    let mut answers: BTreeMap<(&str, &str), PerPartition<LogState>> = BTreeMap::new();
    for ((consumer, topic), positions) in asked {
        let state = log_state::query(&client, kafka, topic, ids.get(topic).copied(), &positions, timeout);
        answers.insert((consumer, topic), state);
    }
    let unknown = || Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
    let mut checked = Vec::with_capacity(positions.len());
    for position in positions {
        let of_topic = answers.get_mut(&(position.consumer.as_str(), position.topic.as_str()));
        checked.push(of_topic.and_then(|of_topic| of_topic.remove(&position.partition)).unwrap_or_else(unknown));
    }
    Ok(checked)
}
