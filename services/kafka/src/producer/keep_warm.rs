//! Keeps a producer in touch with the topics that it writes.
//!
//! A topic that was created again starts at leader epoch 0. librdkafka takes the epochs of one name for those of one
//! log, ignores the lower ones as outdated, and goes on asking the old leader (librdkafka issue 4898). So the producer
//! is replaced when the id of a topic is another one.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::producer::Producer as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::{Producer, PublishError};
use crate::log_state;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const WHILE_DOWN: Duration = Duration::from_millis(250);
const WHILE_UP: Duration = Duration::from_secs(2);

impl Producer {
    /// Keeps in touch with these topics until `shutdown`: connects before the first record comes, learns added
    /// partitions (each topic that is written much belongs here, or its leaderless partition may use up the bound in
    /// all), notices a topic that was created again, and reports after each round whether they answer.
    pub async fn keep_warm(
        &self,
        topics: &[String],
        report: impl Fn(Result<(), PublishError>),
        shutdown: CancellationToken,
    ) {
        let mut ids = BTreeMap::new();
        loop {
            let mut outcome = Ok(());
            for topic in topics {
                outcome = outcome.and(self.warm(topic, ANSWER_WITHIN).await.map(drop));
            }
            if outcome.is_ok() {
                self.replace_after_recreation(topics, &mut ids).await;
            }
            let pause = if outcome.is_ok() { WHILE_UP } else { WHILE_DOWN };
            report(outcome);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Queries the ids of the topics, and replaces the producer when one is not that in `known`. Without an answer the
    /// next round compares.
    async fn replace_after_recreation(&self, topics: &[String], known: &mut BTreeMap<String, Uuid>) {
        let (producer, names) = (self.producer(), topics.to_vec());
        let client = producer.clone();
        let query = move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            log_state::topic_ids(client.client(), &names, ANSWER_WITHIN)
        };
        let found = match tokio::task::spawn_blocking(query).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return debug!(%error, "Topic ids are unknown; querying them again."),
            Err(error) => return debug!(%error, "The query of topic ids ended early; querying them again."),
        };
        let other = found.iter().find(|(topic, id)| known.get(*topic).is_some_and(|before| before != *id));
        let is_written = other
            .is_none_or(|(topic, _)| self.replace(&producer, &format!("topic {topic} was deleted and created again")));
        if is_written {
            known.extend(found);
        }
    }
}
