//! Appends the events of a batch together: submits them without waiting for each, and collects their outcomes.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_server::{Problem, RequestContext};
use schemas::event_json::{Invalid, MAX_BODY_BYTES, NewEvent};
use tenancy::Caller;

use super::results::Results;
use crate::admit::{Admitted, admit_item};
use crate::append::{Appender, SubmittedEvent};
use crate::metrics::METRICS;
use crate::reply::Outcome;
use crate::turn::Turns;

/// Bytes of events without a delivery report. At this bound, the next event waits: a batch that arrives faster than
/// Kafka takes it must not fill the memory.
const MAX_IN_FLIGHT_BYTES: usize = 2 * MAX_BODY_BYTES;
/// After this many events, other tasks get the thread.
const YIELD_EVERY: usize = 32;

type Item<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// The outcome of an item.
struct Done {
    index: usize,
    /// Length of its text.
    bytes: usize,
    outcome: Result<Outcome, Problem>,
}

/// An item that was handed to the producer.
struct Submitted<'a> {
    index: usize,
    bytes: usize,
    event: SubmittedEvent<'a>,
}

pub(super) struct Items<'a> {
    appender: &'a Appender<'a>,
    turns: &'a Turns,
    caller: &'a Caller,
    context: &'a RequestContext,
    /// Items that wait for their dedup key, for their turn, or for their report.
    running: FuturesUnordered<Item<'a>>,
    /// Items without a dedup key whose turn it was at once, in their order. Kafka confirms them in about this order, so
    /// only the first is waited for: a task for each would cost more than all else that is done for an item.
    submitted: VecDeque<Submitted<'a>>,
    in_flight_bytes: usize,
    results: Results,
}

impl<'a> Items<'a> {
    pub(super) fn new(
        appender: &'a Appender<'a>,
        turns: &'a Turns,
        caller: &'a Caller,
        context: &'a RequestContext,
    ) -> Self {
        let (running, submitted) = (FuturesUnordered::new(), VecDeque::new());
        let results = Results::new(context.dialect);
        Self { appender, turns, caller, context, running, submitted, in_flight_bytes: 0, results }
    }

    /// Number of items so far.
    pub(super) fn count(&self) -> usize {
        self.results.count()
    }

    /// That many items follow.
    pub(super) fn make_room_for(&mut self, items: usize) {
        self.submitted.reserve(items);
        self.results.make_room_for(items);
    }

    /// Checks the next item and starts to append it. `text`: the item as it is in the body.
    pub(super) async fn add(&mut self, text: &[u8], parsed: Result<NewEvent, Invalid>) {
        let index = self.results.reserve();
        match admit_item(self.caller, text, parsed, self.context.traceparent.clone()) {
            Ok(admitted) => self.append(index, text.len(), admitted),
            Err(problem) => self.refuse(index, &problem),
        }
        if index % YIELD_EVERY == YIELD_EVERY - 1 {
            // Submits what was added.
            while let Some(Some(done)) = self.running.next().now_or_never() {
                self.record(done);
            }
            tokio::task::yield_now().await;
        }
        while self.in_flight_bytes >= MAX_IN_FLIGHT_BYTES {
            let Some(done) = self.next_done().await else { return };
            self.record(done);
        }
    }

    /// Starts to append an item.
    fn append(&mut self, index: usize, bytes: usize, admitted: Admitted) {
        let appender = self.appender;
        if admitted.event.dedup.is_some() || !self.turns.all_left() {
            let turn = self.turns.take();
            self.in_flight_bytes += bytes;
            self.running
                .push(Box::pin(async move { Done { index, bytes, outcome: appender.accept(admitted, turn).await } }));
            return;
        }
        match appender.append_next(admitted) {
            Ok(event) => {
                self.in_flight_bytes += bytes;
                self.submitted.push_back(Submitted { index, bytes, event });
            }
            Err(problem) => self.refuse(index, &problem),
        }
    }

    /// Waits for the next outcome; `None`: there is none to wait for.
    async fn next_done(&mut self) -> Option<Done> {
        let Some(first) = self.submitted.front_mut() else { return self.running.next().await };
        let outcome = tokio::select! {
            biased;
            outcome = self.appender.confirmed(&mut first.event) => outcome.map(Outcome::Accepted),
            Some(done) = self.running.next() => return Some(done),
        };
        let Submitted { index, bytes, .. } = self.submitted.pop_front()?;
        Some(Done { index, bytes, outcome })
    }

    /// The next item is larger than the body of a single event may be.
    pub(super) fn too_large(&mut self) {
        let index = self.results.reserve();
        let detail = format!("the event is larger than {} KiB", MAX_BODY_BYTES / 1024);
        self.refuse(index, &Problem::payload_too_large(detail));
    }

    /// Waits for `other`, and appends meanwhile.
    pub(super) async fn until<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                output = &mut other => return output,
                Some(done) = self.next_done() => self.record(done),
            }
            if self.submitted.is_empty() {
                self.appender.note_written();
            }
        }
    }

    /// Waits for the outcomes of all items.
    pub(super) async fn finish(mut self) -> Results {
        while let Some(done) = self.next_done().await {
            self.record(done);
        }
        self.appender.note_written();
        self.results
    }

    fn record(&mut self, done: Done) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(done.bytes);
        match done.outcome {
            Ok(outcome) => self.results.set(done.index, outcome),
            Err(problem) => self.refuse(done.index, &problem),
        }
    }

    fn refuse(&mut self, index: usize, problem: &Problem) {
        METRICS.refused.with_label_values(&[problem.error_code()]).inc();
        self.results.refuse(index, problem);
    }
}
