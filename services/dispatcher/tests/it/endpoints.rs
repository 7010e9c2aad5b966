//! The routes of endpoints. They need no Kafka.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::system::{KEY, OTHER_KEY, System};

async fn version(system: &System) -> i64 {
    let (version,): (i64,) =
        sqlx::query_as("SELECT version FROM endpoints_version").fetch_one(&system.pool).await.unwrap();
    version
}

#[tokio::test]
async fn every_change_of_an_endpoint_raises_the_version() {
    let system = System::without_dispatcher().await;
    let body =
        json!({"url": "https://example.com/a#b", "event_types": ["order.*"], "description": "d", "timeout_seconds": 5});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert!(made.body["secret"].as_str().unwrap().starts_with("whsec_"));
    let path = format!("/endpoints/{}", made.body["id"].as_str().unwrap());
    assert_eq!(version(&system).await, 1);

    let shown = system.call(Method::GET, &path, KEY, None).await;
    let mut wanted = made.body.clone();
    wanted.as_object_mut().unwrap().remove("secret");
    assert_eq!((shown.status, &shown.body), (StatusCode::OK, &wanted));
    assert_eq!(shown.body["url"], "https://example.com/a");
    assert_eq!(
        (&shown.body["retry_schedule"], &shown.body["status"]),
        (&json!([30, 120, 600, 3600]), &json!("enabled"))
    );
    assert_eq!(system.call(Method::GET, "/endpoints", KEY, None).await.body, json!({"endpoints": [wanted]}));

    let changed = system.call(Method::PATCH, &path, KEY, Some(json!({"enabled": false, "retry_schedule": [1]}))).await;
    assert_eq!((&changed.body["status"], &changed.body["disabled_reason"]), (&json!("disabled"), &json!("requested")));
    assert_eq!((&changed.body["retry_schedule"], &changed.body["timeout_seconds"]), (&json!([1]), &json!(5)));
    assert_eq!(version(&system).await, 2);

    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(version(&system).await, 3);
    for (method, body) in [(Method::GET, None), (Method::DELETE, None), (Method::PATCH, Some(json!({})))] {
        assert_eq!(system.call(method, &path, KEY, body).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(version(&system).await, 3);
    assert_eq!(system.call(Method::GET, "/endpoints", KEY, None).await.body, json!({"endpoints": []}));
}

#[tokio::test]
async fn foreign_unknown_and_malformed_ids_are_not_found() {
    let system = System::without_dispatcher().await;
    let made = system.call(Method::POST, "/endpoints", OTHER_KEY, Some(json!({"url": "https://example.com/"}))).await;
    let theirs = made.body["id"].as_str().unwrap().to_owned();
    let mut bodies = Vec::new();
    for id in [theirs.as_str(), "0192f0c1-2345-7abc-8def-0123456789ab", "nonsense", "%00", "%ff"] {
        for (method, body) in
            [(Method::GET, None), (Method::PATCH, Some(json!({"enabled": false}))), (Method::DELETE, None)]
        {
            let mut answer = system.call(method, &format!("/endpoints/{id}"), KEY, body).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
            for varying in ["instance", "request_id"] {
                answer.body.as_object_mut().unwrap().remove(varying);
            }
            bodies.push(answer.body);
        }
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "all responses are the same");
    assert_eq!(system.call(Method::GET, "/endpoints", KEY, None).await.body, json!({"endpoints": []}));
    let still = system.call(Method::GET, &format!("/endpoints/{theirs}"), OTHER_KEY, None).await;
    assert_eq!((still.status, &still.body["enabled"]), (StatusCode::OK, &json!(true)));
}

#[tokio::test]
async fn invalid_and_planned_fields_are_refused_by_name() {
    let system = System::without_dispatcher().await;
    let url = "https://example.com/";
    for (body, field) in [
        (json!({}), "url"),
        (json!({"url": "ftp://example.com/"}), "url"),
        (json!({"url": url, "ordered": "yes"}), "ordered"),
        (json!({"url": url, "filter": {"a": 1}}), "filter"),
        (json!({"url": url, "rate_limit_per_second": 0}), "rate_limit_per_second"),
        (json!({"url": url, "ack_on_success": 1}), "ack_on_success"),
        (json!({"url": url, "headers": {"Host": "x"}}), "headers"),
        (json!({"url": url, "timeout_seconds": 0}), "timeout_seconds"),
    ] {
        let answer = system.call(Method::POST, "/endpoints", KEY, Some(body)).await;
        assert_eq!((answer.status, &answer.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)));
        assert_eq!(answer.body["error_code"], "invalid_endpoint");
    }
    assert_eq!(system.call(Method::POST, "/endpoints", KEY, Some(json!([]))).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(version(&system).await, 0);
}

#[tokio::test]
async fn unknown_members_and_private_names_are_refused_by_name() {
    let system = System::without_dispatcher().await;
    let raw = json!({"$serde_json::private::RawValue": "\"http://127.0.0.1:9/\""});
    let url = "https://example.com/";
    for (path, body, field) in [
        ("/endpoints", json!({ "url": raw }), "url.$serde_json::private::RawValue"),
        ("/endpoints", json!({"url": url, "headers": { "x-a": raw }}), "headers.x-a.$serde_json::private::RawValue"),
        ("/endpoints", json!({"url": url, "event_type": ["a"]}), "event_type"),
        ("/endpoints", json!({"url": url, "headers": {"X-A": "1", "x-a": "2"}}), "headers"),
        ("/endpoints", json!({"url": url, "headers": {"X-Forwarded-For": "10.0.0.1"}}), "headers"),
        ("/webhook/config", json!({ "webhook_url": raw }), "webhook_url.$serde_json::private::RawValue"),
        ("/webhook/config", json!({"webhook_url": url, "url": url}), "url"),
    ] {
        let answer = system.call(Method::POST, path, KEY, Some(body)).await;
        assert_eq!((answer.status, &answer.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)));
    }
    let twice = r#"{"url": "https://example.com/", "headers": {"x-a": "1", "x-a": "2"}}"#;
    let url = format!("{}/endpoints", system.base_url);
    let request = system.client.post(url).bearer_auth(KEY).header("content-type", "application/json").body(twice);
    let answer = testkit::api::send(request).await;
    assert_eq!((answer.status, &answer.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("headers.x-a")));
    assert_eq!(version(&system).await, 0, "nothing was made");
}

#[tokio::test]
async fn a_patch_with_null_empties_only_what_may_be_empty() {
    let system = System::without_dispatcher().await;
    let body = json!({"url": "https://example.com/", "timeout_seconds": 7, "description": "d", "max_in_flight": 3});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.body;
    let path = format!("/endpoints/{}", made["id"].as_str().unwrap());
    for name in ["url", "event_types", "headers", "timeout_seconds", "retry_schedule", "enabled"] {
        let answer = system.call(Method::PATCH, &path, KEY, Some(json!({ name: null }))).await;
        assert_eq!((answer.status, &answer.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(name)));
    }
    let emptied = json!({"description": null, "max_in_flight": null, "filter": null, "rate_limit_per_second": null});
    let answer = system.call(Method::PATCH, &path, KEY, Some(emptied)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(
        (&answer.body["description"], &answer.body["max_in_flight"], &answer.body["timeout_seconds"]),
        (&Value::Null, &Value::Null, &json!(7))
    );
}

#[tokio::test]
async fn only_an_unrestricted_manage_key_may_write_endpoints() {
    let system = System::without_dispatcher().await;
    let key = async |more: Value| {
        let mut body = json!({"name": "k", "environment": "test"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = system.call(Method::POST, "/keys", KEY, Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body["key"].as_str().unwrap().to_owned()
    };
    let body = |member: &str| Some(json!({ member: "https://example.com/" }));
    let consumer = key(json!({"role": "consume"})).await;
    let restricted = key(json!({"role": "manage", "event_types": ["a"]})).await;
    for key in [&consumer, &restricted] {
        for (path, member) in [("/endpoints", "url"), ("/webhook/config", "webhook_url")] {
            assert_eq!(system.call(Method::POST, path, key, body(member)).await.status, StatusCode::FORBIDDEN);
        }
    }
    assert_eq!(system.call(Method::GET, "/endpoints", &consumer, None).await.status, StatusCode::FORBIDDEN);
    let manager = key(json!({"role": "manage"})).await;
    assert_eq!(system.call(Method::POST, "/endpoints", &manager, body("url")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_organization_has_a_bounded_number_of_endpoints() {
    let system = System::without_dispatcher().await;
    let make = || system.call(Method::POST, "/endpoints", KEY, Some(json!({"url": "https://example.com/"})));
    let answers = futures_util::future::join_all((0..105).map(|_| make())).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(made, 100);
    let refused = answers.iter().find(|answer| answer.status != StatusCode::CREATED).unwrap();
    assert_eq!((refused.status, &refused.body["error_code"]), (StatusCode::CONFLICT, &json!("too_many_endpoints")));
    let list = system.call(Method::GET, "/endpoints", KEY, None).await.body;
    assert_eq!(list["endpoints"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn endpoints_are_enabled_and_disabled_by_their_routes() {
    let system = System::without_dispatcher().await;
    let body = json!({"url": "https://example.com/"});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).body;
    let path = |action: &str| format!("/endpoints/{}/{action}", made["id"].as_str().unwrap());
    let disabled = system.call(Method::POST, &path("disable"), KEY, None).await.expect(200).body;
    assert_eq!(
        (&disabled["enabled"], &disabled["disabled_reason"], disabled.get("secret")),
        (&json!(false), &json!("requested"), None)
    );
    system.call(Method::POST, &path("disable"), KEY, None).await.expect(200);
    let enabled = system.call(Method::POST, &path("enable"), KEY, None).await.expect(200).body;
    assert_eq!((&enabled["enabled"], &enabled["disabled_reason"]), (&json!(true), &Value::Null));
    for action in ["enable", "disable"] {
        system.call(Method::POST, &path(action), OTHER_KEY, None).await.expect(404);
    }
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body;
    let actions: Vec<_> = page["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions[..3], ["endpoint.enabled", "endpoint.disabled", "endpoint.disabled"]);
}

#[tokio::test]
async fn changes_of_endpoints_are_bounded_per_hour() {
    let system = System::without_dispatcher().await;
    let create = async |key: &str| {
        system.call(Method::POST, "/endpoints", key, Some(json!({"url": "https://example.com/"}))).await
    };
    let made = create(KEY).await.expect(201);
    let set = async |sql: &'static str| {
        assert_eq!(sqlx::query(sql).execute(&system.pool).await.unwrap().rows_affected(), 1);
    };
    set("UPDATE endpoint_changes SET changes = 999").await;
    create(KEY).await.expect(201);
    let path = format!("/endpoints/{}", made.text("id"));
    let changes = [
        (Method::POST, "/endpoints".to_owned(), Some(json!({"url": "https://example.com/"}))),
        (Method::POST, "/webhook/config".to_owned(), Some(json!({"webhook_url": "https://example.com/"}))),
        (Method::PATCH, path.clone(), Some(json!({"timeout_seconds": 3}))),
        (Method::POST, format!("{path}/disable"), None),
        (Method::POST, format!("{path}/secret/rotate"), None),
        (Method::DELETE, path.clone(), None),
    ];
    let before = version(&system).await;
    for (method, path, body) in changes {
        let refused = system.call(method, &path, KEY, body).await.expect(429);
        assert_eq!(refused.text("error_code"), "rate_limit_exceeded", "{path}");
    }
    assert_eq!(version(&system).await, before, "nothing was changed");
    create(OTHER_KEY).await.expect(201);
    set("UPDATE endpoint_changes SET started_at = now() - interval '61 minutes' WHERE changes > 1").await;
    create(KEY).await.expect(201);
}
