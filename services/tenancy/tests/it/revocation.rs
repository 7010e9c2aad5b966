//! A revoked key is refused by all instances within a second, with or without the LISTEN connection.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use testkit::proxy::DatabaseProxy;
use uuid::Uuid;

use crate::instance::{Instance, SOON, database, pool, until_probe};

/// The guaranteed bound.
const WITHIN: Duration = Duration::from_secs(1);

/// Two instances that have cached the same key.
struct Pair {
    one: Instance,
    other: Instance,
    admin: String,
    key: String,
    key_id: String,
}

async fn pair(one: Instance, other: Instance) -> Pair {
    let (organization, admin) = one.organization_with_key("admin").await;
    let made = one.key(&organization, "produce").await;
    let (key, key_id) = (made.text("key"), made.text("id"));
    for instance in [&one, &other] {
        assert_eq!(instance.probe(&key).await, StatusCode::OK);
    }
    Pair { one, other, admin, key, key_id }
}

impl Pair {
    async fn revoke(&self) -> Instant {
        let revoked = self.one.delete(&format!("/keys/{}", self.key_id), &self.admin).await;
        assert_eq!(revoked.status, StatusCode::NO_CONTENT);
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_by_another_instance_within_a_second() {
    let (_database, pool) = database().await;
    let pair = pair(Instance::start(pool.clone()).await, Instance::start(pool).await).await;
    let revoked = pair.revoke().await;
    assert_eq!(pair.one.probe(&pair.key).await, StatusCode::UNAUTHORIZED, "at once on the instance that revoked it");
    until_probe(&pair.other, &pair.key, StatusCode::UNAUTHORIZED, WITHIN).await;
    assert!(revoked.elapsed() < WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_by_sql_takes_effect_as_well() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (organization, first) = instance.organization_with_key("admin").await;
    let made = instance.key(&organization, "produce").await;
    let (second, second_id): (_, Uuid) = (made.text("key"), made.text("id").parse().unwrap());
    assert_eq!((instance.probe(&first).await, instance.probe(&second).await), (StatusCode::OK, StatusCode::OK));

    sqlx::query("UPDATE api_keys SET revoked_at = now() WHERE id = $1").bind(second_id).execute(&pool).await.unwrap();
    until_probe(&instance, &second, StatusCode::UNAUTHORIZED, WITHIN).await;
    assert_eq!(instance.probe(&first).await, StatusCode::OK, "the other key is still valid");

    let organization: Uuid = organization.parse().unwrap();
    sqlx::query("UPDATE organizations SET status = 'erasing' WHERE id = $1")
        .bind(organization)
        .execute(&pool)
        .await
        .unwrap();
    until_probe(&instance, &first, StatusCode::UNAUTHORIZED, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_takes_effect_with_a_silent_listen_connection() {
    let (database, near) = database().await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let pair = pair(Instance::start(near).await, Instance::start(pool(&proxy.url)).await).await;
    proxy.mute_listeners();
    pair.revoke().await;
    // The interval of the poll and its duration.
    until_probe(&pair.other, &pair.key, StatusCode::UNAUTHORIZED, 2 * WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_missed_in_an_outage_takes_effect_after_it() {
    let (database, near) = database().await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let pair = pair(Instance::start(near).await, Instance::start(pool(&proxy.url)).await).await;
    proxy.disconnect();
    pair.revoke().await;
    assert_eq!(pair.other.probe(&pair.key).await, StatusCode::OK, "the key is cached, and PostgreSQL does not answer");
    proxy.reconnect();
    until_probe(&pair.other, &pair.key, StatusCode::UNAUTHORIZED, SOON).await;
    assert_eq!(pair.other.probe(&pair.admin).await, StatusCode::OK, "the other key is still valid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_key_is_refused_when_it_expires() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (_, key) = instance.organization_with_key("produce").await;
    sqlx::query("UPDATE api_keys SET expires_at = now() + interval '1 second'").execute(&pool).await.unwrap();
    until_probe(&instance, &key, StatusCode::UNAUTHORIZED, SOON).await;
}
