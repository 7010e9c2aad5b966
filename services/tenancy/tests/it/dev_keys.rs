//! Development keys: applied at each start, and valid only in processes whose configuration lists them.

use reqwest::StatusCode;

use crate::instance::{Instance, database, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keys_are_created_once_and_valid_only_where_configured() {
    let (_database, pool) = database().await;
    let here = Instance::start(pool.clone()).await;
    let elsewhere = Instance::start(pool.clone()).await;
    assert_eq!(here.probe("dev").await, StatusCode::UNAUTHORIZED);

    let first = here.tenancy.apply_dev_keys("dev=Shop,other-key", true).await.unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(here.tenancy.apply_dev_keys("dev=Shop,other-key", true).await.unwrap(), Some(first));
    }
    let (organizations, keys): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM organizations), (SELECT count(*) FROM api_keys)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((organizations, keys), (2, 2));

    let own = here.get("/keys", "dev").await;
    assert_eq!(own.text("organization_id"), first.to_string());
    assert_eq!((own.text("organization_name").as_str(), own.text("role").as_str()), ("Shop", "admin"));
    assert_eq!(own.body["rate_limit_per_minute"], 0);
    assert!(own.text("prefix").starts_with("dev_"));
    assert_eq!(here.get("/keys", "other-key").await.text("organization_name"), "Development");
    assert_eq!(elsewhere.probe("dev").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_formed_dev_key_is_valid_only_where_configured() {
    let (_database, pool) = database().await;
    let here = Instance::start(pool.clone()).await;
    let elsewhere = Instance::start(pool).await;
    let key = tenancy::key::generate(tenancy::key::Environment::Test);
    here.tenancy.apply_dev_keys(key.reveal(), true).await.unwrap();
    assert_eq!(here.probe(key.reveal()).await, StatusCode::OK);
    assert_eq!(elsewhere.probe(key.reveal()).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_restores_and_moves_a_revoked_dev_key() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    instance.tenancy.apply_dev_keys("dev=Shop", true).await.unwrap();
    let key_id = instance.get("/keys", "dev").await.text("key_id");
    assert_eq!(instance.delete(&format!("/keys/{key_id}"), "dev").await.status, StatusCode::NO_CONTENT);
    assert_eq!(instance.probe("dev").await, StatusCode::UNAUTHORIZED);

    let restarted = Instance::start(pool).await;
    restarted.tenancy.apply_dev_keys("dev=Other shop", true).await.unwrap();
    let own = restarted.get("/keys", "dev").await;
    assert_eq!((own.text("organization_name"), own.text("key_id")), ("Other shop".to_owned(), key_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_by_the_configuration_has_an_audit_entry() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    for keys in ["dev=Shop", "dev=Shop", "dev=Market", "dev=Market"] {
        instance.tenancy.apply_dev_keys(keys, true).await.unwrap();
    }
    let key_id = instance.get("/keys", "dev").await.text("key_id");
    instance.delete(&format!("/keys/{key_id}"), "dev").await.expect(204);
    instance.tenancy.apply_dev_keys("dev=Market", true).await.unwrap();
    let entries: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT o.name, l.action, l.actor FROM audit_log l JOIN organizations o ON o.id = l.org_id
         WHERE l.address IS NULL OR l.actor <> 'configuration' ORDER BY l.id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let entries: Vec<_> = entries.iter().map(|(name, action, actor)| (&**name, &**action, &**actor)).collect();
    let by = "configuration";
    let expected = [
        ("Shop", "organization.created", by),
        ("Shop", "key.created", by),
        ("Market", "organization.created", by),
        ("Shop", "key.revoked", by),
        ("Market", "key.created", by),
        ("Market", "key.revoked", "key"),
        ("Market", "key.created", by),
    ];
    assert_eq!(entries, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotating_a_dev_key_is_a_conflict() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    instance.tenancy.apply_dev_keys("dev", true).await.unwrap();
    for overlap in [0, 60] {
        let body = serde_json::json!({ "overlap_seconds": overlap });
        let refused = instance.post("/keys/rotate", "dev", body).await.expect(409);
        assert_eq!(refused.text("error_code"), "development_key");
    }
    assert_eq!(instance.probe("dev").await, StatusCode::OK, "the key is still valid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keys_are_refused_beyond_loopback() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let error = instance.tenancy.apply_dev_keys("dev", false).await.unwrap_err();
    assert!(matches!(error, tenancy::DevKeysError::NotOnLoopback));
    assert_eq!(instance.probe("dev").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keys_are_refused_behind_a_proxy() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    instance.tenancy.apply_dev_keys("dev", true).await.unwrap();
    let (_, key) = instance.organization_with_key("admin").await;
    assert_eq!(instance.probe("dev").await, StatusCode::OK);
    for header in ["forwarded", "via", "x-forwarded-for"] {
        let request = |key: &str| instance.request(reqwest::Method::GET, "/probe").bearer_auth(key).header(header, "x");
        send(request("dev")).await.expect(403);
        send(request(&key)).await.expect(200);
    }
}
