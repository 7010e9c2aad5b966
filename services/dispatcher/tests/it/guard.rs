//! The egress policy and the sealed secrets.

use std::time::Duration;

use dispatcher::{DispatcherConfig, EgressPolicy};
use reqwest::{Method, StatusCode};
use schemas::records::DeliveryOutcome;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, System};

#[tokio::test]
async fn a_stored_endpoint_at_a_refused_address_is_not_reached() {
    // The routes of this system allow loopback; its dispatcher does not.
    let egress = EgressPolicy { allow_http: true, ..EgressPolicy::default() };
    let session_timeout = Duration::from_secs(6);
    let config = DispatcherConfig { egress, session_timeout, ..DispatcherConfig::default() };
    let system = System::start_with(config).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let port = receiver.port();
    for host in ["127.0.0.1", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]"] {
        system.endpoint(&receiver, json!({"url": format!("http://{host}:{port}/"), "retry_schedule": []})).await;
    }
    let event = system.event("a");
    system.publish(&event).await;
    for report in system.wait_for_reports(event.event_id, 4).await {
        assert_eq!((report.outcome, report.status_code), (DeliveryOutcome::Failed, None));
        assert_eq!(report.error.as_deref(), Some("the address is private, local or reserved and not allowed"));
    }
    assert_eq!(receiver.received().len(), 0);
}

#[tokio::test]
async fn endpoints_at_refused_addresses_cannot_be_created() {
    let system = System::without_dispatcher().await;
    for url in [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/",
        "http://0/",
        "http://192.168.1.1/",
        "https://8.8.8.8:22/",
        "https://8.8.8.8:6379/",
    ] {
        let answer = system.call(Method::POST, "/endpoints", KEY, Some(json!({"url": url}))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{url}");
        assert_eq!(answer.body["details"][0]["field"], "url", "{url}");
    }
}

#[tokio::test]
async fn secrets_and_headers_are_sealed_in_the_database() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = system.endpoint(&receiver, json!({"headers": {"authorization": "Bearer hush-hush"}})).await;
    let secret = endpoint["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap().to_owned();
    let (row, sealed_secret, sealed_headers): (String, Vec<u8>, Vec<u8>) =
        sqlx::query_as("SELECT e::text, sealed_secret, sealed_headers FROM endpoints e")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert!(!row.contains(&secret) && !row.contains("hush-hush"));
    let contains = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &secret).unwrap();
    assert!(!contains(&sealed_secret, &raw) && !contains(&sealed_secret, secret.as_bytes()));
    assert!(!contains(&sealed_headers, b"hush-hush"));
    let id = endpoint["id"].as_str().unwrap();
    let shown = system.call(Method::GET, &format!("/endpoints/{id}"), KEY, None).await.body.to_string();
    assert!(!shown.contains("whsec_") && !shown.contains("hush-hush"), "{shown}");
}
