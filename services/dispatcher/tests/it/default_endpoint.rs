//! The default endpoint, whose URL is the `webhook_url` of its organization. Its routes need no Kafka.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::api::send;

use crate::system::{Answer, KEY, OPERATOR_TOKEN, OTHER_KEY, System};

async fn configure(system: &System, key: &str, url: &str) -> Answer {
    system.call(Method::POST, "/webhook/config", key, Some(json!({ "webhook_url": url }))).await
}

/// The `webhook_url` that each route shows for the organization of `KEY`.
async fn shown(system: &System) -> Value {
    let own = system.call(Method::GET, "/keys", KEY, None).await.expect(200).body["webhook_url"].clone();
    let path = format!("/organizations/{}", system.org);
    let one = system.call(Method::GET, &path, OPERATOR_TOKEN, None).await.expect(200);
    assert_eq!(one.body["webhook_url"], own, "GET of the organization");
    let all = system.call(Method::GET, "/organizations", OPERATOR_TOKEN, None).await.expect(200);
    let listed = all.body["organizations"].as_array().unwrap().iter().find(|one| one["id"] == json!(system.org));
    assert_eq!(listed.unwrap()["webhook_url"], own, "GET of all organizations");
    own
}

async fn endpoints(system: &System) -> Vec<Value> {
    let list = system.call(Method::GET, "/endpoints", KEY, None).await.expect(200);
    list.body["endpoints"].as_array().unwrap().clone()
}

#[tokio::test]
async fn webhook_config_sets_and_enables_the_default_endpoint() {
    let system = System::without_dispatcher().await;
    let made = configure(&system, KEY, "https://example.com/one").await.expect(200);
    assert_eq!((&made.body["success"], &made.body["webhook_url"]), (&json!(true), &json!("https://example.com/one")));
    assert!(made.text("secret").starts_with("whsec_"));
    assert_eq!(made.body["organization_id"], json!(system.org));
    assert!(made.body["updated_at"].is_string() && made.body["message"].is_string());
    let moved = configure(&system, KEY, "https://example.com/two").await.expect(200);
    assert_eq!(
        (&moved.body["endpoint_id"], &moved.body["webhook_url"]),
        (&made.body["endpoint_id"], &json!("https://example.com/two"))
    );
    assert!(moved.body.get("secret").is_none(), "the secret is kept and shown once");
    // The response says that events are delivered, so a disabled endpoint is enabled.
    system.change_endpoint(&made.body["endpoint_id"], json!({"enabled": false})).await;
    configure(&system, KEY, "https://example.com/two").await.expect(200);
    let [endpoint] = &*endpoints(&system).await else { panic!("one endpoint") };
    assert_eq!((&endpoint["enabled"], &endpoint["disabled_reason"]), (&json!(true), &Value::Null));
    for bad in [json!("http://10.0.0.1/"), json!(""), json!(null), json!(1)] {
        let body = json!({ "webhook_url": bad });
        let refused = system.call(Method::POST, "/webhook/config", KEY, Some(body)).await.expect(400);
        assert_eq!(refused.body["details"][0]["field"], "webhook_url", "{bad}");
    }
}

#[tokio::test]
async fn webhook_config_answers_on_all_mounts() {
    let system = System::without_dispatcher().await;
    let host = system.base_url.strip_suffix("/v1").unwrap();
    for (mount, refused) in [("/v1", 400), ("", 400), ("/api", 422)] {
        let request = |url: &str| {
            let request = system.client.post(format!("{host}{mount}/webhook/config")).header("x-api-key", KEY);
            send(request.json(&json!({ "webhook_url": url })))
        };
        let url = format!("https://example.com{mount}/hook");
        assert_eq!(request(&url).await.expect(200).text("webhook_url"), url);
        request("ftp://example.com/").await.expect(refused);
    }
    assert_eq!(endpoints(&system).await.len(), 1, "one endpoint, moved by each");
}

