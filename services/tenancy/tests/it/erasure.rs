//! Erasing an organization: the tombstone, and the end of its keys. What the other slices take away is shown by their
//! tests.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use schemas::ids::OrgId;
use serde_json::json;
use tenancy::{CacheSettings, TenancyConfig};

use crate::instance::{Instance, OPERATOR_TOKEN, database, pool, until_probe};
use crate::proxy::Proxy;

/// The contract's bound.
const WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_organizations_keys_are_refused_everywhere_within_a_second_and_without_postgres_too() {
    let (database, near) = database().await;
    let proxy = Proxy::start(&database.url).await;
    let one = Instance::start(near).await;
    // Bad keys are not remembered: what is refused after the cut is refused because the good one was forgotten.
    let mut config = TenancyConfig::new(None, false);
    config.auth.cache = CacheSettings { unknown_for: Duration::from_millis(1), ..CacheSettings::default() };
    let other = Instance::start_with(pool(&proxy.url(&database.url)), config).await;
    let (erased, key) = one.organization_with_key("admin").await;
    let (_, others_key) = one.organization_with_key("admin").await;
    for instance in [&one, &other] {
        assert_eq!((instance.probe(&key).await, instance.probe(&others_key).await), (StatusCode::OK, StatusCode::OK));
    }

    assert_eq!(one.delete(&format!("/organizations/{erased}"), OPERATOR_TOKEN).await.status, StatusCode::NO_CONTENT);
    let answered = Instant::now();
    assert_eq!(one.probe(&key).await, StatusCode::UNAUTHORIZED, "at once where it was erased");
    assert_eq!(one.get("/keys", &key).await.status, StatusCode::UNAUTHORIZED);
    until_probe(&other, &key, StatusCode::UNAUTHORIZED, WITHIN).await;
    assert!(answered.elapsed() < WITHIN);

    proxy.cut();
    until_probe(&other, &key, StatusCode::SERVICE_UNAVAILABLE, WITHIN).await;
    assert_eq!(other.probe(&others_key).await, StatusCode::OK, "the other organization's is cached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_erases_once_or_again_and_the_tombstone_stays() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let made = instance
        .post("/organizations", OPERATOR_TOKEN, json!({"name": "Shop", "webhook_url": "https://u.example/hook"}))
        .await;
    let path = format!("/organizations/{}", made.text("id"));
    let key = instance.key(&made.text("id"), "admin").await.text("key");
    assert_eq!(instance.delete(&path, &key).await.status, StatusCode::FORBIDDEN, "not even its admin");
    for unknown in [OrgId::generate().to_string(), "x".to_owned()] {
        let answer = instance.delete(&format!("/organizations/{unknown}"), OPERATOR_TOKEN).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    for _ in 0..2 {
        assert_eq!(instance.delete(&path, OPERATOR_TOKEN).await.status, StatusCode::NO_CONTENT);
        let shown = instance.get(&path, OPERATOR_TOKEN).await.body;
        assert_eq!((&shown["status"], &shown["webhook_url"]), (&json!("erasing"), &json!(null)));
    }
    let new_key = instance.post(&format!("{path}/keys"), OPERATOR_TOKEN, json!({"name": "x", "role": "produce"})).await;
    assert_eq!(new_key.status, StatusCode::NOT_FOUND);

    // As the slices do, both at the same moment.
    let done = "INSERT INTO erasures (org_id, consumer) SELECT id, c FROM organizations, UNNEST('{materializer,dispatcher}'::text[]) AS c";
    sqlx::query(done).execute(&pool).await.unwrap();
    let end = |consumer: &'static str| {
        sqlx::query("UPDATE erasures SET done_at = now() WHERE consumer = $1").bind(consumer).execute(&pool)
    };
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erasing");
    let (one, other) = tokio::join!(end("materializer"), end("dispatcher"));
    one.and(other).unwrap();
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erased");
    assert_eq!(instance.delete(&path, OPERATOR_TOKEN).await.status, StatusCode::NO_CONTENT);
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erased");
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM api_keys").fetch_one(&pool).await.unwrap();
    assert_eq!(keys, 0);
}
