//! Many connections (S12) and clients that hold memory (S18): idle connections, long polls, requests at the same time,
//! half-sent bodies, and slow readers of large pages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use loadkit::{EVENT_TYPE, Failure, order};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::control_client::ControlClient;
use crate::eventually::eventually;
use crate::metrics;
use crate::organizations::Organization;
use crate::process_usage::{Component, usage};
use crate::target::Target;
use crate::{inbox_reader, organizations};

/// Organizations that the requests belong to: fewer long polls of each than the product allows.
const ORGANIZATIONS: usize = 20;
/// Connections that are opened at the same time.
const OPENING: usize = 64;
/// Everything must be answered within this time.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a long poll waits for an event, seconds.
const POLL_SECONDS: u32 = 30;
/// Part of a body that is sent, and the rest that is not.
const HALF_BYTES: usize = 400 * 1024;
const REST_BYTES: usize = 1_000;
/// How long the server may leave such a body unread.
const UNREAD_FOR: Duration = Duration::from_secs(3);
/// Memory that has not grown for so long is the most.
const STEADY_FOR: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Payloads of a large page, which has 2 MiB at most.
const LARGE_EVENTS: u64 = 16;
const LARGE_BYTES: usize = 200 * 1024;
const LARGE_PAGE: &str = "/v1/inbox?limit=1000&include_acknowledged=true";
const LARGE_PAGE_BYTES: usize = 1024 * 1024;
/// Receive buffer of a slow reader.
const SMALL_BUFFER: u32 = 4_096;

/// Most KiB of memory of an idle connection, and most MiB (100 MB) of clients that hold memory.
pub(crate) const MOST_IDLE_KIB: f64 = 20.0;
pub(crate) const MOST_GROWTH_MIB: f64 = 95.4;

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub idle: usize,
    /// Requests, long polls, and half-sent bodies.
    pub at_once: usize,
    pub slow_readers: usize,
}

impl Sizes {
    /// For so many idle connections, a tenth of requests and a hundredth of slow readers. Lowered to what the limit on
    /// open files allows, which is raised before.
    pub(crate) fn new(idle: usize) -> Self {
        let (at_once, slow_readers) = ((idle / 10).max(1), (idle / 100).max(1));
        let wanted = idle + 2 * at_once;
        let fitting = http_server::connections_that_fit(wanted);
        let lowered = idle.saturating_sub(wanted - fitting.min(wanted));
        if lowered < idle {
            eprintln!(
                "the limit on open files (ulimit -Hn) allows {fitting} connections instead of {wanted}: \
                 {lowered} idle connections instead of {idle}"
            );
        }
        Self { idle: lowered, at_once, slow_readers }
    }
}

/// The connections of S12.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Answered {
    pub idle: usize,
    /// Growth of the resident memory while they were opened.
    pub idle_growth_mib: f64,
    /// Those that answered again after everything else.
    pub idle_again: usize,
    pub at_once: usize,
    pub requests: usize,
    pub slowest_request_ms: f64,
    /// Long polls that were answered with an event, and all of them by status.
    pub polls: usize,
    pub poll_statuses: BTreeMap<u16, usize>,
}

impl Answered {
    /// Growth for each idle connection.
    pub(crate) fn idle_kib(&self) -> f64 {
        self.idle_growth_mib * 1024.0 / self.idle as f64
    }

    /// Whether everything was answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.idle_again == self.idle && self.requests == self.at_once && self.polls == self.at_once
    }
}

/// A system under many connections.
pub(crate) struct Connections {
    control: ControlClient,
    address: String,
    host: String,
    organizations: Vec<Organization>,
    /// Its metrics, if they are known.
    metrics: Option<ControlClient>,
    /// The process that has the connections.
    server: Component,
    sizes: Sizes,
}

impl Connections {
    /// `server`: the process whose memory is measured.
    pub(crate) async fn new(target: &Target, server: Component, sizes: Sizes) -> Result<Self, Failure> {
        let control = ControlClient::new(&target.address)?;
        let organizations = organizations::ensure(target, &control, ORGANIZATIONS, 0).await?.list;
        let address = target.address.authority.clone();
        let metrics = target.metrics.as_ref().map(ControlClient::new).transpose()?;
        Ok(Self { control, host: address.clone(), address, organizations, metrics, server, sizes })
    }

