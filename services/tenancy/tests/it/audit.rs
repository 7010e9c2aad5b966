//! The audit log: what is written, who reads it, and that nobody changes it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::instance::{Instance, OPERATOR_TOKEN, database, send};

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
    for (query, count) in [("since=2100-01-01T00:00:00Z", 0), ("until=2100-01-01T00:00:00Z", 6)] {
        let page = instance.get(&format!("/audit?{query}"), &admin).await.expect(200);
        assert_eq!(actions(&page.body).len(), count, "{query}");
    }
    for bad in ["since=yesterday", "cursor=x", "limit=0", "action=%00"] {
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
