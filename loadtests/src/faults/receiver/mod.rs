//! The webhook receiver: a small HTTP server of its own, because it must also hang, reset, redirect and drip. Notes
//! every request.
//!
//! What was received is judged in `check::delivered`.

mod request;
mod signature;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use self::request::{Request, read_request};
use super::check::Receipt;
use super::ledger::lock;

/// A hanging answer is given up then: longer than any attempt lasts.
const HANG: Duration = Duration::from_secs(35);
/// Between two bytes of a dripping answer.
const DRIP: Duration = Duration::from_secs(1);

/// How an endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// 204 at once.
    Fine,
    /// Never.
    Hangs,
    /// The connection is reset.
    Resets,
    /// With this status.
    Status(u16),
    /// One byte a second.
    Drips,
}

#[derive(Default)]
struct Shared {
    secrets: Mutex<HashMap<String, String>>,
    manners: Mutex<HashMap<String, Manner>>,
    receipts: Mutex<Vec<Receipt>>,
    /// Which event was answered with success where, for quick look-ups.
    answered: Mutex<HashSet<(String, Uuid)>>,
    /// Endpoints that met a request while they misbehaved.
    met: Mutex<HashSet<String>>,
    /// Paths that are no endpoint's.
    strays: Mutex<HashSet<String>>,
}

/// Serves until dropped.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Listens on a port of its own.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, server })
    }

    /// The URL of an endpoint.
    pub fn url(&self, endpoint: &str) -> String {
        format!("http://127.0.0.1:{}/{endpoint}", self.port)
    }

    /// The endpoint's requests are signed with this.
    pub fn know(&self, endpoint: &str, secret: String) {
        lock(&self.shared.secrets).insert(endpoint.to_owned(), secret);
    }

    /// From now on the endpoints answer so.
    pub fn behave(&self, endpoints: &[String], manner: Manner) {
        let mut manners = lock(&self.shared.manners);
        manners.extend(endpoints.iter().map(|endpoint| (endpoint.clone(), manner)));
    }

    /// Whether anything came to the endpoint while it misbehaved.
    pub fn was_met(&self, endpoint: &str) -> bool {
        lock(&self.shared.met).contains(endpoint)
    }

    /// Paths that requests came to and that are no endpoint's.
    pub fn strays(&self) -> Vec<String> {
        lock(&self.shared.strays).iter().cloned().collect()
    }

    /// All that came for these endpoints.
    pub fn receipts(&self, endpoints: &[String]) -> Vec<Receipt> {
        lock(&self.shared.receipts).iter().filter(|receipt| endpoints.contains(&receipt.endpoint)).cloned().collect()
    }

    /// Whether the endpoint answered a delivery of the event with success.
    pub fn has_answered(&self, endpoint: &str, id: Uuid) -> bool {
        lock(&self.shared.answered).contains(&(endpoint.to_owned(), id))
    }

    /// Forgets what came; the endpoints of a round that is over are not asked about again.
    pub fn forget(&self) {
        lock(&self.shared.receipts).clear();
        lock(&self.shared.answered).clear();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            connections.spawn(async move { drop(converse(stream, &shared).await) });
        }
        // Collects those that ended.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        let endpoint = request.path.trim_start_matches('/').to_owned();
        let manner = lock(&shared.manners).get(&endpoint).copied().unwrap_or(Manner::Fine);
        let secret = lock(&shared.secrets).get(&endpoint).cloned();
        if secret.is_none() {
            lock(&shared.strays).insert(format!("/{endpoint}"));
        } else if manner != Manner::Fine {
            lock(&shared.met).insert(endpoint.clone());
        }
        let mut receipt = receipt(endpoint, &request, secret.as_deref());
        let host = request.header("host").to_owned();
        let answered = answer(stream.get_mut(), manner, &host).await;
        receipt.answered = manner == Manner::Fine && answered.is_ok();
        if receipt.answered {
            lock(&shared.answered).insert((receipt.endpoint.clone(), receipt.id));
        }
        lock(&shared.receipts).push(receipt);
        answered?;
    }
    Ok(())
}

async fn answer(stream: &mut TcpStream, manner: Manner, host: &str) -> io::Result<()> {
    match manner {
        Manner::Fine => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await,
        Manner::Hangs => {
            tokio::time::sleep(HANG).await;
            Err(io::ErrorKind::TimedOut.into())
        }
        Manner::Resets => {
            // A connection that is closed at once instead of being shut down in order is reset.
            stream.set_zero_linger()?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Manner::Status(status) => {
            let more = match status {
                // To this server, so that whoever follows is seen.
                301 => format!("location: http://{host}/elsewhere\r\n"),
                429 => "retry-after: 1\r\n".to_owned(),
                _ => String::new(),
            };
            stream.write_all(format!("HTTP/1.1 {status} So\r\n{more}content-length: 0\r\n\r\n").as_bytes()).await
        }
        Manner::Drips => {
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
    struct Body {
        event_id: Uuid,
        data: Payload,
    }
    #[derive(serde::Deserialize, Default)]
    struct Payload {
        tag: String,
        org: Uuid,
    }
    let id = request.header("webhook-id");
    let genuine = secret.is_some_and(|secret| {
        signature::verifies(
            secret,
            id,
            request.header("webhook-timestamp"),
            &request.body,
            request.header("webhook-signature"),
        )
    });
    let Body { event_id, data: Payload { tag, org: owner } } =
        serde_json::from_slice(&request.body).unwrap_or_default();
    Receipt {
        endpoint,
        id: id.parse().unwrap_or_default(),
        event_id,
        tag,
        owner,
        genuine,
        answered: false,
        at: Instant::now(),
    }
}
