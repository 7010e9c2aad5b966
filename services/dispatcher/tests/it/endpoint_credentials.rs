//! The members `auth` and `compat_signature` of endpoints: what is kept, shown, refused and signed. No secret is shown.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use schemas::records::DeliveryOutcome;
use serde_json::{Value, json};
use sha2::Sha256;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, System};

const SECRETS: [&str; 4] = ["hush-password", "hush-token", "hush-client-secret", "hush-compat-secret"];

fn path(endpoint: &Value) -> String {
    format!("/endpoints/{}", endpoint["id"].as_str().unwrap())
}

fn every_type() -> [Value; 3] {
    [
        json!({"type": "basic", "username": "u", "password": SECRETS[0]}),
        json!({"type": "bearer", "token": SECRETS[1]}),
        json!({"type": "oauth2", "token_url": "https://id.example/token", "client_id": "c",
               "client_secret": SECRETS[2], "audience": "a"}),
    ]
}

#[tokio::test]
async fn secrets_of_auth_are_sealed_and_never_shown() {
    let system = System::without_dispatcher().await;
    let mut answers = Vec::new();
    for auth in every_type() {
        let signature = json!({"format": "timestamp-v1", "header": "X-Sig", "secret": SECRETS[3]});
        let body = json!({"url": "https://a.example/", "auth": auth, "compat_signature": signature});
        let made = system.call(Method::POST, "/endpoints", KEY, Some(body.clone())).await.expect(201).body;
        assert_eq!(made["auth"]["type"], auth["type"]);
        let shown = json!({"format": "timestamp-v1", "header": "x-sig", "has_secret": true});
        assert_eq!(made["compat_signature"], shown);
        let changed = system.call(Method::PATCH, &path(&made), KEY, Some(body)).await.expect(200).body;
        let read = system.call(Method::GET, &path(&made), KEY, None).await.expect(200).body;
        assert_eq!((&read["auth"], &read["compat_signature"]), (&made["auth"], &shown));
        answers.extend([made, changed, read]);
    }
    for path in ["/endpoints", "/audit"] {
        answers.push(system.call(Method::GET, path, KEY, None).await.expect(200).body);
    }
    let oauth2 = json!({"type": "oauth2", "token_url": "https://id.example/token", "client_id": "c", "audience": "a"});
    assert!(answers.iter().any(|answer| answer["auth"] == oauth2), "public members are shown");
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT e::text FROM endpoints e").fetch_all(&system.pool).await.unwrap();
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT a::text FROM audit_log a").fetch_all(&system.pool).await.unwrap();
    assert!(rows.len() == 3 && audited.len() >= 6, "{} rows, {} entries", rows.len(), audited.len());
    let texts = answers.iter().map(Value::to_string).chain(rows).chain(audited);
    for text in texts {
        for secret in SECRETS {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(secret) && !text.contains(&hex), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn moving_an_endpoint_drops_its_auth() {
    let system = System::without_dispatcher().await;
    let auth = json!({"type": "bearer", "token": "t"});
    let body = json!({"url": "https://a.example/x", "auth": auth,
                      "compat_signature": {"format": "sha256-hex", "header": "x-sig"}});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).body;
    let patch = async |body: Value| system.call(Method::PATCH, &path(&made), KEY, Some(body)).await.expect(200).body;
    assert_eq!(patch(json!({"url": "https://a.example/y"})).await["auth"], json!({"type": "bearer"}));
    let moved = patch(json!({"url": "https://b.example/"})).await;
    assert_eq!((&moved["auth"], &moved["compat_signature"]["header"]), (&Value::Null, &json!("x-sig")));
    assert_eq!(patch(json!({"url": "https://c.example/", "auth": auth})).await["auth"], json!({"type": "bearer"}));
    let emptied = patch(json!({"auth": null, "compat_signature": null})).await;
    assert_eq!((&emptied["auth"], &emptied["compat_signature"]), (&Value::Null, &Value::Null));
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM endpoints WHERE sealed_auth IS NOT NULL OR sealed_compat_signature IS NOT NULL",
    )
    .fetch_one(&system.pool)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_deleted_endpoint_keeps_no_credentials() {
    let system = System::without_dispatcher().await;
    let body = json!({"url": "https://a.example/", "auth": {"type": "bearer", "token": "t"},
                      "compat_signature": {"format": "sha256-hex", "header": "x-sig"}});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).body;
    system.call(Method::DELETE, &path(&made), KEY, None).await.expect(204);
    let sql = "SELECT count(*) FROM endpoints WHERE num_nulls(auth, sealed_auth, compat_signature,
                                                              sealed_compat_signature) = 4";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&system.pool).await.unwrap(), 1);
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_by_place() {
    let system = System::without_dispatcher().await;
    let url = "https://a.example/";
    let bearer = json!({"type": "bearer", "token": "t"});
    let own = json!({"Authorization": "x"});
    let signature = json!({"format": "sha256-hex", "header": "X-Sig"});
    for (body, field) in [
        (json!({"url": url, "auth": bearer, "headers": own}), "auth"),
        (json!({"url": url, "auth": {"type": "bearer", "tokne": "t"}}), "auth.tokne"),
        (
            json!({"url": url, "auth": {"type": "oauth2", "token_url": "http://10.0.0.1/", "client_id": "c",
                                     "client_secret": "s"}}),
            "auth.token_url",
        ),
        (json!({"url": url, "auth": {"type": "mtls", "certificate": "x", "private_key": "y"}}), "auth.certificate"),
        (json!({"url": url, "compat_signature": signature, "headers": {"x-sig": "1"}}), "compat_signature.header"),
        (
            json!({"url": url, "compat_signature": {"format": "sha256-hex", "header": "webhook-signature"}}),
            "compat_signature.header",
        ),
        (
            json!({"url": url, "compat_signature": {"format": "sha256-hex", "header": "x", "secret": "short"}}),
            "compat_signature.secret",
        ),
    ] {
        let refused = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(400);
        assert_eq!(refused.body["details"][0]["field"], field);
    }
    let body = json!({"url": url, "auth": bearer});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).body;
    let refused = system.call(Method::PATCH, &path(&made), KEY, Some(json!({"headers": own}))).await.expect(400);
    assert_eq!(refused.body["details"][0]["field"], "auth");
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM endpoints WHERE sealed_headers IS NULL")
        .fetch_one(&system.pool)
        .await
        .unwrap();
    assert_eq!(kept, 1, "a refused change changes nothing");
    system.call(Method::PATCH, &path(&made), KEY, Some(json!({"headers": own, "auth": null}))).await.expect(200);
}