    /// S12: idle connections, and while they are open long polls, and requests at once that wake these.
    pub(crate) async fn answered(&self) -> anyhow::Result<Answered> {
        let before = self.memory_mib();
        let idle = self.request("GET", "/v1/endpoints", 0, "");
        let mut open = self.exchange_all((0..self.sizes.idle).map(|_| idle.clone()).collect(), OPENING).await;
        let answered = open.iter().filter(|exchanged| exchanged.is_success()).count();
        ensure!(
            answered == self.sizes.idle,
            "of {} connections {answered} were answered: start the system with --max-connections-per-address 20000",
            self.sizes.idle
        );
        let idle_growth_mib = self.memory_mib() - before;
        let ends = inbox_reader::ends(&self.control, &self.organizations).await?;
        let poll = |index: usize| {
            let end = ends.get(index % ends.len()).map_or("", String::as_str);
            self.request("GET", &format!("/v1/inbox?wait={POLL_SECONDS}&cursor={end}"), index, "")
        };
        let body = format!("{{\"event_type\":\"{EVENT_TYPE}\",\"payload\":{}}}", order(0, 600));
        let posts: Vec<_> =
            (0..self.sizes.at_once).map(|index| self.request("POST", "/v1/events", index, &body)).collect();
        let polls = self.exchange_all((0..self.sizes.at_once).map(poll).collect(), usize::MAX);
        let later = async {
            self.wait_for_polls().await?;
            anyhow::Ok(self.exchange_all(posts, usize::MAX).await)
        };
        let (polls, posts) = tokio::join!(polls, later);
        let posts = posts?;
        let mut idle_again = 0;
        for exchanged in &mut open {
            let again = tokio::time::timeout(DEADLINE, exchanged.connection.exchange(idle.as_bytes())).await;
            idle_again += usize::from(matches!(again, Ok(Ok(reply)) if reply.status == 200));
        }
        let mut poll_statuses = BTreeMap::new();
        for poll in &polls {
            *poll_statuses.entry(poll.status).or_default() += 1;
        }
        let posts: Vec<&Exchanged> = posts.iter().filter(|post| post.is_success()).collect();
        Ok(Answered {
            idle: self.sizes.idle,
            idle_growth_mib,
            idle_again,
            at_once: self.sizes.at_once,
            requests: posts.len(),
            slowest_request_ms: posts.iter().map(|post| post.took.as_secs_f64() * 1_000.0).fold(0.0, f64::max),
            // One that has waited in vain has no event.
            polls: polls.iter().filter(|poll| poll.is_success() && poll.has_event).count(),
            poll_statuses,
        })
    }

    /// Waits until the server holds all long polls. Without its metrics some may come after the events that they wait
    /// for, and are answered at once.
    async fn wait_for_polls(&self) -> anyhow::Result<()> {
        let Some(metrics) = &self.metrics else { return Ok(()) };
        eventually(LOOK_AGAIN, DEADLINE, "all long polls wait", async || {
            let waiting = metrics::value(metrics, "triggers_budget_held{budget=\"long_polls\"}").await?;
            Ok((waiting >= self.sizes.at_once as f64).then_some(()))
        })
        .await
    }

