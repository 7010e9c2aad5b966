//! Clients that make their organization and key by themselves, look at the key, and rotate it.

use serde_json::{Value, json};

use super::wire::{Library, OldClient};
use super::{Roles, assert_accepted, assert_utc_millis, error_text};

/// Signs up with `body`; the answer.
async fn generate(roles: &Roles, mount: &str, body: &str) -> Value {
    let client = roles.anonymous(Library::Curl).with_header("Content-Type: application/json");
    let made = client.send(&format!("POST {mount}/keys/generate"), body).await.expect(201);
    assert_eq!(made.header("cache-control"), "no-store", "the answer holds a secret");
    let answer = made.json();
    // Shell scripts of old clients cut these out of the text.
    for name in ["api_key", "organization_id"] {
        let text = format!("\"{name}\":\"{}\"", answer[name].as_str().unwrap());
        assert_eq!(made.text.matches(&text).count(), 1, "{}", made.text);
    }
    assert!(answer["key_id"].is_string() && answer["warning"].is_string(), "{answer}");
    assert_utc_millis(&answer["created_at"]);
    answer
}

fn with_key(roles: &Roles, key: &Value) -> OldClient {
    roles.anonymous(Library::Curl).with_header(&format!("X-API-Key: {}", key.as_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_generates_its_key_on_every_mount() {
    let roles = Roles::start().await;
    for (mount, body, name, tier, limit) in [
        ("", r#"{"organization_name": "Test Organization"}"#, "Test Organization", "free", 100),
        ("/v1", r#"{"organization_name":"Shop","tier":"business"}"#, "Shop", "business", 10_000),
        (
            "/api",
            r#"{"organization_name":"Benchmark Test","tier":"enterprise"}"#,
            "Benchmark Test",
            "enterprise",
            100_000,
        ),
        ("/api", r#"{"org_name": "test-org", "tier": "pro"}"#, "test-org", "pro", 1_000),
    ] {
        let made = generate(&roles, mount, body).await;
        let of = |answer: &Value| {
            let members = ["organization_id", "organization_name", "tier", "rate_limit_per_minute"];
            members.map(|member| answer[member].clone())
        };
        assert_eq!(of(&made)[1..], [json!(name), json!(tier), json!(limit)]);

        let client = with_key(&roles, &made["api_key"]);
        let own = client.send(&format!("GET {mount}/keys"), "").await.expect(200);
        assert_eq!(own.header("x-ratelimit-limit"), limit.to_string());
        let own = own.json();
        assert_eq!(of(&own), of(&made), "{own}");
        assert_eq!((&own["webhook_url"], own["role"].as_str()), (&json!(null), Some("admin")), "{own}");
        assert_utc_millis(&own["created_at"]);
        assert!(!own.to_string().contains(made["api_key"].as_str().unwrap()), "the key is shown once");
        let sender = client.with_header("Content-Type: application/json");
        let accepted = sender.send("POST /api/events", r#"{"type":"a","data":1}"#).await.expect(202);
        assert_accepted(&accepted, "a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_key_dies_at_once_when_it_is_rotated() {
    let roles = Roles::start().await;
    let mut made = generate(&roles, "/api", r#"{"organization_name": "Test Organization", "tier": "free"}"#).await;
    for mount in super::MOUNTS {
        let old = with_key(&roles, &made["api_key"]);
        old.send(&format!("GET {mount}/keys"), "").await.expect(200);
        // `curl -X POST` without data sends neither a body nor its length.
        let rotated = old.send(&format!("POST {mount}/keys/rotate"), "").await.expect(200);
        assert_eq!(rotated.header("cache-control"), "no-store", "the answer holds a secret");
        let rotated = rotated.json();
        assert_ne!(rotated["api_key"], made["api_key"]);
        for member in ["organization_id", "organization_name"] {
            assert_eq!(rotated[member], made[member]);
        }
        assert!(rotated["key_id"].is_string(), "{rotated}");
        assert_utc_millis(&rotated["rotated_at"]);
        assert_eq!(rotated["old_key_expires_at"], rotated["rotated_at"], "no overlap");

        for request in ["GET /keys", "GET /v1/inbox", "POST /api/keys/rotate"] {
            let refused = old.send(request, "").await.expect(401);
            assert!(error_text(&refused).starts_with("Invalid API key"), "{}", refused.text);
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
        let own = with_key(&roles, &rotated["api_key"]).send(&format!("GET {mount}/keys"), "").await.expect(200).json();
        let same = ["organization_id", "organization_name", "key_id"];
        assert_eq!(same.map(|member| &own[member]), same.map(|member| &rotated[member]));
        assert_eq!(own["role"], "admin", "the new key has the rights of the old one");
        made = rotated;
    }
}
