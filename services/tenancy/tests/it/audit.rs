//! The audit log: what is written, who reads it, and that nobody changes it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::TenancyConfig;

use crate::instance::{Instance, OPERATOR_TOKEN, SOON, database, send};

fn actions(page: &Value) -> Vec<&str> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_has_an_entry_newest_first() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (id, admin) = instance.organization_with_key("admin").await;
    let own = instance.get("/keys", &admin).await;
    let made = instance.post("/keys", &admin, json!({"name": "x", "role": "produce"})).await.expect(201);
    let path = format!("/keys/{}", made.text("id"));
    let request = instance.request(Method::PATCH, &path).bearer_auth(&admin).header("x-request-id", "change-1");
    send(request.json(&json!({"name": "y"}))).await.expect(200);
    instance.delete(&path, &admin).await.expect(204);
    instance.delete(&path, &admin).await.expect(204);
    instance.patch(&format!("/organizations/{id}"), &admin, json!({"name": "Market"})).await.expect(200);
    let page = instance.get("/audit", &admin).await.expect(200);
    let expected =
        ["organization.changed", "key.revoked", "key.changed", "key.created", "key.created", "organization.created"];
    assert_eq!(actions(&page.body), expected);
    let change = &page.body["entries"][2];
    assert_eq!(change["key_id"], own.body["key_id"]);
    assert_eq!(change["key_prefix"], own.body["prefix"]);
    assert_eq!((&change["actor"], &change["target"]), (&json!("key"), &made.body["id"]));
    assert_eq!((&change["request_id"], &change["address"]), (&json!("change-1"), &json!("127.0.0.1")));
    assert_eq!(change["detail"]["name"], "y");
    assert_eq!(page.body["entries"][5]["actor"], "operator");
    assert!(!page.body.to_string().contains(&made.text("key")), "an entry has no secret");

    let only = instance.get("/audit?action=key.created&limit=1", &admin).await.expect(200);
    assert_eq!((actions(&only.body), &only.body["has_more"]), (vec!["key.created"], &json!(true)));
    let rest = format!("/audit?action=key.created&cursor={}", only.text("next_cursor"));
    assert_eq!(actions(&instance.get(&rest, &admin).await.expect(200).body).len(), 1);
    let stranger = instance.organization_with_key("admin").await.1;
    let foreign = instance.get(&rest, &stranger).await.expect(400);
    assert_eq!(foreign.text("error_code"), "invalid_request", "a cursor belongs to one organization");
    for (query, count) in [("since=2100-01-01T00:00:00Z", 0), ("until=2100-01-01T00:00:00Z", 6)] {
        let page = instance.get(&format!("/audit?{query}"), &admin).await.expect(200);
        assert_eq!(actions(&page.body).len(), count, "{query}");
    }
    for bad in ["since=yesterday", "cursor=x", "cursor=67", "limit=0", "action=%00"] {
        assert_eq!(instance.get(&format!("/audit?{bad}"), &admin).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_unrestricted_managers_read_their_own_audit_log() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (id, _) = instance.organization_with_key("admin").await;
    let restricted = json!({"name": "r", "role": "manage", "event_types": ["a"]});
    let restricted = instance.post(&format!("/organizations/{id}/keys"), OPERATOR_TOKEN, restricted).await.text("key");
    instance.get("/audit", &restricted).await.expect(403);
    let consumer = instance.key(&id, "consume").await.text("key");
    instance.get("/audit", &consumer).await.expect(403);
    let (_, foreign) = instance.organization_with_key("manage").await;
    assert_eq!(actions(&instance.get("/audit", &foreign).await.expect(200).body).len(), 2, "its own entries only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_neither_changed_nor_deleted() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (id, admin) = instance.organization_with_key("admin").await;
    for statement in ["UPDATE audit_log SET action = 'a.b'", "DELETE FROM audit_log", "TRUNCATE audit_log"] {
        let error = sqlx::query(statement).execute(&pool).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{statement}: {error}");
    }
    assert_eq!(actions(&instance.get("/audit", &admin).await.expect(200).body).len(), 2);
    instance.delete(&format!("/organizations/{id}"), OPERATOR_TOKEN).await.expect(204);
    for consumer in ["materializer", "dispatcher"] {
        sqlx::query("INSERT INTO erasures (org_id, consumer) VALUES ($1::uuid, $2)")
            .bind(&id)
            .bind(consumer)
            .execute(&pool)
            .await
            .unwrap();
    }
    sqlx::query("UPDATE erasures SET done_at = now()").execute(&pool).await.unwrap();
    let left: Vec<String> = sqlx::query_scalar("SELECT action FROM audit_log").fetch_all(&pool).await.unwrap();
    assert_eq!(left, ["organization.erased"], "erasure deletes all other entries");
    let shown = instance.get(&format!("/organizations/{id}"), OPERATOR_TOKEN).await.expect(200);
    assert_eq!((shown.text("status").as_str(), shown.text("name")), ("erased", id), "no name is kept");
}

/// Appends so many entries of a key, in a transaction of its own each.
async fn append_by_key(pool: &PgPool, organization: &str, count: usize) {
    for _ in 0..count {
        sqlx::query(
            "SELECT audit_append($1::uuid, 'key', gen_random_uuid(), 'key.changed', $1::uuid, '{}', NULL, 'x')",
        )
        .bind(organization)
        .execute(pool)
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_become_visible_in_the_order_of_the_cursor() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (id, admin) = instance.organization_with_key("admin").await;
    let other = instance.organization("Other").await;
    let mut late = runtime::postgres::begin(&pool).await.unwrap();
    sqlx::query("SELECT audit_append($1::uuid, 'operator', NULL, 'test.late', $1::uuid, '{}', NULL, NULL)")
        .bind(&id)
        .execute(&mut *late)
        .await
        .unwrap();
    append_by_key(&pool, &other, 1).await;
    let path = format!("/organizations/{id}");
    let mut patch = std::pin::pin!(instance.patch(&path, &admin, json!({"name": "Market"})));
    let waiting = async {
        devstack::testing::eventually(SOON, "the change waits for the entry before it", || async {
            let waiting: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                                WHERE datname = current_database() AND wait_event_type = 'Lock')",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            waiting.then_some(())
        })
        .await;
    };
    tokio::select! {
        answer = &mut patch => panic!("an entry overtook one that is not committed: {answer:?}"),
        () = waiting => {}
    }
    assert_eq!(actions(&instance.get("/audit", &admin).await.expect(200).body).len(), 2);
    late.commit().await.unwrap();
    patch.await.expect(200);
    let page = instance.get("/audit?limit=2", &admin).await.expect(200);
    assert_eq!(actions(&page.body), ["organization.changed", "test.late"]);
    let times: Vec<&str> = page.body["entries"].as_array().unwrap().iter().map(|e| e["at"].as_str().unwrap()).collect();
    assert!(times[0] >= times[1], "the times are in the same order: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_displaces_only_its_own_oldest_entries() {
    let (_database, pool) = database().await;
    let config = TenancyConfig { audit_entries: 1_000, ..TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false) };
    let instance = Instance::start_with(pool.clone(), config).await;
    devstack::testing::eventually(SOON, "the bound is stored", || async {
        let entries: i32 = sqlx::query_scalar("SELECT entries FROM audit_settings").fetch_one(&pool).await.unwrap();
        (entries == 1_000).then_some(())
    })
    .await;
    let (id, admin) = instance.organization_with_key("admin").await;
    let first = instance.post("/keys", &admin, json!({"name": "first", "role": "produce"})).await.expect(201);
    append_by_key(&pool, &id, 999).await;
    let oldest = async || {
        let page = instance.get("/audit?action=key.created", &admin).await.expect(200);
        page.body["entries"].as_array().unwrap().iter().filter(|entry| entry["target"] == first.body["id"]).count()
    };
    assert_eq!(oldest().await, 1, "the last entry within the bound");
    append_by_key(&pool, &id, 1).await;
    assert_eq!(oldest().await, 0, "the first entry beyond the bound");
    let by_actor = "SELECT count(*) FILTER (WHERE by_key), count(*) FILTER (WHERE NOT by_key) FROM audit_log";
    let counts: (i64, i64) = sqlx::query_as(by_actor).fetch_one(&pool).await.unwrap();
    assert_eq!(counts, (1_000, 2), "the entries of the operator are kept");
    let error = sqlx::query("DELETE FROM audit_log WHERE by_key").execute(&pool).await.unwrap_err().to_string();
    assert!(error.contains("append-only"), "{error}");
    append_by_key(&pool, &instance.organization("Other").await, 1).await;
    let counts: (i64, i64) = sqlx::query_as(by_actor).fetch_one(&pool).await.unwrap();
    assert_eq!(counts, (1_001, 3), "organizations are counted apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_beyond_the_retention_are_swept() {
    let (_database, pool) = database().await;
    let old = |age: &'static str| {
        sqlx::query(
            "INSERT INTO audit_log (org_id, at, actor, action, target, detail)
             SELECT gen_random_uuid(), now() - $1::interval, 'system', 'test.old', gen_random_uuid(), '{}'
             FROM generate_series(1, 1200)",
        )
        .bind(age)
        .execute(&pool)
    };
    old("401 days").await.unwrap();
    old("399 days").await.unwrap();
    let _instance = Instance::start(pool.clone()).await;
    devstack::testing::eventually(SOON, "only old entries are deleted", || async {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log").fetch_one(&pool).await.unwrap();
        assert!(left >= 1_200, "an entry within the retention was deleted");
        (left == 1_200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_change_fits_into_an_entry() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (_, admin) = instance.organization_with_key("admin").await;
    let types: Vec<String> = (0..100).map(|n| format!("{n:03}{}", "\u{1f980}".repeat(252))).collect();
    let body = json!({"name": "\u{1f980}".repeat(255), "role": "consume", "event_types": types});
    instance.post("/keys", &admin, body).await.expect(201);
    let page = instance.get("/audit?limit=1", &admin).await.expect(200);
    assert_eq!(page.body["entries"][0]["detail"]["event_types"], json!(types));
}
