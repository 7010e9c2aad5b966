//! The receiver of webhooks: notes when each event arrives, on a thread of its own.
//!
//! The path decides what happens: `/ok/N` answers after the configured time, `/hang` never answers, `/drip` sends a
//! byte of its answer each second.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use loadkit::lock;
use serde::Deserialize;
use uuid::Uuid;

use crate::recorder::AcceptedEvent;

/// How long `/hang` holds a request, unless its sender gives up before.
const HANG: Duration = Duration::from_secs(120);

/// An event that arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub event_id: Uuid,
    pub at: Instant,
}

#[derive(Default)]
struct Received {
    arrivals: Mutex<Vec<Arrival>>,
    answer_after: Duration,
}

/// A running receiver; it stops with the process.
pub(crate) struct Receiver {
    /// `http://127.0.0.1:PORT`.
    pub base_url: String,
    received: Arc<Received>,
}

impl Receiver {
    /// Starts one whose good paths answer after `answer_after`.
    pub(crate) fn start(answer_after: Duration) -> anyhow::Result<Self> {
        let received = Arc::new(Received { arrivals: Mutex::default(), answer_after });
        let app = Router::new()
            .route("/ok/{number}", post(accept))
            .route("/hang", post(hang))
            .route("/drip", post(drip))
            .with_state(received.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listening for webhooks")?;
        listener.set_nonblocking(true).context("listening for webhooks")?;
        let base_url = format!("http://{}", listener.local_addr().context("listening for webhooks")?);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        let serve = move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
                axum::serve(listener, app).await
            })
        };
        std::thread::Builder::new().name("receiver".to_owned()).spawn(serve).context("starting the receiver")?;
        Ok(Self { base_url, received })
    }

    /// Whether these events have arrived since the last `take`; if none are named, whether so many have.
    pub(crate) fn has_received(&self, count: u64, events: &[AcceptedEvent]) -> bool {
        let arrivals = lock(&self.received.arrivals);
        if events.is_empty() || arrivals.len() < events.len() {
            return arrivals.len() as u64 >= count;
        }
        let arrived: HashSet<Uuid> = arrivals.iter().map(|arrival| arrival.event_id).collect();
        drop(arrivals);
        events.iter().all(|event| arrived.contains(&event.id))
    }

    /// What has arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut lock(&self.received.arrivals))
    }
}

#[derive(Deserialize)]
struct Event {
    event_id: Uuid,
}

/// One event has its id in `webhook-id`; a batch is an array of events.
async fn accept(State(received): State<Arc<Received>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let at = Instant::now();
    if body.first() == Some(&b'[') {
        let Ok(events) = serde_json::from_slice::<Vec<Event>>(&body) else { return StatusCode::BAD_REQUEST };
        lock(&received.arrivals).extend(events.iter().map(|event| Arrival { event_id: event.event_id, at }));
    } else {
        let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
        let Some(event_id) = id else { return StatusCode::BAD_REQUEST };
        lock(&received.arrivals).push(Arrival { event_id, at });
    }
    if !received.answer_after.is_zero() {
        tokio::time::sleep(received.answer_after).await;
    }
    StatusCode::NO_CONTENT
}

async fn hang() -> StatusCode {
    tokio::time::sleep(HANG).await;
    StatusCode::OK
}

async fn drip() -> Response {
    let drops = futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b".")), ()))
    });
    Body::from_stream(drops).into_response()
}
