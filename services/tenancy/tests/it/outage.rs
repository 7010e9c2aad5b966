//! While PostgreSQL does not answer, cached keys stay valid, and other keys get 503 with Retry-After.

use std::time::Duration;

use http::header;
use reqwest::StatusCode;
use tenancy::{CacheSettings, TenancyConfig};
use testkit::proxy::DatabaseProxy;

use crate::instance::{Instance, SOON, database, pool, until_probe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_an_outage_cached_keys_pass_and_others_get_503() {
    let (database, near) = database().await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let instance = Instance::start(pool(&proxy.url)).await;
    let (_, cached) = instance.organization_with_key("produce").await;
    let (_, not_cached) = Instance::start(near).await.organization_with_key("produce").await;
    let no_key = tenancy::key::generate(tenancy::key::Environment::Live);
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);

    proxy.disconnect();
    for key in [&not_cached, no_key.reveal()] {
        let answer = instance.get("/probe", key).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "valid or not: it cannot be checked");
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert_eq!(answer.text("error_code"), "unavailable");
    }
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);
    assert_eq!(instance.probe("noise").await, StatusCode::UNAUTHORIZED, "a malformed key needs no lookup");
    assert_eq!(instance.get("/keys/list", &cached).await.status, StatusCode::FORBIDDEN, "a role check needs no lookup");

    proxy.reconnect();
    until_probe(&instance, &not_cached, StatusCode::OK, SOON).await;
    until_probe(&instance, no_key.reveal(), StatusCode::UNAUTHORIZED, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_started_without_postgres_works_when_it_is_up() {
    let (database, near) = database().await;
    let (_, key) = Instance::start(near).await.organization_with_key("produce").await;
    let proxy = DatabaseProxy::start(&database.url).await;
    proxy.disconnect();
    let instance = Instance::start(pool(&proxy.url)).await;
    assert_eq!(instance.probe(&key).await, StatusCode::SERVICE_UNAVAILABLE);
    proxy.reconnect();
    until_probe(&instance, &key, StatusCode::OK, SOON).await;
}

fn config(cache: CacheSettings) -> TenancyConfig {
    let mut config = TenancyConfig::new(None, false);
    config.auth.cache = cache;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_key_stays_valid_for_a_bounded_time() {
    let (database, near) = database().await;
    let (_, key) = Instance::start(near).await.organization_with_key("produce").await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let cache = CacheSettings { serve_for: Duration::from_secs(3), ..CacheSettings::default() };
    let instance = Instance::start_with(pool(&proxy.url), config(cache)).await;
    assert_eq!(instance.probe(&key).await, StatusCode::OK);
    proxy.disconnect();
    assert_eq!(instance.probe(&key).await, StatusCode::OK);
    until_probe(&instance, &key, StatusCode::SERVICE_UNAVAILABLE, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_key_is_read_again_without_a_notification() {
    let (_database, pool) = database().await;
    let cache = CacheSettings { fresh_for: Duration::from_millis(100), ..CacheSettings::default() };
    let (_, key) = Instance::start(pool.clone()).await.organization_with_key("produce").await;
    let instance = Instance::start_with(pool.clone(), config(cache)).await;
    assert_eq!(instance.probe(&key).await, StatusCode::OK);
    sqlx::query("ALTER TABLE api_keys DISABLE TRIGGER api_keys_changed").execute(&pool).await.unwrap();
    sqlx::query("UPDATE api_keys SET revoked_at = now()").execute(&pool).await.unwrap();
    until_probe(&instance, &key, StatusCode::UNAUTHORIZED, SOON).await;
}
