//! Organizations and keys over HTTP: created, used, listed, refused.

use http::header;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenancy::TenancyConfig;
use uuid::Uuid;

use crate::instance::{Answer, Instance, OPERATOR_TOKEN, database, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_creates_an_organization_with_a_working_key() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let body = json!({"name": "Shop", "tier": "business"});
    let organization = instance.post("/organizations", OPERATOR_TOKEN, body).await;
    assert_eq!(organization.status, StatusCode::CREATED);
    assert_eq!(organization.body["rate_limit_per_minute"], 10_000);
    let id = organization.text("id");
    assert_eq!(instance.get(&format!("/organizations/{id}"), OPERATOR_TOKEN).await.body, organization.body);

    let made = instance.key(&id, "manage").await;
    let key = made.text("key");
    assert_eq!(made.headers["cache-control"], "no-store");
    assert!(key.starts_with("zap_live_") && key.len() == 64 && key.starts_with(&made.text("prefix")));

    let own = instance.get("/keys", &key).await;
    assert_eq!(own.status, StatusCode::OK);
    assert_eq!((own.text("organization_id"), own.text("key_id")), (id, made.text("id")));
    assert_eq!((own.text("role").as_str(), own.text("tier").as_str()), ("manage", "business"));
    assert_eq!(own.body["webhook_url"], json!(null));
    let by_other_header = send(instance.request(Method::GET, "/keys").header("x-api-key", &key)).await;
    assert_eq!(by_other_header.body, own.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_creates_lists_and_revokes_keys_of_its_organization() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (_, key) = instance.organization_with_key("manage").await;
    let wanted = json!({"name": "reader", "role": "consume", "environment": "test", "event_types": ["order.created"],
        "rate_limit_per_minute": 10, "content_dedup": true, "expires_at": "2100-01-01T00:00:00Z"});
    let made = instance.post("/keys", &key, wanted).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let reader = made.text("key");
    assert!(reader.starts_with("zap_test_"));
    assert_eq!(made.text("expires_at"), "2100-01-01T00:00:00.000Z");
    assert_eq!(instance.get("/keys", &reader).await.body["rate_limit_per_minute"], 10);

    let listed = instance.get("/keys/list", &key).await;
    let mut expected = made.body.clone();
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!(listed.body["keys"].as_array().unwrap().len(), 2);
    assert_eq!(listed.body["keys"][0], expected);
    assert!(!listed.body.to_string().contains(&reader));

    let path = format!("/keys/{}", made.text("id"));
    for _ in 0..2 {
        assert_eq!(instance.delete(&path, &key).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(instance.get("/keys", &reader).await.status, StatusCode::UNAUTHORIZED);
    let stored: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT convert_to(api_keys::text, 'UTF8') FROM api_keys").fetch_all(&pool).await.unwrap();
    assert!(
        stored.iter().all(|(row,)| !String::from_utf8_lossy(row).contains(&reader)),
        "the key is not stored in clear text"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_enforced() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let organization = instance.organization("Shop").await;
    for (role, may_produce, may_manage) in
        [("produce", true, false), ("consume", false, false), ("manage", true, true), ("admin", true, true)]
    {
        let key = instance.key(&organization, role).await.text("key");
        let expected = |allowed: bool, status| if allowed { status } else { StatusCode::FORBIDDEN };
        assert_eq!(instance.probe(&key).await, expected(may_produce, StatusCode::OK), "{role}");
        assert_eq!(instance.get("/keys/list", &key).await.status, expected(may_manage, StatusCode::OK), "{role}");
        let made = instance.post("/keys", &key, json!({"name": "new", "role": "produce"})).await;
        assert_eq!(made.status, expected(may_manage, StatusCode::CREATED), "{role}");
        assert_eq!(instance.get("/keys", &key).await.status, StatusCode::OK, "{role}");
        assert_eq!(instance.get("/organizations", &key).await.status, StatusCode::FORBIDDEN, "{role}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_creates_no_key_with_more_rights_than_its_own() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let organization = instance.organization("Shop").await;
    let wanted = json!({"name": "creator", "role": "manage", "event_types": ["a", "b"], "rate_limit_per_minute": 10});
    let creator =
        instance.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, wanted).await.text("key");
    for (field, wanted) in [
        ("role", json!({"name": "x", "role": "admin", "event_types": ["a"], "rate_limit_per_minute": 10})),
        ("event_types", json!({"name": "x", "role": "manage", "rate_limit_per_minute": 10})),
        ("event_types", json!({"name": "x", "role": "manage", "event_types": ["c"], "rate_limit_per_minute": 10})),
        (
            "rate_limit_per_minute",
            json!({"name": "x", "role": "manage", "event_types": ["a"], "rate_limit_per_minute": 11}),
        ),
        (
            "rate_limit_per_minute",
            json!({"name": "x", "role": "manage", "event_types": ["a"], "rate_limit_per_minute": 0}),
        ),
    ] {
        let refused = instance.post("/keys", &creator, wanted).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{field}");
        assert_eq!(refused.body["details"][0]["field"], field);
    }
    let less = json!({"name": "x", "role": "consume", "event_types": ["a"], "rate_limit_per_minute": 5});
    assert_eq!(instance.post("/keys", &creator, less).await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_unknown_and_malformed_ids_get_the_same_answer() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, key) = instance.organization_with_key("admin").await;
    let foreign_organization = instance.organization("Other").await;
    let foreign = instance.key(&foreign_organization, "admin").await;
    for id in [foreign.text("id"), Uuid::now_v7().to_string(), "nonsense".into(), "%ff".into(), organization.clone()] {
        assert_not_found(&instance.delete(&format!("/keys/{id}"), &key).await, &id);
    }
    assert_eq!(instance.probe(&foreign.text("key")).await, StatusCode::OK);
    for id in [Uuid::now_v7().to_string(), "nonsense".into(), "%ff".into()] {
        assert_not_found(&instance.get(&format!("/organizations/{id}"), OPERATOR_TOKEN).await, &id);
        let wanted = json!({"name": "x", "role": "produce"});
        assert_not_found(&instance.post(&format!("/organizations/{id}/keys"), OPERATOR_TOKEN, wanted).await, &id);
    }
}

fn assert_not_found(answer: &Answer, id: &str) {
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    let mut body = answer.body.clone();
    for field in ["instance", "request_id"] {
        body.as_object_mut().unwrap().remove(field);
    }
    let expected: Value = json!({"type": "urn:triggers:problem:not_found", "title": "Not Found", "status": 404,
        "error_code": "not_found", "detail": "there is nothing here", "message": "there is nothing here",
        "error": "there is nothing here"});
    assert_eq!(body, expected, "{id}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_routes_need_a_key_or_the_operator_token() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let closed = Instance::start_with(pool, TenancyConfig::new(None, false)).await;
    for (method, path) in [
        (Method::GET, "/probe"),
        (Method::GET, "/keys"),
        (Method::POST, "/keys"),
        (Method::GET, "/keys/list"),
        (Method::DELETE, "/keys/0192f0c1-2345-7abc-8def-0123456789ab"),
        (Method::GET, "/organizations"),
        (Method::POST, "/organizations"),
        (Method::GET, "/organizations/0192f0c1-2345-7abc-8def-0123456789ab"),
        (Method::POST, "/organizations/0192f0c1-2345-7abc-8def-0123456789ab/keys"),
    ] {
        for request in [
            instance.request(method.clone(), path),
            instance.request(method.clone(), path).bearer_auth("wrong"),
            instance.request(method.clone(), path).header("x-api-key", OPERATOR_TOKEN),
            closed.request(method.clone(), path).bearer_auth(OPERATOR_TOKEN),
        ] {
            let answer = send(request).await;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
            assert!(refused.contains(&answer.status), "{method} {path}: {}", answer.status);
            let has_instructions = answer.headers.contains_key(header::WWW_AUTHENTICATE)
                || answer.headers.contains_key(header::RETRY_AFTER);
            assert!(has_instructions, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_organizations_have_no_gap_and_no_duplicate() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(instance.organization(&format!("Shop {n}")).await);
    }
    let (mut listed, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = instance.get(&format!("/organizations{query}"), OPERATOR_TOKEN).await;
        assert_eq!(page.status, StatusCode::OK);
        listed.extend(
            page.body["organizations"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        assert_eq!(page.body["has_more"], !page.body["next_cursor"].is_null());
        match page.body["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    made.sort();
    assert_eq!(listed, made);
    for bad in ["?limit=0", "?limit=1001", "?cursor=x"] {
        assert_eq!(
            instance.get(&format!("/organizations{bad}"), OPERATOR_TOKEN).await.status,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_is_answered_with_the_field() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (_, key) = instance.organization_with_key("admin").await;
    for (path, token, field, body) in [
        ("/organizations", OPERATOR_TOKEN, "name", json!({"name": ""})),
        ("/organizations", OPERATOR_TOKEN, "name", json!({"name": "a\u{0}b"})),
        ("/organizations", OPERATOR_TOKEN, "name", json!({"tier": "free"})),
        ("/organizations", OPERATOR_TOKEN, "tier", json!({"name": "Shop", "tier": "platinum"})),
        (
            "/organizations",
            OPERATOR_TOKEN,
            "rate_limit_per_minute",
            json!({"name": "Shop", "rate_limit_per_minute": 4_000_000_000_u32}),
        ),
        (
            "/organizations",
            OPERATOR_TOKEN,
            "rate_limit_per_minute",
            json!({"name": "Shop", "rate_limit_per_minute": -1}),
        ),
        ("/organizations", OPERATOR_TOKEN, "webhook_url", json!({"name": "Shop", "webhook_url": "gopher://x"})),
        ("/keys", &key, "role", json!({"name": "x", "role": "root"})),
        ("/keys", &key, "name", json!({"name": "x".repeat(256), "role": "produce"})),
        ("/keys", &key, "event_types", json!({"name": "x", "role": "produce", "event_types": []})),
        ("/keys", &key, "expires_at", json!({"name": "x", "role": "produce", "expires_at": "2001-01-01T00:00:00Z"})),
        ("/keys", &key, "environment", json!({"name": "x", "role": "produce", "environment": "development"})),
    ] {
        let refused = instance.post(path, token, body.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(refused.body["details"][0]["field"], field, "{body}: {}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_utc_moves_out_of_the_calendar_is_invalid() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, key) = instance.organization_with_key("admin").await;
    let target = instance.key(&organization, "consume").await.text("id");
    for time in ["9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59", "0001-01-01T00:00:00+00:01", "tomorrow"] {
        let body = json!({"name": "a", "role": "consume", "expires_at": time});
        let answers = [
            instance.post("/keys", &key, body).await,
            instance.patch(&format!("/keys/{target}"), &key, json!({"expires_at": time})).await,
            instance.get(&format!("/audit?since={}", time.replace('+', "%2B")), &key).await,
            instance.get(&format!("/audit?until={}", time.replace('+', "%2B")), &key).await,
        ];
        for answer in answers {
            let answer = answer.expect(400);
            assert_eq!(answer.text("error_code"), "invalid_request", "{time}");
            assert!(answer.text("detail").contains("must be a time of RFC 3339"), "{}", answer.body);
        }
    }
}
