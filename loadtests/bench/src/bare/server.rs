//! The process of a bare loop: an axum handler that parses the JSON and answers 201, with or without a Kafka producer.
//!
//! It has no keys, limits, validation, record format or metrics. The comparison shows what these cost in the product.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Largest body of a batch.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The topic that the loop produces to.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub brokers: String,
    pub topic: String,
    pub linger_ms: u32,
    pub zstd: bool,
    /// Records have what the writer of the pipeline needs.
    pub pipeline: bool,
}

#[derive(Deserialize)]
struct PostedEvent<'a> {
    event_type: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

struct TopicProducer {
    producer: FutureProducer,
    topic: String,
    pipeline: bool,
}

type ServerState = Arc<Option<TopicProducer>>;

/// Serves until standard input is closed, because then the parent process has exited. Prints its port.
pub(crate) async fn run(sink: Option<Sink>) -> anyhow::Result<()> {
    let connect = |sink: Sink| {
        producer(&sink).map(|producer| TopicProducer { producer, topic: sink.topic, pipeline: sink.pipeline })
    };
    let producer = sink.map(connect).transpose()?;
    let app = Router::new()
        .route("/v1/events", post(accept))
        .route("/v1/events/batch", post(accept_batch).layer(DefaultBodyLimit::max(MAX_BATCH_BYTES)))
        .with_state(Arc::new(producer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("listening")?;
    println!("{}", listener.local_addr().context("listening")?.port());
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
    tokio::select! {
        served = axum::serve(listener, app) => served.context("serving"),
        () = parent_exited() => Ok(()),
    }
}

/// Waits until standard input is closed.
pub(super) async fn parent_exited() {
    let (closed, orphaned) = tokio::sync::oneshot::channel();
    // A plain thread: a blocking task would keep the runtime from stopping when serving fails.
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        closed.send(()).ok();
    });
    // An error means that the thread has stopped, which is handled like a closed input.
    drop(orphaned.await);
}

fn producer(sink: &Sink) -> anyhow::Result<FutureProducer> {
    let mut config = ClientConfig::new();
    if sink.zstd {
        config.set("compression.type", "zstd").set("compression.level", "1");
    }
    config
        .set("bootstrap.servers", &sink.brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", sink.linger_ms.to_string())
        .create()
        .context("creating the producer")
}

#[derive(Deserialize)]
struct PostedBatch<'a> {
    #[serde(borrow)]
    events: Vec<PostedEvent<'a>>,
}

/// Produces the events together, and answers with the id of each.
async fn accept_batch(State(state): State<ServerState>, headers: HeaderMap, body: Bytes) -> Response {
    let unavailable = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    let batch: PostedBatch<'_> = match serde_json::from_slice(&body) {
        Ok(batch) => batch,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    if let Some(producer) = state.as_ref() {
        let key = headers.get(header::AUTHORIZATION).map(|key| key.as_bytes()).unwrap_or_default();
        let mut reports = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let record = FutureRecord::to(&producer.topic).key(key).payload(event.payload.get());
            match producer.producer.send_result(record) {
                Ok(report) => reports.push(report),
                Err((error, _)) => return unavailable(error.to_string()),
            }
        }
        for report in reports {
            if !matches!(tokio::time::timeout(Duration::from_secs(5), report).await, Ok(Ok(Ok(_)))) {
                return unavailable("not delivered".to_owned());
            }
        }
    }
    let mut reply = String::with_capacity(64 * batch.events.len());
    for (index, _) in batch.events.iter().enumerate() {
        let separator = if index == 0 { "{\"results\":[" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(reply, "{separator}{{\"event_id\":\"{}\"}}", Uuid::now_v7());
    }
    reply.push_str("]}");
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], reply).into_response()
}

async fn accept(State(state): State<ServerState>, headers: HeaderMap, body: Bytes) -> Response {
    let event: PostedEvent<'_> = match serde_json::from_slice(&body) {
        Ok(event) => event,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let id = Uuid::now_v7();
    let reply = format!(
        "{{\"event_id\":\"{id}\",\"id\":\"{id}\",\"status\":\"accepted\",\"event_type\":\"{}\"}}",
        event.event_type
    );
    if let Some(producer) = state.as_ref() {
        let key = headers.get(header::AUTHORIZATION).map(|key| key.as_bytes()).unwrap_or_default();
        let payload = event.payload.get();
        let framed = producer.pipeline.then(|| super::writer::encode(id, event.event_type, payload));
        let value = framed.as_deref().unwrap_or(payload.as_bytes());
        let record = FutureRecord::to(&producer.topic).key(key).payload(value);
        let delivered = match producer.producer.send_result(record) {
            Ok(report) => tokio::time::timeout(Duration::from_secs(5), report).await,
            Err((error, _)) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        };
        if !matches!(delivered, Ok(Ok(Ok(_)))) {
            return (StatusCode::SERVICE_UNAVAILABLE, "not delivered").into_response();
        }
    }
    (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], reply).into_response()
}
