//! Receivers that want more than a signature: what arrives there. Certificates are in `triggers/client_certificates`.

use reqwest::Method;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use serde_json::{Value, json};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::system::{KEY, System};
use crate::token_endpoint::{TokenBehavior, TokenEndpoint};

const FOREVER: TokenBehavior = TokenBehavior::Grant { expires_in: 3600 };

/// Sends an event and waits for its attempt; there is one endpoint.
async fn deliver(system: &System) -> DeliveryAttempt {
    let event = system.event("a");
    system.publish(&event).await;
    system.wait_for_reports(event.event_id, 1).await.remove(0)
}

fn authorizations(received: &[Received]) -> Vec<&str> {
    received.iter().map(|request| request.header("authorization")).collect()
}

fn oauth2(token_url: &str) -> Value {
    json!({"type": "oauth2", "token_url": token_url, "client_id": "shop", "client_secret": "a secret",
           "scope": "hooks"})
}

#[tokio::test]
async fn basic_and_bearer_arrive_beside_the_signature() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let basic = json!({"type": "basic", "username": "Aladdin", "password": "open sesame"});
    let endpoint = system.endpoint(&receiver, json!({"auth": basic, "headers": {"x-a": "1"}})).await;
    assert_eq!(endpoint["auth"], json!({"type": "basic", "username": "Aladdin"}));
    assert_eq!(deliver(&system).await.outcome, DeliveryOutcome::Delivered);
    let request = receiver.take().remove(0);
    assert_eq!((request.header("authorization"), request.header("x-a")), ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "1"));
    let webhook = standardwebhooks::Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap();
    webhook.verify(&request.body, &request.headers).unwrap();

    system.change_endpoint(&endpoint["id"], json!({"auth": {"type": "bearer", "token": "a-token"}})).await;
    assert_eq!(deliver(&system).await.outcome, DeliveryOutcome::Delivered);
    assert_eq!(authorizations(&receiver.take()), ["Bearer a-token"]);
    system.change_endpoint(&endpoint["id"], json!({"auth": null})).await;
    assert_eq!(deliver(&system).await.outcome, DeliveryOutcome::Delivered);
    assert!(!receiver.take()[0].headers.contains_key("authorization"), "null removes it");
}

#[tokio::test]
async fn one_token_serves_many_webhooks() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let tokens = TokenEndpoint::start(FOREVER).await;
    let endpoint = system.endpoint(&receiver, json!({"auth": oauth2(&tokens.url())})).await;
    let ids = system.publish_many(40).await;
    receiver.wait_for_ids(&ids).await;
    assert!(authorizations(&receiver.received()).iter().all(|value| *value == "Bearer token-1"));
    let requests = tokens.requests();
    assert_eq!(requests.len(), 1, "they share one request for a token");
    assert_eq!(requests[0].form, "grant_type=client_credentials&scope=hooks");
    assert_eq!(requests[0].headers["authorization"], "Basic c2hvcDphK3NlY3JldA==");
    assert_eq!(requests[0].headers["content-type"], "application/x-www-form-urlencoded");

    system.change_endpoint(&endpoint["id"], json!({"description": "another text"})).await;
    deliver(&system).await;
    assert_eq!(tokens.requests().len(), 1, "the credentials are the same");
    let mut changed = oauth2(&tokens.url());
    changed["audience"] = json!("others");
    system.change_endpoint(&endpoint["id"], json!({ "auth": changed })).await;
    deliver(&system).await;
    assert_eq!(tokens.requests()[1].form, "grant_type=client_credentials&scope=hooks&audience=others");
    assert_eq!(receiver.received().last().unwrap().header("authorization"), "Bearer token-2");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let tokens = TokenEndpoint::start(TokenBehavior::Grant { expires_in: 1 }).await;
    system.endpoint(&receiver, json!({"auth": oauth2(&tokens.url()), "retry_schedule": []})).await;
    // Nothing but the time ends the first token.
    while tokens.requests().len() < 3 {
        assert_eq!(deliver(&system).await.outcome, DeliveryOutcome::Delivered);
    }
    let received = receiver.received();
    let used = authorizations(&received);
    for (token, minimum) in [("Bearer token-1", 1), ("Bearer token-2", 1)] {
        assert!(used.iter().filter(|value| **value == token).count() >= minimum, "{used:?}");
    }
    assert!(used.is_sorted(), "an old token is not used again: {used:?}");
}

