//! A receiver of webhooks on this machine that answers 204 and keeps what it got.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request as it came.
pub(crate) struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Serves until dropped.
pub(crate) struct Receiver {
    pub url: String,
    pub inbox: mpsc::Receiver<Received>,
    server: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let (sender, inbox) = mpsc::channel(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", axum::routing::post(keep)).with_state(sender);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inbox, server }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn keep(State(sender): State<mpsc::Sender<Received>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match sender.send(Received { headers, body }).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::GONE,
    }
}
