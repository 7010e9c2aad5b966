//! Erasing an organization: the tombstone and the revocation of its keys. The other slices test what they delete.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use schemas::ids::OrgId;
use serde_json::json;
use tenancy::{CacheSettings, TenancyConfig};
use testkit::proxy::DatabaseProxy;

use crate::instance::{Instance, OPERATOR_TOKEN, database, pool, until_probe};

/// The guaranteed bound.
const WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_erased_organization_are_refused_within_a_second() {
    let (database, near) = database().await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let one = Instance::start(near).await;
    // Unknown keys are not cached: a key refused after the cut was removed from the cache of valid keys.
    let mut config = TenancyConfig::new(None, false);
    config.auth.cache = CacheSettings { unknown_for: Duration::from_millis(1), ..CacheSettings::default() };
    let other = Instance::start_with(pool(&proxy.url), config).await;
    let (erased, key) = one.organization_with_key("admin").await;
    let (_, others_key) = one.organization_with_key("admin").await;
    for instance in [&one, &other] {
        assert_eq!((instance.probe(&key).await, instance.probe(&others_key).await), (StatusCode::OK, StatusCode::OK));
    }

    assert_eq!(one.delete(&format!("/organizations/{erased}"), OPERATOR_TOKEN).await.status, StatusCode::NO_CONTENT);
    let answered = Instant::now();
    assert_eq!(one.probe(&key).await, StatusCode::UNAUTHORIZED, "at once on the instance that erased it");
    assert_eq!(one.get("/keys", &key).await.status, StatusCode::UNAUTHORIZED);
    until_probe(&other, &key, StatusCode::UNAUTHORIZED, WITHIN).await;
    assert!(answered.elapsed() < WITHIN);

    proxy.disconnect();
    until_probe(&other, &key, StatusCode::SERVICE_UNAVAILABLE, WITHIN).await;
    assert_eq!(other.probe(&others_key).await, StatusCode::OK, "the key of the other organization is still cached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_is_idempotent_and_the_tombstone_stays() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let id = instance.organization("Shop").await;
    let path = format!("/organizations/{id}");
    let key = instance.key(&id, "admin").await.text("key");
    sqlx::query(
        "INSERT INTO endpoints (id, org_id, url, timeout_seconds, retry_schedule, is_default, version)
         VALUES (gen_random_uuid(), $1::uuid, 'https://u.example/hook', 10, '{}', true, 1)",
    )
    .bind(&id)
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("webhook_url"), "https://u.example/hook");
    assert_eq!(
        instance.delete(&path, &key).await.status,
        StatusCode::FORBIDDEN,
        "only the operator erases, not an admin key"
    );
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

    // Both slices finish at the same time.
    let started = "INSERT INTO erasures (org_id, consumer)
                   SELECT id, c FROM organizations, UNNEST('{materializer,dispatcher}'::text[]) AS c";
    sqlx::query(started).execute(&pool).await.unwrap();
    let finish = |consumer: &'static str| {
        sqlx::query("UPDATE erasures SET done_at = now() WHERE consumer = $1").bind(consumer).execute(&pool)
    };
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erasing");
    let (one, other) = tokio::join!(finish("materializer"), finish("dispatcher"));
    one.and(other).unwrap();
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erased");
    assert_eq!(instance.delete(&path, OPERATOR_TOKEN).await.status, StatusCode::NO_CONTENT);
    assert_eq!(instance.get(&path, OPERATOR_TOKEN).await.text("status"), "erased");
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM api_keys").fetch_one(&pool).await.unwrap();
    assert_eq!(keys, 0);
}
