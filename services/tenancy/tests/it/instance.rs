//! An instance under test: tenancy on a port of its own, with a probe route as another slice would have it.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use devstack::testing::TestDatabase;
use platform::health::Health;
use platform::http::{MountOptions, Problem, ServerLimits};
use platform::lifecycle::Supervisor;
use platform::postgres::{self, PostgresConfig};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller, Right, Tenancy, TenancyConfig};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const OPERATOR_TOKEN: &str = "the operator token of these tests";
/// Within this a revocation counts everywhere, a busy machine's slack included in the tests' deadlines and not here.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A fresh, migrated database; keep it until all pools are dropped.
pub(crate) async fn database() -> (TestDatabase, PgPool) {
    let database = devstack::testing::shared().await.database().await;
    let pool = pool(&database.url);
    postgres::migrate(&pool).await.unwrap();
    (database, pool)
}

pub(crate) fn pool(url: &str) -> PgPool {
    postgres::connect(&PostgresConfig::new(url)).unwrap()
}

pub(crate) struct Instance {
    pub tenancy: Tenancy,
    base_url: String,
    client: Client,
    _shutdown: DropGuard,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {}", self.body)).to_owned()
    }
}

impl Instance {
    pub(crate) async fn start(pool: PgPool) -> Self {
        Self::start_with(pool, TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false)).await
    }

    pub(crate) async fn start_with(pool: PgPool, config: TenancyConfig) -> Self {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
        let tenancy = Tenancy::start(&mut supervisor, pool, config);
        tokio::spawn(supervisor.run(SOON));
        let probe = Router::new().route("/probe", get(probe)).with_state(tenancy.authenticator());
        let router = platform::http::mount(probe.merge(tenancy::routes(tenancy.clone())), MountOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(platform::http::serve(listener, router, ServerLimits::default(), shutdown.clone()));
        // Fails when another test was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        Self { tenancy, base_url, client: Client::new(), _shutdown: shutdown.drop_guard() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base_url))
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        send(self.request(Method::GET, path).bearer_auth(key)).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).bearer_auth(key).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str, key: &str) -> Answer {
        send(self.request(Method::DELETE, path).bearer_auth(key)).await
    }

    /// The status of a route that asks for nothing but a key with the right to produce.
    pub(crate) async fn probe(&self, key: &str) -> StatusCode {
        self.get("/probe", key).await.status
    }

    /// Makes an organization. Answers its id.
    pub(crate) async fn organization(&self, name: &str) -> String {
        let made = self.post("/organizations", OPERATOR_TOKEN, json!({"name": name, "tier": "pro"})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        made.text("id")
    }

    /// Makes a key by the operator's hand.
    pub(crate) async fn key(&self, organization: &str, role: &str) -> Answer {
        let body = json!({"name": format!("{role} key"), "role": role});
        let made = self.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        made
    }

    /// Makes an organization with one key. Answers the organization's id and the key.
    pub(crate) async fn organization_with_key(&self, role: &str) -> (String, String) {
        let organization = self.organization("Shop").await;
        let key = self.key(&organization, role).await.text("key");
        (organization, key)
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    Answer { status, headers, body }
}

/// Waits until `key` gets `wanted` from the probe.
pub(crate) async fn until_probe(instance: &Instance, key: &str, wanted: StatusCode, deadline: Duration) {
    devstack::testing::eventually(deadline, &format!("the probe answers {wanted}"), || async {
        (instance.probe(key).await == wanted).then_some(())
    })
    .await;
}

async fn probe(caller: Caller, State(_): State<Authenticator>) -> Result<String, Problem> {
    caller.require(Right::Produce)?;
    Ok(format!("\"{}\"", caller.org_id))
}
