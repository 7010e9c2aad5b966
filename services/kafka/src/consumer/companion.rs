//! The companion client: reads the companion topics at the partitions that the group assigned, on its own thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::assignments::start_offsets;
use super::{
    ConsumerEvent, ConsumerSettings, KafkaConfig, LogEnds, ReadState, Shared, base_config, on_thread, poll_and_forward,
};
use crate::fence::Claim;

/// The group client's handle of the companion client.
pub(super) struct CompanionConsumer(Sender<Command>);

enum Command {
    Assign(Vec<Claim>),
    /// Answered when no further record of these partitions will be sent.
    Unassign(Vec<i32>, Sender<()>),
}

impl CompanionConsumer {
    /// Adds these partitions, from the offsets of their claims.
    pub(super) fn assign(&self, claims: Vec<Claim>) {
        // A closed channel means that the thread has ended and has reported that to the owner.
        if !claims.is_empty() && self.0.send(Command::Assign(claims)).is_err() {
            warn!("Companion consumer has ended; its partitions are not read until the consumer is restarted.");
        }
    }

    /// Removes these partitions; returns when no further record of them will be sent.
    pub(super) fn unassign(&self, partitions: Vec<i32>) {
        let (done, is_done) = channel();
        if self.0.send(Command::Unassign(partitions, done)).is_ok() {
            // An error means that the thread has ended, and sends nothing either.
            let _answer = is_done.recv();
        }
    }
}

struct CompanionContext {
    log_ends: LogEnds,
}

impl ClientContext for CompanionContext {
    fn stats(&self, statistics: Statistics) {
        self.log_ends.update(&statistics);
    }
}

impl ConsumerContext for CompanionContext {}

/// Creates the client and its thread; the receiver resolves when the thread has ended. Without companion topics there
/// is no thread.
pub(super) fn start(
    kafka: &KafkaConfig,
    settings: &ConsumerSettings,
    shared: Shared,
) -> Result<(CompanionConsumer, oneshot::Receiver<()>), KafkaError> {
    let (commands, command_queue) = channel();
    if settings.companion_topics.is_empty() {
        // The sender of this receiver is dropped, so it resolves at once.
        return Ok((CompanionConsumer(commands), oneshot::channel().1));
    }
    // It uses no group: it never subscribes and never commits. librdkafka requires a group id for any assignment, and
    // with this one it needs no permission beyond those of the group client.
    let mut config = base_config(kafka, settings, &format!("{}-companion", settings.consumer));
    kafka.overlay(&mut config);
    let client: BaseConsumer<CompanionContext> =
        config.create_with_context(CompanionContext { log_ends: shared.log_ends.clone() })?;
    let topics: Vec<Arc<str>> = settings.companion_topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
    let ended = on_thread(format!("{}-companion", settings.consumer), shared.sender.clone(), move || {
        read(&client, &command_queue, &shared, &topics);
        drop(client);
    })?;
    Ok((CompanionConsumer(commands), ended))
}

fn read(
    client: &BaseConsumer<CompanionContext>,
    command_queue: &Receiver<Command>,
    shared: &Shared,
    topics: &[Arc<str>],
) {
    let mut topic_of =
        |name: &str| topics.iter().find(|topic| ***topic == *name).cloned().unwrap_or_else(|| Arc::from(name));
    let mut state = ReadState::default();
    while !shared.sender.is_stopping() {
        while let Ok(command) = command_queue.try_recv() {
            if let Err(error) = handle(client, command, shared, topics) {
                error!(%error, "Companion consumer could not change its assignment; restarting consumer.");
                let _sent = shared.sender.send(ConsumerEvent::Failed(error.to_string()));
                return;
            }
        }
        if !poll_and_forward(client, &mut topic_of, shared, &mut state) {
            return;
        }
    }
}

fn handle(
    client: &BaseConsumer<CompanionContext>,
    command: Command,
    shared: &Shared,
    topics: &[Arc<str>],
) -> Result<(), KafkaError> {
    match command {
        Command::Assign(claims) => client.incremental_assign(&start_offsets(&claims, &shared.assignments)?),
        Command::Unassign(partitions, done) => {
            // Only assigned partitions: one that was stopped at its claim was never assigned.
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
