//! The running load of a round: all senders, tails and acknowledgers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::context::{NAMINGS, RoundContext, SENDERS_PER_TENANT};
use super::sender::Sender;
use super::{acknowledger, http, native, tail};

/// How long the tasks may take to stop: one request of each, and the wait for the last delivery report of Kafka.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How many shown events may wait for the acknowledger.
const SHOWN_CAPACITY: usize = 10_000;

pub(crate) struct Load {
    stop_senders: watch::Sender<bool>,
    stop_readers: watch::Sender<bool>,
    senders: JoinSet<()>,
    readers: JoinSet<()>,
}

impl Load {
    /// Starts all senders and readers.
    pub(crate) fn start(context: &Arc<RoundContext>) -> anyhow::Result<Self> {
        let (stop_senders, senders_stopped) = watch::channel(false);
        let (stop_readers, readers_stopped) = watch::channel(false);
        let (mut senders, mut readers) = (JoinSet::new(), JoinSet::new());
        let count = u32::try_from(context.tenants.len() * SENDERS_PER_TENANT).unwrap_or(u32::MAX);
        let interval = Duration::from_secs(1) * count / context.rate.max(1);
        let producer = native::producer(&context.brokers)?;
        for tenant in 0..context.tenants.len() {
            let sender = |nth: usize| Sender {
                context: Arc::clone(context),
                tenant,
                number: tenant * SENDERS_PER_TENANT + nth,
                interval,
                stop: senders_stopped.clone(),
            };
            for (nth, naming) in NAMINGS.into_iter().enumerate() {
                senders.spawn(http::send(sender(nth), naming));
            }
            senders.spawn(native::send(sender(NAMINGS.len()), producer.clone()));
            let (show, shown) = mpsc::channel(SHOWN_CAPACITY);
            readers.spawn(tail::follow(Arc::clone(context), tenant, show, readers_stopped.clone()));
            let (context, producer, stopped) = (Arc::clone(context), producer.clone(), readers_stopped.clone());
            readers.spawn(acknowledger::acknowledge(context, tenant, producer, shown, stopped));
        }
        Ok(Self { stop_senders, stop_readers, senders, readers })
    }

    /// Stops the senders after their requests in flight. The readers continue.
    pub(crate) async fn stop_sending(&mut self) {
        let _no_sender_left = self.stop_senders.send(true);
        join(&mut self.senders).await;
    }

    pub(crate) async fn stop_reading(mut self) {
        let _no_reader_left = self.stop_readers.send(true);
        join(&mut self.readers).await;
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        // The outcome of an aborted request is not recorded: its event would be reported as `never-sent`.
        eprintln!("A load task did not stop within {} s; aborting it.", STOP_TIMEOUT.as_secs());
        tasks.shutdown().await;
    }
}
