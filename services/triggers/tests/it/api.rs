//! The HTTP API as a client with one key sees it.

use std::time::Duration;

use axum::http::HeaderMap;
use devstack::testing::eventually;
use reqwest::Method;
use serde_json::{Value, json};

/// Timeout of every request; a test that expects a faster response asserts that itself.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP client with a timeout.
pub(crate) fn http() -> reqwest::Client {
    // reqwest is built without a crypto provider. A second call in one process is harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    runtime::http_client::builder("http://127.0.0.1").timeout(TIMEOUT).build().unwrap()
}

/// A client of one system with one API key.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    pub base_url: String,
    pub key: String,
    /// The organization of the key.
    pub org_id: String,
}

/// A response with its whole body.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {} {}", self.status, self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Fails unless the status is `status`.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Fails unless it is a 503 problem with a `Retry-After` header.
    #[track_caller]
    pub(crate) fn expect_retry_later(self) -> Self {
        let reply = self.expect(503);
        assert_eq!(reply.header("content-type"), "application/problem+json");
        assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1, "{:?}", reply.headers);
        let problem = reply.json();
        assert_eq!(problem["status"], 503);
        assert!(
            problem["detail"].is_string() && problem["error_code"].is_string() && problem["request_id"].is_string(),
            "{problem}"
        );
        reply
    }
}

impl Api {
    /// A client of the system at `base_url`; queries the organization of the key.
    pub(crate) async fn new(base_url: &str, key: &str) -> Self {
        let mut api = Self { http: http(), base_url: base_url.to_owned(), key: key.to_owned(), org_id: String::new() };
        let answer = api.get("/v1/keys").await.expect(200).json();
        api.org_id = answer["organization_id"].as_str().unwrap().to_owned();
        api
    }

    /// Creates an organization without rate limit and a key for it, as the operator.
    pub(crate) async fn of_new_organization(base_url: &str, operator_token: &str, name: &str) -> Self {
        let operator =
            Self { http: http(), base_url: base_url.to_owned(), key: operator_token.to_owned(), org_id: String::new() };
        let body = json!({"name": name, "tier": "enterprise", "rate_limit_per_minute": 0});
        let created = operator.post("/v1/organizations", &body).await.expect(201).json();
        let org_id = created["id"].as_str().unwrap().to_owned();
        let body = json!({"name": "test", "role": "manage"});
        let created = operator.post(&format!("/v1/organizations/{org_id}/keys"), &body).await.expect(201).json();
        Self { key: created["key"].as_str().unwrap().to_owned(), org_id, ..operator }
    }

    /// The same system with a new key of the same organization, which no instance has cached.
    pub(crate) async fn with_new_key(&self, role: &str) -> Self {
        let created = self.post("/v1/keys", &json!({"name": role, "role": role})).await.expect(201).json();
        self.with_key(created["key"].as_str().unwrap())
    }

    /// The same key at another instance.
    pub(crate) fn at(&self, base_url: &str) -> Self {
        Self { base_url: base_url.to_owned(), ..self.clone() }
    }

    /// The same system with this key of the same organization.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.http.request(Method::GET, self.url(path))).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(self.http.request(Method::DELETE, self.url(path))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.http.request(Method::POST, self.url(path)).json(body)).await
    }

    /// Any request.
    pub(crate) async fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Reply {
        let request = self.http.request(method.clone(), self.url(path));
        self.send(body.iter().fold(request, |request, body| request.json(body))).await
    }

    /// Posts a text of this content type.
    pub(crate) async fn post_text(&self, path: &str, content_type: &str, body: &str) -> Reply {
        let request = self.http.request(Method::POST, self.url(path)).header("content-type", content_type);
        self.send(request.body(body.to_owned())).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(self.http.request(Method::PATCH, self.url(path)).json(body)).await
    }

    /// Posts an event under an idempotency key.
    pub(crate) async fn post_event_as(&self, idempotency_key: &str, body: &Value) -> Reply {
        self.send(
            self.http
                .request(Method::POST, self.url("/v1/events"))
                .header("idempotency-key", idempotency_key)
                .json(body),
        )
        .await
    }

    /// Posts an event that must be accepted; returns its id.
    pub(crate) async fn accept(&self, event_type: &str, payload: &Value) -> String {
        let reply = self.post("/v1/events", &json!({"event_type": event_type, "payload": payload})).await.expect(201);
        let accepted = reply.json();
        let id = accepted["event_id"].as_str().unwrap().to_owned();
        assert_eq!(reply.header("location"), format!("/v1/events/{id}"));
        id
    }

    /// The whole inbox, oldest first, by pages of `limit`.
    pub(crate) async fn inbox(&self, limit: u32) -> Vec<Value> {
        let mut events = Vec::new();
        let mut path = format!("/v1/inbox?limit={limit}");
        loop {
            let page = self.get(&path).await.expect(200).json();
            let found = page["events"].as_array().unwrap();
            assert!(found.len() <= limit as usize);
            events.extend(found.iter().cloned());
            assert_eq!(page["has_more"], !page["next_cursor"].is_null());
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/inbox?limit={limit}&cursor={cursor}"),
                None => return events,
            }
        }
    }

    /// Waits until the inbox shows the event.
    pub(crate) async fn shown(&self, event_id: &str, deadline: Duration) -> Value {
        eventually(deadline, "the inbox shows the event", || async {
            self.inbox(1000).await.into_iter().find(|event| event["event_id"] == event_id)
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.bearer_auth(&self.key).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, text: response.text().await.unwrap() }
    }
}

/// The ids of events, in their order.
pub(crate) fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}
