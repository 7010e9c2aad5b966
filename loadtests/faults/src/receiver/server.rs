//! Accepts webhooks and records them. A small server of its own, because it must also hang, reset, redirect and drip.
//!
//! The rules for what it received are in `check::delivered`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadkit::lock;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use super::request::{Request, read_request};
use super::signature;
use crate::check::Receipt;

/// A hanging answer ends after this time: longer than any attempt.
const HANG: Duration = Duration::from_secs(35);
/// After so long without a request an idle connection is closed.
const IDLE: Duration = Duration::from_millis(100);
/// Time between two bytes of a dripping answer.
const DRIP: Duration = Duration::from_secs(1);

/// How an endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiverBehavior {
    /// 204 at once.
    Healthy,
    Hangs,
    /// It resets the connection.
    Resets,
    /// It answers with this status.
    Status(u16),
    /// It sends one byte a second.
    Drips,
    /// 204 at once; it closes a connection on which nothing came for a moment, without a word before.
    ClosesIdle,
}

#[derive(Default)]
struct ReceiverState {
    secrets: Mutex<HashMap<String, String>>,
    behaviors: Mutex<HashMap<String, ReceiverBehavior>>,
    receipts: Mutex<Vec<Receipt>>,
    /// Endpoint and event of each success, for quick lookups.
    succeeded: Mutex<HashSet<(String, Uuid)>>,
    /// Endpoints that got a request while they misbehaved.
    called_while_faulty: Mutex<HashSet<String>>,
    /// Requested paths that belong to no endpoint.
    unknown_paths: Mutex<HashSet<String>>,
}

/// A running receiver; it stops when dropped.
pub(crate) struct Receiver {
    port: u16,
    state: Arc<ReceiverState>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(ReceiverState::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { port, state, server })
    }

    /// The URL of an endpoint.
    pub(crate) fn url(&self, endpoint: &str) -> String {
        self.url_of_host("127.0.0.1", endpoint)
    }

    /// The URL of an endpoint by another name of this machine.
    pub(crate) fn url_of_host(&self, host: &str, endpoint: &str) -> String {
        format!("http://{host}:{}/{endpoint}", self.port)
    }

    /// Registers an endpoint with the secret that signs its requests.
    pub(crate) fn register(&self, endpoint: &str, secret: String) {
        lock(&self.state.secrets).insert(endpoint.to_owned(), secret);
    }

    /// From now on the endpoints answer like this.
    pub(crate) fn set_behavior(&self, endpoints: &[String], behavior: ReceiverBehavior) {
        let mut behaviors = lock(&self.state.behaviors);
        behaviors.extend(endpoints.iter().map(|endpoint| (endpoint.clone(), behavior)));
    }

    /// Whether the endpoint got a request while it misbehaved.
    pub(crate) fn was_called_while_faulty(&self, endpoint: &str) -> bool {
        lock(&self.state.called_while_faulty).contains(endpoint)
    }

    /// Requested paths that belong to no endpoint.
    pub(crate) fn unknown_paths(&self) -> Vec<String> {
        lock(&self.state.unknown_paths).iter().cloned().collect()
    }

    /// All requests to these endpoints, in the order of their arrival.
    pub(crate) fn receipts(&self, endpoints: &[String]) -> Vec<Receipt> {
        lock(&self.state.receipts).iter().filter(|receipt| endpoints.contains(&receipt.endpoint)).cloned().collect()
    }

    /// Whether the endpoint answered a delivery of the event with success.
    pub(crate) fn has_succeeded(&self, endpoint: &str, id: Uuid) -> bool {
        lock(&self.state.succeeded).contains(&(endpoint.to_owned(), id))
    }

    /// Deletes the recorded requests.
    pub(crate) fn clear(&self) {
        lock(&self.state.receipts).clear();
        lock(&self.state.succeeded).clear();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<ReceiverState>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            connections.spawn(async move { drop(serve_connection(stream, &state).await) });
        }
        // Collects the finished connections.
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, state: &ReceiverState) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut last = ReceiverBehavior::Healthy;
    loop {
        let request = match last {
            ReceiverBehavior::ClosesIdle => tokio::time::timeout(IDLE, read_request(&mut stream)).await.ok(),
            _ => Some(read_request(&mut stream).await),
        };
        let Some(request) = request.transpose()?.flatten() else { return Ok(()) };
        let endpoint = request.path.trim_start_matches('/').to_owned();
        let behavior = lock(&state.behaviors).get(&endpoint).copied().unwrap_or(ReceiverBehavior::Healthy);
        let secret = lock(&state.secrets).get(&endpoint).cloned();
        if secret.is_none() {
            lock(&state.unknown_paths).insert(format!("/{endpoint}"));
        } else if behavior != ReceiverBehavior::Healthy {
            lock(&state.called_while_faulty).insert(endpoint.clone());
        }
        last = behavior;
        let mut receipt = receipt(endpoint, &request, secret.as_deref());
        let host = request.header("host").to_owned();
        let answered = answer(stream.get_mut(), behavior, &host).await;
        let answers = matches!(behavior, ReceiverBehavior::Healthy | ReceiverBehavior::ClosesIdle);
        receipt.succeeded = answers && answered.is_ok();
        if receipt.succeeded {
            lock(&state.succeeded).insert((receipt.endpoint.clone(), receipt.id));
        }
        lock(&state.receipts).push(receipt);
        answered?;
    }
}

async fn answer(stream: &mut TcpStream, behavior: ReceiverBehavior, host: &str) -> io::Result<()> {
    match behavior {
        ReceiverBehavior::Healthy | ReceiverBehavior::ClosesIdle => {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await
        }
        ReceiverBehavior::Hangs => {
            tokio::time::sleep(HANG).await;
            Err(io::ErrorKind::TimedOut.into())
        }
        ReceiverBehavior::Resets => {
            // A connection with zero linger is reset when it is closed.
            stream.set_zero_linger()?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        ReceiverBehavior::Status(status) => {
            let headers = match status {
                // The redirect leads to this server, so that it sees a client that follows.
                301 => format!("location: http://{host}/elsewhere\r\n"),
                429 => "retry-after: 1\r\n".to_owned(),
                _ => String::new(),
            };
            stream.write_all(format!("HTTP/1.1 {status} Status\r\n{headers}content-length: 0\r\n\r\n").as_bytes()).await
        }
        ReceiverBehavior::Drips => {
            for byte in b"HTTP/1.1 204 No Content\r\n\r\n" {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(DRIP).await;
            }
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

fn receipt(endpoint: String, request: &Request, secret: Option<&str>) -> Receipt {
    #[derive(serde::Deserialize, Default)]
    struct WebhookBody {
        event_id: Uuid,
        data: WebhookData,
    }
    #[derive(serde::Deserialize, Default)]
    struct WebhookData {
        tag: String,
        org: Uuid,
    }
    let id = request.header("webhook-id");
    let signature_valid = secret.is_some_and(|secret| {
        signature::verifies(
            secret,
            id,
            request.header("webhook-timestamp"),
            &request.body,
            request.header("webhook-signature"),
        )
    });
    let WebhookBody { event_id, data: WebhookData { tag, org } } =
        serde_json::from_slice(&request.body).unwrap_or_default();
    Receipt {
        endpoint,
        id: id.parse().unwrap_or_default(),
        event_id,
        tag,
        org,
        signature_valid,
        succeeded: false,
        at: Instant::now(),
    }
}
