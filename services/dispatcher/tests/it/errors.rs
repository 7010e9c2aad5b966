//! What an attempt says that has no answer, and what comes next. `docs/webhooks.md` has the same table.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::testing::name_server::NameServer;
use reqwest::Method;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use serde_json::json;
use testkit::certificates::Authority;
use testkit::receiver::{Receiver, ReceiverBehavior};
use testkit::tls_receiver::TlsReceiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::system::{KEY, System, config};

/// What a receiver below HTTP writes to each connection, and then again and again until the connection is closed.
#[derive(Clone, Copy)]
struct Writes {
    first: &'static str,
    then: &'static str,
    pause: Duration,
}

const PAUSE: Duration = Duration::from_millis(50);

struct RawReceiver {
    url: String,
    server: JoinHandle<()>,
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl RawReceiver {
    async fn start(writes: Writes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _bytes = stream.read(&mut request).await;
                    let mut next = writes.first;
                    while stream.write_all(next.as_bytes()).await.is_ok() {
                        next = writes.then;
                        tokio::time::sleep(writes.pause).await;
                    }
                });
            }
        });
        Self { url, server }
    }
}

async fn closed_port() -> String {
    format!("http://{}/", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

/// The first attempt to an endpoint of its own at this URL.
async fn attempt(system: &System, url: &str, timeout_seconds: u32) -> DeliveryAttempt {
    let event_type = format!("to-{}", uuid::Uuid::new_v4().simple());
    let endpoint = json!({
        "url": url, "event_types": [event_type], "timeout_seconds": timeout_seconds, "retry_schedule": [3600],
    });
    system.call(Method::POST, "/endpoints", KEY, Some(endpoint)).await.expect(201);
    let event = system.event(&event_type);
    system.publish(&event).await;
    system.wait_for_reports(event.event_id, 1).await.remove(0)
}

#[tokio::test]
async fn an_error_is_a_failed_attempt_with_its_text() {
    let name_server = NameServer::start().await.unwrap();
    let system =
        System::start_with(dispatcher::DispatcherConfig { name_servers: vec![name_server.address()], ..config() })
            .await;
    let plain = Receiver::start(ReceiverBehavior::Status(200)).await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let tls = TlsReceiver::start(&Authority::new().security(&["localhost"], &[])).await;
    let head = "HTTP/1.1 200 OK\r\nx-a: ";
    let drip = RawReceiver::start(Writes { first: head, then: "a", pause: PAUSE }).await;
    let endless = RawReceiver::start(Writes { first: head, then: "a long header, ", pause: Duration::ZERO }).await;
    let no_http = RawReceiver::start(Writes { first: "what?\r\n\r\n", then: "", pause: PAUSE }).await;
    let silent = RawReceiver::start(Writes { first: "", then: "", pause: PAUSE }).await;
    let broken = "the connection broke before the response";
    let cases = [
        (closed_port().await, 5, "the connection was refused"),
        ("http://nobody.test/".to_owned(), 5, "the host name could not be resolved"),
        ("http://n.dead.test/".to_owned(), 10, "the name servers of the host name do not answer"),
        (plain.url().replace("http:", "https:"), 5, "TLS failed: TLS handshake failed"),
        (tls.url("localhost", "hook"), 5, "TLS failed: unknown certificate authority"),
        (silent.url.replace("http:", "https:"), 10, "no response within 5 s"),
        (hanging.url(), 1, "no response within 1 s"),
        (drip.url.clone(), 1, "no response within 1 s"),
        (endless.url.clone(), 10, broken),
        (no_http.url.clone(), 5, broken),
    ];
    let attempts = cases.iter().map(|(url, timeout, _)| attempt(&system, url, *timeout));
    let attempts = futures_util::future::join_all(attempts).await;
    for (attempt, (url, _, error)) in attempts.iter().zip(&cases) {
        assert_eq!(attempt.error.as_deref(), Some(*error), "{url}");
        let seen = (attempt.outcome, attempt.attempt, attempt.status_code, &attempt.response_excerpt);
        assert_eq!(seen, (DeliveryOutcome::Retrying, 1, None, &None), "{url}");
        let delay_seconds = (attempt.next_attempt_at.unwrap() - attempt.started_at) / 1_000_000;
        assert!((2880..4350).contains(&delay_seconds), "by its schedule: {url}: {delay_seconds} s");
    }
}

#[tokio::test]
async fn the_body_of_an_answer_changes_nothing() {
    let system = System::start().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    let drip = RawReceiver::start(Writes { first: head, then: "a", pause: PAUSE }).await;
    let large = RawReceiver::start(Writes { first: head, then: "endless, ", pause: Duration::ZERO }).await;
    for (receiver, is_read_until_the_time_out) in [(&drip, true), (&large, false)] {
        let attempt = attempt(&system, &receiver.url, 2).await;
        let seen = (attempt.outcome, attempt.status_code, &attempt.error);
        assert_eq!(seen, (DeliveryOutcome::Delivered, Some(200), &None), "the status has decided");
        assert_eq!(attempt.latency_ms >= 2000, is_read_until_the_time_out, "{} ms", attempt.latency_ms);
    }
}

#[tokio::test]
async fn a_look_up_without_a_place_is_no_attempt() {
    let name_server = NameServer::start().await.unwrap();
    let system =
        System::start_with(dispatcher::DispatcherConfig { name_servers: vec![name_server.address()], ..config() })
            .await;
    // An organization has four look-ups at the same time, and a dead name server takes 4 s each.
    for n in 0..8 {
        let endpoint = json!({"url": format!("http://n{n}.dead.test/"), "retry_schedule": [3600]});
        system.call(Method::POST, "/endpoints", KEY, Some(endpoint)).await.expect(201);
    }
    let event = system.event("a");
    system.publish(&event).await;
    let reports = system.wait_for_reports(event.event_id, 8).await;
    for report in &reports {
        // Look-up and connection have 5 s together, with the wait for a place.
        let errors = ["the name servers of the host name do not answer", "no response within 5 s"];
        assert!(errors.contains(&report.error.as_deref().unwrap()), "{:?}", report.error);
        assert_eq!((report.attempt, report.outcome), (1, DeliveryOutcome::Retrying));
    }
    let endpoints: BTreeSet<_> = reports.iter().map(|report| report.endpoint_id).collect();
    assert_eq!((reports.len(), endpoints.len()), (8, 8), "each has one attempt");
    let metrics = runtime::telemetry::metrics::render();
    let not_sent = metrics.lines().find_map(|line| {
        line.strip_prefix("triggers_dispatcher_not_sent_total{reason=\"no_lookup_place\"} ")?.parse::<f64>().ok()
    });
    assert!(not_sent.is_some_and(|count| count >= 1.0), "some of them had no place at first: {not_sent:?}");
}
