//! Connections to receivers: idle ones that the receiver has closed, and answers that break off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::system::{KEY, PATIENCE, System};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BROKEN: &str = "the connection broke before the response";

#[derive(Clone, Copy)]
enum Reaction {
    Answer,
    /// Closes without an answer.
    Close,
    /// Closes after one byte of an answer.
    Break,
}

/// A request: number of its connection, its number on that connection, and its `webhook-id`.
type Seen = (usize, usize, String);

/// A receiver below HTTP: it closes connections as a test says, and never announces it.
struct RawReceiver {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that it has closed.
    closed: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl RawReceiver {
    /// `react` gets the number of the connection and of the request on it, both from 0. An idle connection is closed
    /// after `idle`.
    async fn start(idle: Duration, react: fn(usize, usize) -> Reaction) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let closed: Arc<AtomicUsize> = Arc::default();
        let (recorded, counted) = (seen.clone(), closed.clone());
        let server = tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (recorded, counted) = (recorded.clone(), counted.clone());
                tokio::spawn(async move {
                    serve(stream, connection, idle, react, recorded).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, seen, closed, server }
    }

    /// The requests so far, as (connection, request on it, number of the event in `events`).
    fn seen(&self, events: &[DeliveryAttempt]) -> Vec<(usize, usize, usize)> {
        let number = |id: &str| events.iter().position(|event| event.event_id.to_string() == id).unwrap();
        self.seen.lock().unwrap().iter().map(|(connection, request, id)| (*connection, *request, number(id))).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    idle: Duration,
    react: fn(usize, usize) -> Reaction,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    for request in 0.. {
        let Ok(Some(id)) = timeout(idle, read_request(&mut stream)).await else { return };
        seen.lock().unwrap().push((connection, request, id));
        match react(connection, request) {
            Reaction::Answer => stream.write_all(OK).await.unwrap(),
            Reaction::Close => return,
            Reaction::Break => return stream.write_all(b"H").await.unwrap(),
        }
    }
}

/// Reads a request and answers its `webhook-id`; `None`: the connection is closed.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        if body.len() >= header("content-length:").parse::<usize>().unwrap() {
            return Some(header("webhook-id:"));
        }
    }
}

async fn system_with(receiver: &RawReceiver) -> System {
    let system = System::start().await;
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let answer = system.call(Method::POST, "/endpoints", KEY, Some(json!({"url": url, "retry_schedule": []}))).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    system
}

/// Sends an event and waits for its first attempt.
async fn deliver(system: &System) -> DeliveryAttempt {
    let event = system.event("a");
    system.publish(&event).await;
    system.wait_for_reports(event.event_id, 1).await.remove(0)
}

fn assert_delivered_at_once(attempt: &DeliveryAttempt) {
    assert_eq!((attempt.outcome, attempt.attempt, &attempt.error), (DeliveryOutcome::Delivered, 1, &None));
}

fn assert_broken(attempt: &DeliveryAttempt) {
    assert_eq!(
        (attempt.outcome, attempt.attempt, attempt.error.as_deref()),
        (DeliveryOutcome::Failed, 1, Some(BROKEN))
    );
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_request_on_a_closed_idle_connection_is_repeated() {
    let second_is_not_answered =
        |_: usize, request: usize| if request == 0 { Reaction::Answer } else { Reaction::Close };
    let receiver = RawReceiver::start(LONG, second_is_not_answered).await;
    let system = system_with(&receiver).await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        attempts.push(deliver(&system).await);
    }
    attempts.iter().for_each(assert_delivered_at_once);
    assert_eq!(receiver.seen(&attempts), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2), (2, 0, 2)]);
    for attempt in &attempts {
        assert_eq!(system.reports_of(attempt.event_id).len(), 1, "the second sending is no attempt of its own");
    }
    assert!(runtime::telemetry::metrics::render().contains("triggers_dispatcher_stale_connections_total "));
}

#[tokio::test]
async fn a_receiver_that_closes_idle_connections_gets_each_event() {
    let receiver = RawReceiver::start(Duration::from_secs(1), |_, _| Reaction::Answer).await;
    let system = system_with(&receiver).await;
    let mut attempts = Vec::new();
    for closed in 1..=3 {
        attempts.push(deliver(&system).await);
        // It closes the connection without saying so: the next event comes just after that.
        eventually(PATIENCE, "the receiver closes the idle connection", || async {
            (receiver.closed.load(Ordering::SeqCst) == closed).then_some(())
        })
        .await;
    }
    attempts.push(deliver(&system).await);
    attempts.iter().for_each(assert_delivered_at_once);
    assert_eq!(receiver.seen(&attempts), [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)]);
}

#[tokio::test]
async fn a_request_is_repeated_once_only() {
    let only_the_first_is_answered = |connection: usize, request: usize| match (connection, request) {
        (0, 0) => Reaction::Answer,
        _ => Reaction::Close,
    };
    let receiver = RawReceiver::start(LONG, only_the_first_is_answered).await;
    let system = system_with(&receiver).await;
    let attempts = [deliver(&system).await, deliver(&system).await, deliver(&system).await];
    assert_delivered_at_once(&attempts[0]);
    assert_broken(&attempts[1]);
    assert_broken(&attempts[2]);
    assert_eq!(receiver.seen(&attempts), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (2, 0, 2)], "a fresh one is an attempt");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_attempt() {
    let receiver = RawReceiver::start(LONG, |_, request| match request {
        0 => Reaction::Answer,
        _ => Reaction::Break,
    })
    .await;
    let system = system_with(&receiver).await;
    let attempts = [deliver(&system).await, deliver(&system).await];
    assert_delivered_at_once(&attempts[0]);
    assert_broken(&attempts[1]);
    assert_eq!(receiver.seen(&attempts), [(0, 0, 0), (0, 1, 1)], "one byte of an answer: not sent again");
}
