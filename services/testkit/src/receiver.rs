//! A webhook receiver: records every request and answers as the test says.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use devstack::testing::eventually;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long a test waits for requests, unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a receiver answers.
#[derive(Clone)]
pub enum ReceiverBehavior {
    Status(u16),
    /// With this status and this header.
    Header(u16, &'static str, String),
    /// These statuses in turn, then the last one.
    Turns(Vec<u16>),
    /// With this status if the body has this text, else with 200.
    Refuse(u16, &'static str),
    /// 200, after a while.
    Slow(Duration),
    /// After a while: 500 to each event as often as its payload says in `failures`, then 200.
    Failures(Duration),
    Hang,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    /// Its `webhook-id`.
    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

struct Shared {
    behavior: Mutex<ReceiverBehavior>,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    received: Vec<Received>,
    /// How many there were, also those that are not in `received`.
    count: usize,
    /// `received` stays empty.
    counts_only: bool,
    /// An index of `received`: a test may wait for tens of thousands of events, and checks often.
    times: BTreeMap<String, Vec<i64>>,
}

/// Serves until it is dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    port: u16,
    patience: Duration,
    server: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    pub async fn start(behavior: ReceiverBehavior) -> Self {
        let shared = Arc::new(Shared { behavior: Mutex::new(behavior), records: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, port, patience: PATIENCE, server }
    }

    /// Waits this long for requests.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Records only when each `webhook-id` came: hundreds of thousands of requests take much memory.
    pub fn without_bodies(self) -> Self {
        self.shared.records.lock().unwrap().counts_only = true;
        self
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.shared.records.lock().unwrap().count
    }

    pub fn url(&self) -> String {
        self.url_of("hook")
    }

    /// The URL of another path. Requests to all paths are recorded together.
    pub fn url_of(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers like this from now on.
    pub fn change(&self, behavior: ReceiverBehavior) {
        *self.shared.behavior.lock().unwrap() = behavior;
    }

    /// The requests since the last call, and deletes their records.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.shared.records.lock().unwrap()).received
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.records.lock().unwrap().received.clone()
    }

    /// The times (milliseconds since the Unix epoch) at which each `webhook-id` came.
    pub fn times(&self) -> BTreeMap<String, Vec<i64>> {
        self.shared.records.lock().unwrap().times.clone()
    }

    /// How often each `webhook-id` came.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.times().into_iter().map(|(id, times)| (id, times.len())).collect()
    }

    pub async fn wait_for(&self, requests: usize) -> Vec<Received> {
        let what = format!("{requests} requests reach the receiver");
        eventually(self.patience, &what, || async {
            Some(self.received()).filter(|received| received.len() >= requests)
        })
        .await
    }

    /// Waits until every one of these events has come.
    pub async fn wait_for_ids(&self, ids: &[String]) {
        eventually(self.patience, &format!("each of {} events reaches the receiver", ids.len()), || async {
            let records = self.shared.records.lock().unwrap();
            ids.iter().all(|id| records.times.contains_key(id)).then_some(())
        })
        .await;
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (at, path) = (Instant::now(), uri.path().to_owned());
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at_ms = i64::try_from(since_epoch.as_millis()).unwrap();
    let id = headers.get("webhook-id").map(|id| id.to_str().unwrap().to_owned());
    let (behavior, earlier, nth) = {
        let mut records = shared.records.lock().unwrap();
        let mut nth = 0;
        if let Some(id) = &id {
            let times = records.times.entry(id.clone()).or_default();
            times.push(at_ms);
            nth = times.len() as u64;
        }
        if !records.counts_only {
            records.received.push(Received { at, at_ms, path, headers, body: body.to_vec() });
        }
        records.count += 1;
        (shared.behavior.lock().unwrap().clone(), records.count - 1, nth)
    };
    // It is no webhook. The delivery fails, and with it the test.
    if method != Method::POST || id.is_none() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let answer = |status: u16| (StatusCode::from_u16(status).unwrap(), "an answer").into_response();
    match behavior {
        ReceiverBehavior::Status(status) => answer(status),
        ReceiverBehavior::Header(status, name, value) => {
            let mut response = answer(status);
            response.headers_mut().insert(name, value.parse().unwrap());
            response
        }
        ReceiverBehavior::Refuse(status, text) => {
            let has_text = body.windows(text.len()).any(|part| part == text.as_bytes());
            answer(if has_text { status } else { 200 })
        }
        ReceiverBehavior::Turns(turns) => answer(turns[earlier.min(turns.len() - 1)]),
        ReceiverBehavior::Slow(wait) => {
            tokio::time::sleep(wait).await;
            answer(200)
        }
        ReceiverBehavior::Failures(wait) => {
            tokio::time::sleep(wait).await;
            let webhook = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            let failures = webhook["data"]["failures"].as_u64().unwrap_or(0);
            answer(if nth <= failures { 500 } else { 200 })
        }
        ReceiverBehavior::Hang => pending().await,
    }
}
