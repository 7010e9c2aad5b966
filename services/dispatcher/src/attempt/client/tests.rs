use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::ids::{EndpointId, EventId, OrgId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::attempt::sign::Secret;

/// A server that accepts connections, counts them, and serves each with `serve`.
struct Server {
    port: u16,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self { port, accepted, _task: AbortOnDropHandle::new(task) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Reads until the end of the request's body, whose last byte is `}`.
async fn read_request(stream: &mut TcpStream) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        id: EndpointId::generate(),
        url: url.parse().unwrap(),
        secrets: vec![Secret::generate()],
        headers: Vec::new(),
        max_in_flight: 1,
        timeout: Duration::from_secs(5),
        retry_delays_seconds: Vec::new(),
    }
}

fn event(org_id: OrgId) -> OutboundEvent {
    OutboundEvent {
        org_id,
        event_id: EventId::generate(),
        event_type: "a".to_owned(),
        accepted_at: OffsetDateTime::now_utc(),
        payload: "{}".to_owned(),
        payload_encoding: None,
        traceparent: None,
        log_epoch: 1,
        partition: 0,
        offset: 0,
    }
}

fn with_loopback() -> EgressPolicy {
    let allowed_networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    EgressPolicy { allowed_networks, allow_http: true }
}

#[test]
fn an_excerpt_is_short_text_without_nul() {
    assert_eq!(text(b"a\0b"), "a\u{fffd}b");
    assert_eq!(text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
    let long = text(&[0xff; EXCERPT_BYTES]);
    assert!(long.len() <= EXCERPT_BYTES && long.len() > EXCERPT_BYTES - 4);
}

#[tokio::test]
async fn the_parts_of_a_request_are_measured() {
    const THINKING: Duration = Duration::from_millis(50);
    let server = Server::start(|mut stream| async move {
        while read_request(&mut stream).await.is_some() {
            tokio::time::sleep(THINKING).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let client = WebhookClient::new(Arc::new(with_loopback())).unwrap();
    let (endpoint, event) = (endpoint(&format!("http://localhost:{}/", server.port)), event(OrgId::generate()));
    let first = client.send(&endpoint, &event).await;
    assert_eq!((first.answer.status, first.reused), (Some(200), false), "{first:?}");
    assert_eq!(first.remote.unwrap().port(), server.port);
    assert!(first.timings.connect > Duration::ZERO && first.timings.wait >= THINKING, "{first:?}");
    assert!(first.timings.connect + first.timings.send + first.timings.wait <= first.latency, "{first:?}");
    assert!(first.timings.send < THINKING, "{first:?}");
    let second = client.send(&endpoint, &event).await;
    assert_eq!((second.answer.status, second.reused, second.timings.connect), (Some(200), true, Duration::ZERO));
    assert!(second.timings.wait >= THINKING, "{second:?}");
    let other = client.send(&endpoint, &self::event(OrgId::generate())).await;
    assert!(!other.reused, "a connection of another organization");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_time_out_has_the_parts_until_then() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let client = WebhookClient::new(Arc::new(with_loopback())).unwrap();
    let mut endpoint = endpoint(&format!("http://127.0.0.1:{}/", server.port));
    endpoint.timeout = Duration::from_secs(1);
    let result = client.send(&endpoint, &event(OrgId::generate())).await;
    assert_eq!(result.error.as_deref(), Some("no response within 1 s"));
    assert!(result.timings.wait > Duration::from_millis(700) && result.remote.is_some(), "{result:?}");
}
