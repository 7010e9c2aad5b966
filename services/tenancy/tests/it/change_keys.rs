//! Keys are patched, rotated and revoked, within the rights of the key that does it, on every instance.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::instance::{Instance, OPERATOR_TOKEN, SOON, database, until_probe};

/// The guaranteed bound.
const WITHIN: Duration = Duration::from_secs(1);

/// Creates a key as the operator; returns the key and its path.
async fn key_like(instance: &Instance, organization: &str, wanted: Value) -> (String, String) {
    let made = instance.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, wanted).await.expect(201);
    (made.text("key"), format!("/keys/{}", made.text("id")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_changes_only_the_given_members() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, admin) = instance.organization_with_key("admin").await;
    let (_, path) = key_like(&instance, &organization, json!({"name": "x", "role": "produce"})).await;
    let all = json!({"name": "y", "role": "consume", "event_types": ["a"], "rate_limit_per_minute": 5,
        "content_dedup": true, "expires_at": "2100-01-01T00:00:00.000Z"});
    let changed = instance.patch(&path, &admin, all.clone()).await.expect(200);
    for (member, value) in all.as_object().unwrap() {
        assert_eq!(&changed.body[member], value, "{member}");
    }
    assert_eq!(instance.patch(&path, &admin, json!({})).await.expect(200).body, changed.body);
    let open = json!({"event_types": null, "rate_limit_per_minute": null, "expires_at": null});
    let opened = instance.patch(&path, &admin, open.clone()).await.expect(200);
    for member in open.as_object().unwrap().keys() {
        assert!(opened.body[member].is_null(), "{member}");
    }
    assert_eq!(opened.text("name"), "y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_patch_changes_nothing() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, admin) = instance.organization_with_key("admin").await;
    let (_, path) = key_like(&instance, &organization, json!({"name": "x", "role": "produce"})).await;
    let before = instance.get("/keys/list", &admin).await.body;
    for bad in [
        r#"{"nam": "y"}"#,
        r#"{"name": "y", "name": "z"}"#,
        r#"{"name": null}"#,
        r#"{"role": null}"#,
        r#"{"content_dedup": null}"#,
        r#"{"event_types": []}"#,
        r#"{"expires_at": "2001-01-01T00:00:00Z"}"#,
        r#"{"environment": "test"}"#,
    ] {
        let request = instance.request(reqwest::Method::PATCH, &path).bearer_auth(&admin);
        let refused = crate::instance::send(request.header("content-type", "application/json").body(bad)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}: {}", refused.body);
        assert_eq!(refused.text("error_code"), "invalid_request", "{bad}");
    }
    assert_eq!(instance.get("/keys/list", &admin).await.body, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_changes_no_key_with_more_rights_than_its_own() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, admin) = instance.organization_with_key("admin").await;
    let (manager, own) = key_like(&instance, &organization, json!({"name": "m", "role": "manage"})).await;
    let narrow = json!({"name": "n", "role": "manage", "event_types": ["a"]});
    let (narrow, _) = key_like(&instance, &organization, narrow).await;
    let (_, open) = key_like(&instance, &organization, json!({"name": "o", "role": "consume"})).await;
    let unlimited = json!({"name": "u", "role": "produce", "rate_limit_per_minute": 0});
    let (_, unlimited) = key_like(&instance, &organization, unlimited).await;
    let admin_path = format!("/keys/{}", instance.get("/keys", &admin).await.text("key_id"));
    for (path, key) in [(&admin_path, &manager), (&admin_path, &narrow), (&open, &narrow)] {
        instance.delete(path, key).await.expect(403);
        instance.patch(path, key, json!({"name": "z"})).await.expect(403);
    }
    for wider in [json!({"role": "admin"}), json!({"rate_limit_per_minute": 0})] {
        instance.patch(&own, &manager, wider.clone()).await.expect(403);
        instance.patch(&open, &manager, wider).await.expect(403);
    }
    assert_eq!(instance.get("/keys", &admin).await.status, StatusCode::OK, "the admin key still works");
    instance.delete(&unlimited, &admin).await.expect(204);
    instance.delete(&open, &manager).await.expect(204);
    instance.patch(&open, &manager, json!({"name": "z"})).await.expect(404);
    instance.delete(&own, &manager).await.expect(204);
    assert_eq!(instance.get("/keys", &manager).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_dies_at_once_on_every_instance() {
    let (_database, pool) = database().await;
    let (one, other) = (Instance::start(pool.clone()).await, Instance::start(pool).await);
    let (organization, _) = one.organization_with_key("admin").await;
    let wanted = json!({"name": "m", "role": "manage", "event_types": ["a"], "rate_limit_per_minute": 7});
    let (old, old_path) = key_like(&one, &organization, wanted).await;
    assert_eq!(other.probe(&old).await, StatusCode::OK);
    let rotated = one.post("/keys/rotate", &old, json!({"overlap_seconds": 0})).await.expect(200);
    assert_eq!(rotated.header("cache-control"), Some("no-store"));
    assert_eq!(rotated.text("old_key_expires_at"), rotated.text("rotated_at"));
    assert_eq!((rotated.text("organization_id"), rotated.text("organization_name")), (organization, "Shop".to_owned()));
    assert_eq!(one.probe(&old).await, StatusCode::UNAUTHORIZED, "at once on the instance that rotated it");
    until_probe(&other, &old, StatusCode::UNAUTHORIZED, WITHIN).await;
    let new = rotated.text("api_key");
    let listed = other.get("/keys/list", &new).await.expect(200);
    let of = |id: &str| listed.body["keys"].as_array().unwrap().iter().find(|key| key["id"] == id).unwrap().clone();
    let (new_row, old_row) = (of(&rotated.text("key_id")), of(old_path.trim_start_matches("/keys/")));
    for member in ["name", "role", "event_types", "rate_limit_per_minute", "environment", "expires_at"] {
        assert_eq!(new_row[member], old_row[member], "{member}");
    }
    assert!(!old_row["revoked_at"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_lives_on_for_its_overlap() {
    let (_database, pool) = database().await;
    let (one, other) = (Instance::start(pool.clone()).await, Instance::start(pool).await);
    let (_, old) = one.organization_with_key("manage").await;
    assert_eq!(other.probe(&old).await, StatusCode::OK);
    let rotated = one.post("/keys/rotate", &old, json!({"overlap_seconds": 3})).await.expect(200);
    assert_eq!(one.probe(&rotated.text("api_key")).await, StatusCode::OK);
    assert_eq!(one.probe(&old).await, StatusCode::OK, "the overlap has not passed");
    for instance in [&one, &other] {
        until_probe(instance, &old, StatusCode::UNAUTHORIZED, SOON).await;
    }
    let new = rotated.text("api_key");
    for bad in [json!({"overlap_seconds": 2_592_001}), json!({"overlap_seconds": -1}), json!({"overlap": 1})] {
        one.post("/keys/rotate", &new, bad).await.expect(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrowed_key_is_narrow_on_every_instance_within_a_second() {
    let (_database, pool) = database().await;
    let (one, other) = (Instance::start(pool.clone()).await, Instance::start(pool).await);
    let (organization, admin) = one.organization_with_key("admin").await;
    let (key, path) = key_like(&one, &organization, json!({"name": "x", "role": "produce"})).await;
    assert_eq!((one.probe(&key).await, other.probe(&key).await), (StatusCode::OK, StatusCode::OK));
    one.patch(&path, &admin, json!({"role": "consume"})).await.expect(200);
    assert_eq!(one.probe(&key).await, StatusCode::FORBIDDEN, "at once on the instance that changed it");
    // The probe is the traffic: it uses the cached key all the time.
    until_probe(&other, &key, StatusCode::FORBIDDEN, WITHIN).await;
}
