//! A webhook receiver under the test's control: remembers every request and answers as it is told.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use devstack::testing::eventually;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How a receiver answers.
#[derive(Clone)]
pub(crate) enum Manner {
    Status(u16),
    /// With this status and this header.
    Header(u16, &'static str, String),
    /// These statuses in turn, the last one for ever.
    Turns(Vec<u16>),
    /// 200, after a while.
    Slow(Duration),
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

struct Shared {
    manner: Mutex<Manner>,
    received: Mutex<Vec<Received>>,
}

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    pub(crate) async fn start(manner: Manner) -> Self {
        let shared = Arc::new(Shared { manner: Mutex::new(manner), received: Mutex::new(Vec::new()) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, port, server }
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("hook")
    }

    pub(crate) fn url_of(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn change(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// How often each `webhook-id` came.
    pub(crate) fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for received in self.received() {
            *counts.entry(received.header("webhook-id").to_owned()).or_default() += 1;
        }
        counts
    }

    pub(crate) async fn wait_for(&self, requests: usize) -> Vec<Received> {
        let what = format!("{requests} requests reach the receiver");
        eventually(Duration::from_secs(30), &what, || async {
            Some(self.received()).filter(|received| received.len() >= requests)
        })
        .await
    }

    /// Waits until every one of these events has come.
    pub(crate) async fn wait_for_ids(&self, ids: &[String]) {
        eventually(Duration::from_secs(30), "every event reaches the receiver", || async {
            let counts = self.counts();
            ids.iter().all(|id| counts.contains_key(id)).then_some(())
        })
        .await;
    }
}

async fn receive(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let (manner, earlier) = {
        let mut received = shared.received.lock().unwrap();
        received.push(Received { at: Instant::now(), path: uri.path().to_owned(), headers, body: body.to_vec() });
        (shared.manner.lock().unwrap().clone(), received.len() - 1)
    };
    let answer = |status: u16| (StatusCode::from_u16(status).unwrap(), "an answer").into_response();
    match manner {
        Manner::Status(status) => answer(status),
        Manner::Header(status, name, value) => {
            let mut response = answer(status);
            response.headers_mut().insert(name, value.parse().unwrap());
            response
        }
        Manner::Turns(turns) => answer(turns[earlier.min(turns.len() - 1)]),
        Manner::Slow(wait) => {
            tokio::time::sleep(wait).await;
            answer(200)
        }
        Manner::Hang => pending().await,
    }
}
