//! A token endpoint of OAuth 2.0: records every request and answers as the test says.

use std::future::pending;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Clone, Copy)]
pub(crate) enum TokenBehavior {
    /// Grants `token-1`, `token-2` and so on, each for so many seconds.
    Grant {
        expires_in: u64,
    },
    /// Refuses with this status, and with a text that nobody may repeat.
    Refuse(u16),
    Hang,
}

/// One request for a token.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    pub headers: HeaderMap,
    pub form: String,
}

struct Shared {
    behavior: Mutex<TokenBehavior>,
    requests: Mutex<Vec<TokenRequest>>,
}

/// Serves until it is dropped.
pub(crate) struct TokenEndpoint {
    shared: Arc<Shared>,
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TokenEndpoint {
    pub(crate) async fn start(behavior: TokenBehavior) -> Self {
        let shared = Arc::new(Shared { behavior: Mutex::new(behavior), requests: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, port, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    /// Answers like this from now on.
    pub(crate) fn change(&self, behavior: TokenBehavior) {
        *self.shared.behavior.lock().unwrap() = behavior;
    }

    pub(crate) fn requests(&self) -> Vec<TokenRequest> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, form: String) -> Response {
    let number = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(TokenRequest { headers, form });
        requests.len()
    };
    let behavior = *shared.behavior.lock().unwrap();
    match behavior {
        TokenBehavior::Grant { expires_in } => {
            let token = format!("token-{number}");
            Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in})).into_response()
        }
        TokenBehavior::Refuse(status) => {
            let body = json!({"error": "invalid_client", "error_description": "hush-hush"}).to_string();
            (StatusCode::from_u16(status).unwrap(), Bytes::from(body)).into_response()
        }
        TokenBehavior::Hang => pending().await,
    }
}
