//! Webhooks to a receiver that asks for the certificate of its client.

use std::time::Duration;

use devstack::testing::eventually;
use serde_json::json;
use testkit::certificates::Authority;
use testkit::tls_receiver::TlsReceiver;

use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_opens_the_receiver_to_its_endpoint_alone() {
    let system = System::shared().await;
    let authority = Authority::new();
    let ca = system.folder().join("webhook-ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    // The dispatcher trusts the authorities of its system: here, those of the test.
    let settings = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("SSL_CERT_FILE", ca.to_str().unwrap())];
    let (_ingest, _materializer, api) = system.inbox_roles(&settings[..1]).await;
    let dispatcher = system.role("dispatcher", &settings);
    dispatcher.ready().await;
    let receiver = TlsReceiver::start(&authority.security(&["localhost"], &[])).await;
    let client = authority.security(&["client.example"], &[]);
    let auth = json!({"type": "mtls", "certificate": client.certificate, "private_key": client.key});
    let endpoint = async |path: &str, more: serde_json::Value| {
        let mut body = json!({"url": receiver.url("localhost", path), "retry_schedule": []});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/v1/endpoints", &body).await.expect(201).json()
    };
    let with = endpoint("with", json!({ "auth": auth })).await;
    let without = endpoint("without", json!({})).await;
    assert_eq!(with["auth"]["type"], "mtls");
    assert!(with["auth"]["certificate_sha256"].is_string() && !with.to_string().contains("BEGIN"), "{with}");

    let event = api.accept("order.created", &json!({"id": 7})).await;
    let deliveries = eventually(PATIENCE, "both deliveries are shown", || async {
        let reply = api.get(&format!("/v1/events/{event}/deliveries")).await;
        // The view may not have the event yet.
        let page = (reply.status == 200).then(|| reply.json())?;
        let deliveries = page["deliveries"].as_array().unwrap().clone();
        let is_finished = |one: &serde_json::Value| one["status"] == "delivered" || one["status"] == "failed";
        (deliveries.len() == 2 && deliveries.iter().all(is_finished)).then_some(deliveries)
    })
    .await;
    let of = |endpoint: &serde_json::Value| {
        deliveries.iter().find(|delivery| delivery["endpoint_id"] == endpoint["id"]).unwrap()
    };
    assert_eq!(of(&with)["status"], "delivered", "{deliveries:?}");
    assert_eq!(of(&without)["status"], "failed");
    let error = of(&without)["last_error"].as_str().unwrap().to_owned();
    // The receiver says why, but the connection may be reset before that is read.
    let reasons = [
        "TLS failed: the receiver does not accept the certificate of the client",
        "the connection broke before the response",
    ];
    assert!(reasons.contains(&error.as_str()), "{error}");
    let requests = receiver.requests();
    assert!(requests.len() == 1 && requests[0].path == "/with" && requests[0].id == event, "{requests:?}");

    let other = Authority::new().security(&["client.example"], &[]);
    let wrong = json!({"auth": {"type": "mtls", "certificate": client.certificate, "private_key": other.key}});
    let path = format!("/v1/endpoints/{}", with["id"].as_str().unwrap());
    let refused = api.patch(&path, &wrong).await.expect(400).json();
    assert_eq!(refused["details"][0]["field"], "auth.private_key");
    assert!(!dispatcher.log().contains("PRIVATE KEY"));
}
