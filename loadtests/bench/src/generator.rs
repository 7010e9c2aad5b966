//! Produces the load: a pacer releases requests at their intended times, and connections send them in order.
//!
//! Each connection is a task on a client thread with its own runtime, so that nothing else delays it. A request without
//! a free connection waits in a semaphore and keeps its intended time. So a slow system does not reduce the rate (no
//! coordinated omission), and the connections bound the requests in flight.
//!
//! Times are in `schedule`, bytes in `request`, results in `recorder`.

use std::iter::StepBy;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use loadkit::lock;
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;

use crate::connection::{Connection, ExchangeError, Reply};
use crate::recorder::{Interval, Observation, Recorder, RequestOutcome};
use crate::request::Requests;
use crate::scenario::{Load, Pace};
use crate::schedule::Schedule;

/// Minimum sleep of the pacer: finer steps would cost too much CPU.
const PACER_STEP: Duration = Duration::from_micros(200);
/// Timeout for opening all connections.
const CONNECT_BUDGET: Duration = Duration::from_secs(20);
/// Wait after a failed connection, so that the closed loop does not flood a dead server.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// An accepted event whose visibility is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    /// Index of its organization.
    pub organization: usize,
    pub event_id: Uuid,
    /// When the reply was read.
    pub accepted_at: Instant,
    /// Whether it belongs to the measured part of the run.
    pub measured: bool,
}

/// Which accepted events are sampled for visibility, and the channel for them.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// Every n-th event, on average.
    pub every: u64,
    /// Bounded: events that do not fit are dropped.
    pub sender: mpsc::Sender<Watched>,
}

impl Watch {
    /// Whether request `number` is sampled. Scattered by a hash: a fixed step would always hit the same organizations.
    fn picks(&self, number: u64) -> bool {
        (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).is_multiple_of(self.every)
    }
}

/// Shared by all threads.
struct GeneratorState {
    load: Load,
    addresses: Vec<String>,
    requests: Requests,
    watch: Option<Watch>,
    started: watch::Sender<Option<Instant>>,
    ready: Semaphore,
    /// Due requests that no connection has taken. Open model only.
    due: Semaphore,
    released: AtomicU64,
    taken: AtomicU64,
    in_flight: AtomicUsize,
    stop: AtomicBool,
}

pub(crate) struct Generator {
    state: Arc<GeneratorState>,
    recorders: Vec<Arc<Mutex<Recorder>>>,
    threads: Vec<JoinHandle<()>>,
    /// Start of the schedule.
    pub started: Instant,
}

