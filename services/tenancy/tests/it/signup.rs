//! Self sign-up: off by default, and never possible for a web page without a CORS preflight.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tenancy::TenancyConfig;

use crate::instance::{Instance, database, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_is_off_by_default() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let refused =
        send(instance.request(Method::POST, "/keys/generate").json(&json!({"organization_name": "Shop"}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM organizations").fetch_one(&pool).await.unwrap();
    assert_eq!(made, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_creates_an_organization_and_an_admin_key() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool, TenancyConfig::new(None, true)).await;
    for name in ["organization_name", "org_name"] {
        let made =
            send(instance.request(Method::POST, "/keys/generate").json(&json!({name: "Shop", "tier": "business"})))
                .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        assert_eq!(made.headers["cache-control"], "no-store");
        assert_eq!((made.text("organization_name").as_str(), made.text("tier").as_str()), ("Shop", "business"));
        assert_eq!(made.body["rate_limit_per_minute"], 10_000);
        let own = instance.get("/keys", &made.text("api_key")).await;
        assert_eq!((own.text("role").as_str(), own.text("key_id")), ("admin", made.text("key_id")));
        assert_eq!(own.text("organization_id"), made.text("organization_id"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_needs_a_content_type_that_forces_a_preflight() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool, TenancyConfig::new(None, true)).await;
    for content_type in [Some("text/plain"), Some("application/x-www-form-urlencoded"), None] {
        let mut request = instance.request(Method::POST, "/keys/generate").body(r#"{"organization_name": "Shop"}"#);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        assert_eq!(send(request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
    }
}