#[tokio::test]
async fn webhook_url_is_the_url_of_the_default_endpoint() {
    let system = System::without_dispatcher().await;
    let path = format!("/organizations/{}", system.org);
    let patch = async |key: &str, url: &Value| {
        system.call(Method::PATCH, &path, key, Some(json!({ "webhook_url": url }))).await
    };
    assert_eq!(shown(&system).await, Value::Null);
    let made = patch(KEY, &json!("https://example.com/one#x")).await.expect(200);
    assert_eq!(made.text("webhook_url"), "https://example.com/one", "normalized");
    assert!(made.text("webhook_secret").starts_with("whsec_"), "shown once, as the endpoint is new");
    assert_eq!(shown(&system).await, "https://example.com/one");
    let [endpoint] = &*endpoints(&system).await else { panic!("one endpoint") };
    assert_eq!(endpoint["url"], "https://example.com/one");

    let moved = patch(OPERATOR_TOKEN, &json!("https://example.com/two")).await.expect(200);
    assert!(moved.body.get("webhook_secret").is_none());
    assert_eq!(configure(&system, KEY, "https://example.com/3").await.expect(200).body["endpoint_id"], endpoint["id"]);
    assert_eq!(shown(&system).await, "https://example.com/3");
    system.change_endpoint(&endpoint["id"], json!({"url": "https://example.com/4"})).await;
    assert_eq!(shown(&system).await, "https://example.com/4", "the endpoint itself was changed");

    for bad in ["gopher://x", "", "https://user:secret@example.com/", "http://10.0.0.1/"] {
        let refused = patch(KEY, &json!(bad)).await.expect(400);
        assert_eq!(refused.body["details"][0]["field"], "webhook_url", "{bad}");
        let body = json!({"name": "New", "webhook_url": bad});
        let refused = system.call(Method::POST, "/organizations", OPERATOR_TOKEN, Some(body)).await.expect(400);
        assert_eq!(refused.body["details"][0]["field"], "webhook_url", "{bad}");
    }
    patch(KEY, &Value::Null).await.expect(400);
    assert_eq!(shown(&system).await, "https://example.com/4", "a refused request changes nothing");

    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    system.call(Method::DELETE, &path, KEY, None).await.expect(204);
    assert_eq!(shown(&system).await, Value::Null);
    let again = configure(&system, KEY, "https://example.com/5").await.expect(200);
    assert!(again.body["secret"].is_string() && again.body["endpoint_id"] != endpoint["id"], "a new endpoint");
}

#[tokio::test]
async fn a_new_organization_may_have_a_default_endpoint() {
    let system = System::without_dispatcher().await;
    let body = json!({"name": "New", "webhook_url": "https://example.com/new"});
    let made = system.call(Method::POST, "/organizations", OPERATOR_TOKEN, Some(body)).await.expect(201);
    assert_eq!(made.text("webhook_url"), "https://example.com/new");
    assert!(made.text("webhook_secret").starts_with("whsec_"));
    let path = format!("/organizations/{}/keys", made.text("id"));
    let body = json!({"name": "k", "role": "manage"});
    let key = system.call(Method::POST, &path, OPERATOR_TOKEN, Some(body)).await.expect(201).text("key");
    let list = system.call(Method::GET, "/endpoints", &key, None).await.expect(200);
    assert_eq!(list.body["endpoints"][0]["url"], "https://example.com/new");
    // The address of an organization without one is not that of another one.
    let body = json!({"name": "None"});
    let none = system.call(Method::POST, "/organizations", OPERATOR_TOKEN, Some(body)).await.expect(201);
    assert_eq!((&none.body["webhook_url"], none.body.get("webhook_secret")), (&Value::Null, None));
    let unknown = "/organizations/0192f0c1-2345-7abc-8def-0123456789ab";
    let body = json!({"webhook_url": "https://example.com/"});
    system.call(Method::PATCH, unknown, OPERATOR_TOKEN, Some(body)).await.expect(404);
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM endpoints").fetch_one(&system.pool).await.unwrap();
    assert_eq!(count, 1, "no endpoint without an organization");
}