    /// S18: growth of the memory by bodies of which the end is not sent, MiB.
    pub(crate) async fn half_sent(&self) -> anyhow::Result<f64> {
        let before = self.memory_mib();
        let mut sending = JoinSet::new();
        for index in 0..self.sizes.at_once {
            let head = self.head("POST", "/v1/events", index, HALF_BYTES + REST_BYTES);
            let address = self.address.clone();
            sending.spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                // The server may refuse it, or leave it unread.
                let send = async {
                    stream.write_all(head.as_bytes()).await?;
                    stream.write_all(&vec![b'x'; HALF_BYTES]).await
                };
                drop(tokio::time::timeout(UNREAD_FOR, send).await);
                std::io::Result::Ok(stream)
            });
        }
        let mut open = Vec::new();
        let all_sent = async {
            while let Some(sent) = sending.join_next().await {
                open.push(sent.context("a task that sends a body failed")?.context("connecting")?);
            }
            anyhow::Ok(())
        };
        let most = self.most_memory_mib(all_sent).await?;
        ensure!(open.len() == self.sizes.at_once, "{} of {} bodies were sent", open.len(), self.sizes.at_once);
        Ok(most - before)
    }

    /// S18: growth of the memory by readers that leave a large page unread, MiB.
    pub(crate) async fn slow_readers(&self) -> anyhow::Result<f64> {
        let key = &self.organizations.first().context("no organization")?.key;
        for number in 0..LARGE_EVENTS {
            let payload: serde_json::Value = serde_json::from_str(&order(number, LARGE_BYTES))?;
            let event = json!({"event_type": EVENT_TYPE, "payload": payload});
            self.control.post::<serde_json::Value>("/v1/events", key, &event).await?;
        }
        let page = format!("{LARGE_PAGE}&order=desc");
        eventually(LOOK_AGAIN, DEADLINE, "the inbox has a large page", async || {
            Ok((self.control.get(&page, key).await?.1.len() >= LARGE_PAGE_BYTES).then_some(()))
        })
        .await?;
        let before = self.memory_mib();
        let mut readers = Vec::new();
        for _ in 0..self.sizes.slow_readers {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
            let address = tokio::net::lookup_host(&self.address).await?.find(|address| address.is_ipv4());
            let mut stream = socket.connect(address.context("the address is not IPv4")?).await?;
            stream.write_all(self.request("GET", &page, 0, "").as_bytes()).await?;
            readers.push(stream);
        }
        // A page over the budget is refused, which is an answer too.
        let answers = async {
            for reader in &mut readers {
                reader.read_exact(&mut [0; 12]).await.context("a slow reader got no answer")?;
            }
            anyhow::Ok(())
        };
        let answers = async { tokio::time::timeout(DEADLINE, answers).await.context("slow readers got no answer")? };
        Ok(self.most_memory_mib(answers).await? - before)
    }

    /// The most memory until `done` is, and after it until the memory has not grown for a while.
    async fn most_memory_mib(&self, done: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
        let mut done = std::pin::pin!(done);
        let mut looks = tokio::time::interval(LOOK_AGAIN);
        let (mut most, mut is_done, mut grown_at) = (self.memory_mib(), false, Instant::now());
        while !is_done || grown_at.elapsed() < STEADY_FOR {
            tokio::select! {
                outcome = &mut done, if !is_done => {
                    outcome?;
                    (is_done, grown_at) = (true, Instant::now());
                }
                _ = looks.tick() => {}
            }
            let now = self.memory_mib();
            if now > most {
                (most, grown_at) = (now, Instant::now());
            }
        }
        Ok(most)
    }

    /// Sends each request on a connection of its own, so many at the same time. Returns those that were answered, still
    /// open.
    async fn exchange_all(&self, requests: Vec<String>, at_once: usize) -> Vec<Exchanged> {
        let mut tasks = JoinSet::new();
        let mut answered = Vec::new();
        for request in requests {
            if tasks.len() >= at_once {
                answered.extend(tasks.join_next().await.and_then(Result::ok).flatten());
            }
            tasks.spawn(exchange(self.address.clone(), request));
        }
        while let Some(done) = tasks.join_next().await {
            answered.extend(done.ok().flatten());
        }
        answered
    }

    fn request(&self, method: &str, path: &str, index: usize, body: &str) -> String {
        self.head(method, path, index, body.len()) + body
    }

    fn head(&self, method: &str, path: &str, index: usize, body_bytes: usize) -> String {
        let key = self.organizations.get(index % self.organizations.len().max(1)).map_or("", |found| &found.key);
        let kind = if body_bytes > 0 { "content-type: application/json\r\n" } else { "" };
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\n{kind}\
             content-length: {body_bytes}\r\n\r\n",
            self.host
        )
    }

    fn memory_mib(&self) -> f64 {
        usage(std::slice::from_ref(&self.server)).get(&self.server.name).map_or(f64::NAN, |used| used.memory_mib)
    }
}

/// A connection whose request was answered.
struct Exchanged {
    connection: Connection,
    status: u16,
    took: Duration,
    has_event: bool,
}

impl Exchanged {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

async fn exchange(address: String, request: String) -> Option<Exchanged> {
    let mut connection = Connection::open(&address).await.ok()?;
    let started = Instant::now();
    let reply = tokio::time::timeout(DEADLINE, connection.exchange(request.as_bytes())).await.ok()?.ok()?;
    let (status, has_event) = (reply.status, reply.event_id.is_some());
    Some(Exchanged { connection, status, took: started.elapsed(), has_event })
}