#[tokio::test]
async fn a_401_renews_the_token_once_in_the_attempt() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![200, 401, 200, 401])).await;
    let tokens = TokenEndpoint::start(FOREVER).await;
    system.endpoint(&receiver, json!({"auth": oauth2(&tokens.url()), "retry_schedule": []})).await;
    for attempt in [deliver(&system).await, deliver(&system).await] {
        assert_eq!((attempt.outcome, attempt.attempt, attempt.error), (DeliveryOutcome::Delivered, 1, None));
    }
    let refused = deliver(&system).await;
    assert_eq!((refused.outcome, refused.status_code), (DeliveryOutcome::Failed, Some(401)));
    assert_eq!(refused.error.as_deref(), Some("the endpoint answered 401"));
    let received = receiver.received();
    assert_eq!(
        authorizations(&received),
        ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-3"]
    );
    assert_eq!(received[1].id(), received[2].id(), "the same event is sent again");
    assert_eq!(received[1].header("webhook-signature"), received[2].header("webhook-signature"));
}

#[tokio::test]
async fn a_401_of_basic_is_not_repeated() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(401)).await;
    let basic = json!({"type": "basic", "username": "a", "password": ""});
    system.endpoint(&receiver, json!({"auth": basic, "retry_schedule": []})).await;
    assert_eq!(deliver(&system).await.status_code, Some(401));
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_failing_token_endpoint_is_a_failed_attempt() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let tokens = TokenEndpoint::start(TokenBehavior::Refuse(401)).await;
    let more = json!({"auth": oauth2(&tokens.url()), "retry_schedule": [], "timeout_seconds": 1});
    let endpoint = system.endpoint(&receiver, more).await;
    let mut errors = Vec::new();
    for behavior in [TokenBehavior::Refuse(401), TokenBehavior::Refuse(500), TokenBehavior::Hang] {
        tokens.change(behavior);
        errors.push(deliver(&system).await);
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Another endpoint: the circuit of the first one is open.
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    system.call(Method::DELETE, &path, KEY, None).await.expect(204);
    let auth = oauth2(&format!("http://{closed}/token"));
    system.endpoint(&receiver, json!({"auth": auth, "retry_schedule": []})).await;
    errors.push(deliver(&system).await);
    let texts: Vec<_> = errors.iter().map(|attempt| attempt.error.as_deref().unwrap()).collect();
    assert_eq!(
        texts,
        [
            "the token endpoint answered 401 (invalid_client)",
            "the token endpoint answered 500 (invalid_client)",
            "the token endpoint could not be used: no response within 1 s",
            "the token endpoint could not be used: the connection was refused",
        ]
    );
    for attempt in &errors {
        assert_eq!((attempt.outcome, attempt.status_code), (DeliveryOutcome::Failed, None));
        assert_eq!(attempt.response_excerpt, None);
    }
    assert!(receiver.received().is_empty(), "nothing is sent without a token");
}

#[tokio::test]
async fn a_delivery_waits_for_the_token_endpoint_as_for_its_receiver() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let tokens = TokenEndpoint::start(TokenBehavior::Refuse(503)).await;
    system.endpoint(&receiver, json!({"auth": oauth2(&tokens.url()), "retry_schedule": [1, 1, 1, 1, 1]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let first = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!(first.outcome, DeliveryOutcome::Retrying);
    tokens.change(FOREVER);
    receiver.wait_for_ids(&[event.event_id.to_string()]).await;
}