#[tokio::test]
async fn concurrent_calls_create_one_default_endpoint() {
    let system = System::without_dispatcher().await;
    let path = format!("/organizations/{}", system.org);
    let (path, system) = (&path, &system);
    let calls = (0..16).map(|n| async move {
        let body = json!({"webhook_url": format!("https://example.com/{n}")});
        let (method, path) = if n % 2 == 0 { (Method::POST, "/webhook/config") } else { (Method::PATCH, &**path) };
        let answer = system.call(method, path, KEY, Some(body)).await.expect(200);
        answer.body.get("secret").is_some() || answer.body.get("webhook_secret").is_some()
    });
    // Changes of endpoints and organizations at the same time, which lock the same rows.
    let others = (0..16).map(|n| async move {
        let body =
            if n % 2 == 0 { json!({"name": format!("Shop {n}")}) } else { json!({"url": "https://example.com/"}) };
        let (method, path) = if n % 2 == 0 { (Method::PATCH, &**path) } else { (Method::POST, "/endpoints") };
        let status = system.call(method, path, KEY, Some(body)).await.status;
        assert!(status.is_success(), "{status}");
    });
    let (with_secret, _) =
        futures_util::future::join(futures_util::future::join_all(calls), futures_util::future::join_all(others)).await;
    assert_eq!(with_secret.iter().filter(|has_secret| **has_secret).count(), 1, "one call created the endpoint");
    assert_eq!(endpoints(system).await.len(), 1 + 8);
}

#[tokio::test]
async fn each_change_of_an_endpoint_has_an_audit_entry() {
    let system = System::without_dispatcher().await;
    let headers = json!({"authorization": "Bearer of-the-receiver"});
    let body = json!({"url": "https://example.com/a", "headers": headers});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201);
    system.change_endpoint(&made.body["id"], json!({"enabled": false})).await;
    let path = format!("/endpoints/{}", made.text("id"));
    system.call(Method::DELETE, &path, KEY, None).await.expect(204);
    system.call(Method::DELETE, &path, KEY, None).await.expect(404);
    configure(&system, KEY, "https://example.com/b").await.expect(200);
    configure(&system, KEY, "https://example.com/c").await.expect(200);
    let organization = format!("/organizations/{}", system.org);
    let body = json!({"webhook_url": "https://example.com/d"});
    system.call(Method::PATCH, &organization, OPERATOR_TOKEN, Some(body)).await.expect(200);

    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body;
    let entries: Vec<&Value> = page["entries"].as_array().unwrap().iter().rev().collect();
    let of_endpoints: Vec<_> = entries
        .iter()
        .filter(|entry| entry["action"].as_str().unwrap().starts_with("endpoint."))
        .map(|entry| (entry["action"].as_str().unwrap(), entry["actor"].as_str().unwrap()))
        .collect();
    let expected = [
        ("endpoint.created", "key"),
        ("endpoint.changed", "key"),
        ("endpoint.deleted", "key"),
        ("endpoint.created", "key"),
        ("endpoint.changed", "key"),
        ("endpoint.changed", "operator"),
    ];
    assert_eq!(of_endpoints, expected);
    let changed = entries.iter().find(|entry| entry["action"] == "endpoint.changed").unwrap();
    assert_eq!((&changed["target"], &changed["detail"]["enabled"]), (&made.body["id"], &json!(false)));
    assert_eq!((&changed["detail"]["has_headers"], &changed["address"]), (&json!(true), &json!("127.0.0.1")));
    assert!(changed["request_id"].is_string() && changed["key_prefix"].is_string());
    let text = page.to_string();
    assert!(!text.contains("whsec_") && !text.contains("of-the-receiver"), "an entry has no secret");
    let theirs = system.call(Method::GET, "/audit", OTHER_KEY, None).await.expect(200).body.to_string();
    assert!(!theirs.contains("endpoint."), "its own entries only");
}
