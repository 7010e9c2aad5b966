//! Organizations are changed by the operator and by their own admin keys.

use reqwest::StatusCode;
use serde_json::json;

use crate::instance::{Instance, OPERATOR_TOKEN, database};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_changes_everything_of_an_organization() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (id, key) = instance.organization_with_key("admin").await;
    let path = format!("/organizations/{id}");
    let change = json!({"name": "Market", "tier": "business", "rate_limit_per_minute": 7});
    let changed = instance.patch(&path, OPERATOR_TOKEN, change.clone()).await.expect(200);
    for (member, value) in change.as_object().unwrap() {
        assert_eq!(&changed.body[member], value, "{member}");
    }
    let own = instance.get("/keys", &key).await;
    assert_eq!((own.text("tier").as_str(), &own.body["rate_limit_per_minute"]), ("business", &json!(7)));
    let changed = instance.patch(&path, OPERATOR_TOKEN, json!({"rate_limit_per_minute": null})).await.expect(200);
    assert_eq!((changed.text("name").as_str(), &changed.body["rate_limit_per_minute"]), ("Market", &json!(10_000)));
    for bad in [json!({"name": null}), json!({"status": "erased"}), json!({"tier": "gold"}), json!({"name": ""})] {
        assert_eq!(instance.patch(&path, OPERATOR_TOKEN, bad.clone()).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_key_changes_the_name_of_its_own_organization() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (id, admin) = instance.organization_with_key("admin").await;
    let path = format!("/organizations/{id}");
    let changed = instance.patch(&path, &admin, json!({"name": "Market"})).await.expect(200);
    assert_eq!(changed.text("name"), "Market");
    for wider in [json!({"tier": "enterprise"}), json!({"rate_limit_per_minute": 0})] {
        instance.patch(&path, &admin, wider).await.expect(403);
    }
    let other = format!("/organizations/{}", instance.organization("Other").await);
    instance.patch(&other, &admin, json!({"name": "Mine"})).await.expect(404);
    let manager = instance.key(&id, "manage").await.text("key");
    instance.patch(&path, &manager, json!({"name": "Mine"})).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_webhooks_refuses_a_webhook_url() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (id, key) = instance.organization_with_key("admin").await;
    let body = json!({"name": "Market", "webhook_url": "https://shop.example/hook"});
    let refused = instance.patch(&format!("/organizations/{id}"), &key, body.clone()).await.expect(400);
    assert_eq!(refused.body["details"][0]["field"], "webhook_url");
    instance.post("/organizations", OPERATOR_TOKEN, body).await.expect(400);
    assert_eq!(instance.get("/keys", &key).await.text("organization_name"), "Shop", "nothing was changed");
}
