//! The following client: reads further topics at the partitions that the group gave, on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{
    ConsumerEvent, ConsumerSettings, KafkaConfig, LogEnds, ReadState, Shared, base_config, group, on_thread,
    poll_and_forward,
};
use crate::fence::Claim;

/// The group client's hold on the following one.
pub(super) struct CompanionConsumer(Sender<Command>);

enum Command {
    Assign(Vec<Claim>),
    /// Answered when nothing more of these partitions will be handed over.
    Unassign(Vec<i32>, Sender<()>),
}

impl CompanionConsumer {
    /// Reads these too, from where their claims begin.
    pub(super) fn assign(&self, claims: Vec<Claim>) {
        // A closed channel means that the thread has ended, which it reported to the owner.
        if !claims.is_empty() && self.0.send(Command::Assign(claims)).is_err() {
            warn!("The following client is gone.");
        }
    }

    /// Reads these partitions no more; returns when that is so.
    pub(super) fn unassign(&self, partitions: Vec<i32>) {
        let (done, is_done) = channel();
        if self.0.send(Command::Unassign(partitions, done)).is_ok() {
            // Ends with an error when the thread ended, which is as good.
            let _answer = is_done.recv();
        }
    }
}

struct FollowContext {
    log_ends: LogEnds,
}

impl ClientContext for FollowContext {
    fn stats(&self, statistics: Statistics) {
        self.log_ends.learn(&statistics);
    }
}

impl ConsumerContext for FollowContext {}

/// Makes the client and its thread; the receiver resolves when the thread has ended. With nothing to follow there is
/// only the channel.
pub(super) fn start(
    kafka: &KafkaConfig,
    settings: &ConsumerSettings,
    shared: Shared,
) -> Result<(CompanionConsumer, oneshot::Receiver<()>), KafkaError> {
    let (commands, orders) = channel();
    if settings.companion_topics.is_empty() {
        // Its sender is gone: a waiter for the end has it at once.
        return Ok((CompanionConsumer(commands), oneshot::channel().1));
    }
    // Group-less in effect: it never subscribes and never commits. librdkafka wants a name for any assignment, and this
    // one needs no right beyond those of the group client.
    let mut config = base_config(kafka, settings, &format!("{}-follow", settings.consumer));
    kafka.overlay(&mut config);
    let client: BaseConsumer<FollowContext> =
        config.create_with_context(FollowContext { log_ends: shared.log_ends.clone() })?;
    let topics: Vec<Arc<str>> = settings.companion_topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
    let ended = on_thread(format!("{}-follow", settings.consumer), shared.outlet.clone(), move || {
        read(&client, &orders, &shared, &topics);
        drop(client);
    })?;
    Ok((CompanionConsumer(commands), ended))
}

fn read(client: &BaseConsumer<FollowContext>, orders: &Receiver<Command>, shared: &Shared, topics: &[Arc<str>]) {
    let mut topic_of =
        |name: &str| topics.iter().find(|topic| ***topic == *name).cloned().unwrap_or_else(|| Arc::from(name));
    let mut state = ReadState::default();
    while !shared.outlet.is_stopping() {
        while let Ok(order) = orders.try_recv() {
            if let Err(error) = handle(client, order, shared, topics) {
                error!(%error, "The following client refused an assignment.");
                let _told = shared.outlet.send(ConsumerEvent::Failed(error.to_string()));
                return;
            }
        }
        if !poll_and_forward(client, &mut topic_of, shared, &mut state) {
            return;
        }
    }
}

fn handle(
    client: &BaseConsumer<FollowContext>,
    order: Command,
    shared: &Shared,
    topics: &[Arc<str>],
) -> Result<(), KafkaError> {
    match order {
        Command::Assign(claims) => client.incremental_assign(&group::offsets(&claims, &shared.held)?),
        Command::Unassign(partitions, done) => {
            // Only what is assigned: a partition that was stopped at its claim never was.
            let assigned = client.assignment()?;
            let mut gone = TopicPartitionList::new();
            for element in assigned.elements() {
                if partitions.contains(&element.partition()) && topics.iter().any(|topic| **topic == *element.topic()) {
                    gone.add_partition(element.topic(), element.partition());
                }
            }
            let outcome = if gone.count() == 0 { Ok(()) } else { client.incremental_unassign(&gone) };
            shared.undecodable.forget(client, topics, &partitions);
            let _nobody_waits = done.send(());
            outcome
        }
    }
}