impl Generator {
    /// Opens the connections and starts. `addresses` are `host:port`; connections use them in turns.
    pub(crate) async fn start(
        load: Load,
        addresses: Vec<String>,
        requests: Requests,
        watch: Option<Watch>,
    ) -> anyhow::Result<Self> {
        let state = Arc::new(GeneratorState {
            load,
            addresses,
            requests,
            watch,
            started: watch::Sender::new(None),
            ready: Semaphore::new(0),
            due: Semaphore::new(0),
            released: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        let mut recorders = Vec::new();
        for thread in 0..load.client_threads {
            let recorder = Arc::new(Mutex::new(Recorder::new(load.pace.measured_from())));
            recorders.push(Arc::clone(&recorder));
            let numbers = (thread..load.connections).step_by(load.client_threads);
            let state = Arc::clone(&state);
            threads.push(spawn("load-client", move || client_thread(&state, &recorder, numbers))?);
        }
        let all = u32::try_from(load.connections).unwrap_or(u32::MAX);
        let ready = tokio::time::timeout(CONNECT_BUDGET, state.ready.acquire_many(all)).await;
        if !matches!(ready, Ok(Ok(_))) {
            // Stops the threads, whose connections wait for the start.
            state.stop.store(true, Relaxed);
            state.started.send_replace(Some(Instant::now()));
            state.due.add_permits(load.connections);
            bail!(
                "{} connections to {} could not be opened within {CONNECT_BUDGET:?}",
                load.connections,
                state.addresses.join(", ")
            );
        }
        drop(ready);
        let started = Instant::now();
        state.started.send_replace(Some(started));
        if let Pace::Open(schedule) = load.pace {
            let state = Arc::clone(&state);
            threads.push(spawn("load-pacer", move || pace(&state, &schedule, started))?);
        }
        Ok(Self { state, recorders, threads, started })
    }

    /// Whether all requests are finished.
    pub(crate) fn finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops sending. Requests in flight are still finished.
    pub(crate) fn stop(&self) {
        self.state.stop.store(true, Relaxed);
    }

    /// The results since the last call.
    pub(crate) fn interval(&self) -> Interval {
        let mut interval = Interval::empty();
        for recorder in &self.recorders {
            lock(recorder).drain_interval(&mut interval);
        }
        interval
    }

    /// Requests sent so far, in flight, and due without a free connection.
    pub(crate) fn counts(&self) -> RequestCounts {
        let taken = self.state.taken.load(Relaxed);
        let backlog = match self.state.load.pace {
            Pace::Open(_) => self.state.released.load(Relaxed).saturating_sub(taken),
            Pace::Closed { .. } => 0,
        };
        RequestCounts { sent: taken, in_flight: self.state.in_flight.load(Relaxed) as u64, backlog }
    }

    /// The results of all threads. Waits for them.
    pub(crate) fn into_recorder(self) -> anyhow::Result<Recorder> {
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a thread of the generator panicked");
            }
        }
        let mut merged = Recorder::new(self.state.load.pace.measured_from());
        for recorder in self.recorders {
            let recorder = Arc::try_unwrap(recorder).ok().context("a recorder is still in use")?;
            merged.merge(recorder.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
        Ok(merged)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestCounts {
    /// Requests sent since the start.
    pub sent: u64,
    /// Requests sent and not finished.
    pub in_flight: u64,
    /// Requests due and not sent, because all connections are busy.
    pub backlog: u64,
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).context("starting a thread of the generator")
}

/// Releases each request when it is due. It has its own thread: timers of tokio have a resolution of a millisecond.
fn pace(state: &GeneratorState, schedule: &Schedule, started: Instant) {
    let total = schedule.total();
    let mut next = 0;
    while next < total && !state.stop.load(Relaxed) {
        let now = started.elapsed();
        let first = next;
        while next < total && schedule.at(next) <= now {
            next += 1;
        }
        if next > first {
            state.released.store(next, Relaxed);
            state.due.add_permits(usize::try_from(next - first).unwrap_or(0));
        }
        if next < total {
            std::thread::sleep(
                schedule.at(next).saturating_sub(started.elapsed()).clamp(PACER_STEP, Duration::from_millis(100)),
            );
        }
    }
    // One more for each connection: it finds no request left and stops.
    state.due.add_permits(state.load.connections);
}

fn client_thread(state: &Arc<GeneratorState>, recorder: &Arc<Mutex<Recorder>>, numbers: StepBy<Range<usize>>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in numbers {
            tasks.spawn(drive(Arc::clone(state), Arc::clone(recorder), number));
        }
        tasks.join_all().await;
    });
}

/// Runs connection `number`: takes the next request, sends it, records the result.
async fn drive(state: Arc<GeneratorState>, recorder: Arc<Mutex<Recorder>>, number: usize) {
    let Some(address) = state.addresses.get(number % state.addresses.len().max(1)) else { return };
    // If this fails, the first request tries again, and the error is the result of that request.
    let mut connection = Connection::open(address).await.ok();
    state.ready.add_permits(1);
    let Ok(Some(started)) = state.started.subscribe().wait_for(Option::is_some).await.map(|started| *started) else {
        return;
    };
    let mut buffer = Vec::with_capacity(state.load.batch_events * state.load.payload_bytes.median() + 1024);
    while let Some((number, intended)) = state.next(started).await {
        state.requests.write(number, &mut buffer);
        state.in_flight.fetch_add(1, Relaxed);
        let sent = started.elapsed();
        let reply = tokio::time::timeout(state.load.timeout, exchange(&mut connection, address, &buffer)).await;
        let accepted_at = Instant::now();
        state.in_flight.fetch_sub(1, Relaxed);
        let (outcome, event_id) = outcome(reply, state.requests.any_success);
        if !matches!(outcome, RequestOutcome::Accepted | RequestOutcome::Status(_)) {
            connection = None;
        }
        let organization = state.requests.organization_of(number);
        let done = accepted_at.saturating_duration_since(started);
        // Without a schedule the intended time is the time of sending.
        let intended = intended.unwrap_or(sent);
        lock(&recorder).record(&Observation { organization, intended, sent, done, outcome, event_id });
        if let (Some(watch), Some(event_id)) = (&state.watch, event_id)
            && outcome == RequestOutcome::Accepted
            && watch.picks(number)
        {
            let measured = intended >= state.load.pace.measured_from();
            // If the channel is full, the watcher is behind, and this event is dropped.
            watch.sender.try_send(Watched { organization, event_id, accepted_at, measured }).ok();
        }
        if outcome == RequestOutcome::Connection {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

impl GeneratorState {
    /// Number and intended time of the next request; `None` at the end.
    async fn next(&self, started: Instant) -> Option<(u64, Option<Duration>)> {
        match self.load.pace {
            Pace::Open(schedule) => {
                self.due.acquire().await.ok()?.forget();
                if self.stop.load(Relaxed) {
                    return None;
                }
                let taken =
                    self.taken.fetch_update(Relaxed, Relaxed, |taken| (taken < schedule.total()).then_some(taken + 1));
                let number = taken.ok()?;
                Some((number, Some(schedule.at(number))))
            }
            Pace::Closed { warm_up, measured } => {
                if self.stop.load(Relaxed) || started.elapsed() >= warm_up + measured {
                    return None;
                }
                Some((self.taken.fetch_add(1, Relaxed), None))
            }
        }
    }
}

async fn exchange(connection: &mut Option<Connection>, address: &str, request: &[u8]) -> Result<Reply, ExchangeError> {
    let mut usable = match connection.take().filter(Connection::is_open) {
        Some(usable) => usable,
        None => Connection::open(address).await?,
    };
    let reply = usable.exchange(request).await?;
    if reply.reusable {
        *connection = Some(usable);
    }
    Ok(reply)
}

fn outcome(
    reply: Result<Result<Reply, ExchangeError>, tokio::time::error::Elapsed>,
    any_success: bool,
) -> (RequestOutcome, Option<Uuid>) {
    match reply {
        // 207: a batch of which not every event was accepted.
        Ok(Ok(Reply { status: 200..=206, event_id: Some(id), .. })) => (RequestOutcome::Accepted, Some(id)),
        Ok(Ok(Reply { status: 200..=206, .. })) if any_success => (RequestOutcome::Accepted, None),
        Ok(Ok(reply)) => (RequestOutcome::Status(reply.status), None),
        Ok(Err(ExchangeError::Connection(_))) => (RequestOutcome::Connection, None),
        Ok(Err(ExchangeError::Unreadable(_))) => (RequestOutcome::Unreadable, None),
        Err(_) => (RequestOutcome::TimedOut, None),
    }
}