fn hex(key: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_second_signature_arrives_in_its_format() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let signature = json!({"format": "timestamp-v1", "header": "X-Shop-Signature", "secret": SECRETS[3]});
    let endpoint = system.endpoint(&receiver, json!({ "compat_signature": signature })).await;
    let deliver = async || {
        let event = system.event("a");
        system.publish(&event).await;
        let attempt = system.wait_for_reports(event.event_id, 1).await.remove(0);
        assert_eq!(attempt.outcome, DeliveryOutcome::Delivered);
        receiver.take().remove(0)
    };
    let request = deliver().await;
    let timestamp = request.header("webhook-timestamp");
    let wanted = hex(SECRETS[3], &[timestamp.as_bytes(), b".", &request.body]);
    assert_eq!(request.header("x-shop-signature"), format!("t={timestamp},v1={wanted}"));
    let secret = endpoint["secret"].as_str().unwrap();
    standardwebhooks::Webhook::new(secret).unwrap().verify(&request.body, &request.headers).unwrap();

    let signature = json!({"format": "sha256-hex", "header": "X-Hub-Signature-256"});
    system.change_endpoint(&endpoint["id"], json!({ "compat_signature": signature })).await;
    let request = deliver().await;
    assert_eq!(request.header("x-hub-signature-256"), format!("sha256={}", hex(secret, &[&request.body])));
    assert!(!request.headers.contains_key("x-shop-signature"));
}
