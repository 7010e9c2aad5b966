//! A receiver that records the webhooks and their times, and the acceptance times on the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use devstack::testing::{eventually, read_topic};
use rdkafka::message::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(90);

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Times (milliseconds since the Unix epoch) at which each `webhook-id` was received.
type Received = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

/// Serves until dropped; responds with 204 after `delay`.
pub(crate) struct Hook {
    pub url: String,
    received: Received,
    server: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hook {
    pub(crate) async fn start() -> Self {
        Self::slow(Duration::ZERO).await
    }

    pub(crate) async fn slow(delay: Duration) -> Self {
        let received = Received::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", axum::routing::post(receive)).with_state((received.clone(), delay));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received, server }
    }

    pub(crate) fn received(&self) -> BTreeMap<String, Vec<i64>> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.received().into_iter().map(|(id, times)| (id, times.len())).collect()
    }

    pub(crate) async fn wait_for(&self, ids: &[String]) {
        let what = format!("each of {} events is received", ids.len());
        eventually(PATIENCE, &what, || async {
            let received = self.received.lock().unwrap();
            ids.iter().all(|id| received.contains_key(id)).then_some(())
        })
        .await;
    }
}

async fn receive(State((received, delay)): State<(Received, Duration)>, headers: HeaderMap) -> StatusCode {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    received.lock().unwrap().entry(id).or_default().push(now_ms());
    tokio::time::sleep(delay).await;
    StatusCode::NO_CONTENT
}

/// Id and append time of every event on the log.
pub(crate) async fn accepted(system: &System) -> BTreeMap<String, i64> {
    let records = read_topic(&system.brokers, &system.topic(schemas::topics::EVENTS)).await;
    let event = |record: &rdkafka::message::OwnedMessage| {
        let event = schemas::codec::decode_event(record.payload().unwrap()).unwrap();
        (event.event_id.to_string(), record.timestamp().to_millis().unwrap())
    };
    records.iter().map(event).collect()
}
