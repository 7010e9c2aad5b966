//! An instance under test: tenancy on a free port, with a probe route like those of other slices.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use http_server::Problem;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller, Right, Tenancy, TenancyConfig};
pub(crate) use testkit::api::{Answer, send};
use testkit::api::{client, serve, start_tenancy};
pub(crate) use testkit::setup::{database, pool};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const OPERATOR_TOKEN: &str = "the operator token of these tests";
/// Timeout for conditions without a guaranteed bound, with slack for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Instance {
    pub tenancy: Tenancy,
    base_url: String,
    client: Client,
    _shutdown: DropGuard,
}

impl Instance {
    pub(crate) async fn start(pool: PgPool) -> Self {
        Self::start_with(pool, TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false)).await
    }

    pub(crate) async fn start_with(pool: PgPool, config: TenancyConfig) -> Self {
        let shutdown = CancellationToken::new();
        let tenancy = start_tenancy(pool, config, &shutdown);
        let probe = Router::new()
            .route("/probe", get(probe))
            .route("/batch/{events}", get(batch))
            .with_state(tenancy.authenticator());
        let url = serve(tenancy::routes(tenancy.clone()).merge(probe), &shutdown).await;
        Self { tenancy, base_url: format!("{url}/v1"), client: client(), _shutdown: shutdown.drop_guard() }
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

    pub(crate) async fn patch(&self, path: &str, key: &str, body: Value) -> Answer {
        send(self.request(Method::PATCH, path).bearer_auth(key).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str, key: &str) -> Answer {
        send(self.request(Method::DELETE, path).bearer_auth(key)).await
    }

    /// The status of a route that needs a key with the right to produce.
    pub(crate) async fn probe(&self, key: &str) -> StatusCode {
        self.get("/probe", key).await.status
    }

    /// Creates an organization and returns its id.
    pub(crate) async fn organization(&self, name: &str) -> String {
        let made = self.post("/organizations", OPERATOR_TOKEN, json!({"name": name, "tier": "pro"})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        made.text("id")
    }

    /// Creates a key as the operator.
    pub(crate) async fn key(&self, organization: &str, role: &str) -> Answer {
        let body = json!({"name": format!("{role} key"), "role": role});
        let made = self.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        made
    }

    /// Creates an organization with one key and returns the id of the organization and the key.
    pub(crate) async fn organization_with_key(&self, role: &str) -> (String, String) {
        let organization = self.organization("Shop").await;
        let key = self.key(&organization, role).await.text("key");
        (organization, key)
    }
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

/// A batch of so many events.
async fn batch(
    caller: Caller,
    Path(events): Path<u32>,
    State(_): State<Authenticator>,
) -> Result<&'static str, Problem> {
    caller.count_events(0, events).await?;
    Ok("{}")
}
