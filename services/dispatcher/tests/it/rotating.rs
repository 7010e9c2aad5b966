//! Rotation of secrets, checked with an independent library.

use devstack::testing::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::system::{Answer, KEY, OTHER_KEY, PATIENCE, System};

fn verifies(secret: &str, request: &Received) -> bool {
    Webhook::new(secret).unwrap().verify(&request.body, &request.headers).is_ok()
}

async fn rotate(system: &System, endpoint: &Value, body: Value) -> Answer {
    let path = format!("/endpoints/{}/secret/rotate", endpoint["id"].as_str().unwrap());
    system.call(Method::POST, &path, KEY, Some(body)).await
}

/// The request of a new event.
async fn next_request(system: &System, receiver: &Receiver) -> Received {
    let event = system.event("a");
    system.publish(&event).await;
    let id = event.event_id.to_string();
    receiver.wait_for_ids(std::slice::from_ref(&id)).await;
    receiver.received().into_iter().find(|request| request.id() == id).unwrap()
}

#[tokio::test]
async fn both_secrets_sign_until_the_overlap_ends() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = system.endpoint(&receiver, json!({})).await;
    let first = endpoint["secret"].as_str().unwrap();
    let rotated = rotate(&system, &endpoint, json!({})).await.expect(200);
    let second = rotated.text("secret");
    assert!(second.starts_with("whsec_") && second != first && rotated.body["previous_expires_at"].is_string());
    let request = next_request(&system, &receiver).await;
    assert!(verifies(first, &request) && verifies(&second, &request), "both secrets sign");

    let third = rotate(&system, &endpoint, json!({"overlap_seconds": 2})).await.expect(200).text("secret");
    let request = next_request(&system, &receiver).await;
    assert!(!verifies(first, &request) && verifies(&third, &request), "there is one previous secret");
    // Nothing changes the endpoint meanwhile: the time alone ends it.
    eventually(PATIENCE, "the previous secret does not sign any more", || async {
        let request = next_request(&system, &receiver).await;
        assert!(verifies(&third, &request));
        (!verifies(&second, &request)).then_some(())
    })
    .await;

    let fourth = rotate(&system, &endpoint, json!({"overlap_seconds": 0})).await.expect(200).text("secret");
    let request = next_request(&system, &receiver).await;
    assert!(verifies(&fourth, &request) && !verifies(&third, &request), "without an overlap");
    let sealed: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT sealed_previous_secret FROM endpoints").fetch_one(&system.pool).await.unwrap();
    assert_eq!(sealed, None);
}

#[tokio::test]
async fn a_rotation_is_bounded_audited_and_own() {
    let system = System::without_dispatcher().await;
    let body = json!({"url": "https://example.com/"});
    let made = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).body;
    let path = format!("/endpoints/{}/secret/rotate", made["id"].as_str().unwrap());
    let refused = rotate(&system, &made, json!({"overlap_seconds": 604_801})).await.expect(400);
    assert_eq!(refused.body["details"][0]["field"], "overlap_seconds");
    system.call(Method::POST, &path, OTHER_KEY, None).await.expect(404);
    let secret = system.call(Method::POST, &path, KEY, None).await.expect(200).text("secret");
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body;
    assert_eq!(page["entries"][0]["action"], "endpoint.secret_rotated");
    assert!(page["entries"][0]["detail"]["previous_secret_expires_at"].is_string());
    assert!(!page.to_string().contains("whsec_"));
    let shown = system.call(Method::GET, "/endpoints", KEY, None).await.expect(200).body.to_string();
    assert!(!shown.contains(&secret), "it is shown once");
}
