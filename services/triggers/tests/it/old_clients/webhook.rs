//! Clients that give their organization one webhook URL, and receivers that read `id`, `type`, `timestamp` and `data`.

use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use super::wire::{Answer, Library, OldClient};
use super::{MOUNTS, Roles, SHOWN, assert_accepted, assert_utc_millis, error_text};

async fn configure(client: &OldClient, mount: &str, url: &str) -> Answer {
    client.send(&format!("POST {mount}/webhook/config"), &format!(r#"{{"webhook_url": "{url}"}}"#)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_config_sets_the_url_of_an_organization() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Curl, "X-API-Key: ").with_header("Content-Type: application/json");
    let mut first: Option<Value> = None;
    for mount in MOUNTS {
        let url = format!("https://example.com/webhook{mount}");
        let answer = configure(&client, mount, &url).await.expect(200);
        // Shell scripts of old clients look for this word.
        assert!(answer.text.contains("\"success\":true"), "{}", answer.text);
        let set = answer.json();
        assert_eq!((&set["organization_id"], &set["webhook_url"]), (&json!(roles.api.org_id), &json!(url)));
        assert_utc_millis(&set["updated_at"]);
        assert!(set["message"].is_string(), "{set}");
        match &first {
            None => assert!(set["secret"].as_str().unwrap().starts_with("whsec_"), "{set}"),
            Some(first) => {
                assert_eq!(set["endpoint_id"], first["endpoint_id"], "the same endpoint is moved");
                assert!(set.get("secret").is_none(), "the secret is shown once: {set}");
            }
        }
        let own = client.send(&format!("GET {mount}/keys"), "").await.expect(200).json();
        assert_eq!(own["webhook_url"], url);
        first.get_or_insert(set);
        let refused = configure(&client, mount, "not a url").await;
        assert_eq!(refused.status, if mount == "/api" { 422 } else { 400 }, "{}", refused.text);
        error_text(&refused);
        assert_eq!(refused.json()["details"][0]["field"], "webhook_url");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_receiver_gets_id_type_timestamp_and_data() {
    let roles = Roles::start().await;
    let _dispatcher = roles.dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(SHOWN);
    let client = roles.client(Library::Curl, "X-API-Key: ").with_header("Content-Type: application/json");
    configure(&client, "/api", &receiver.url()).await.expect(200);
    let body = r#"{"type":"user.created","data":{"user_id":"12345"}}"#;
    let id = assert_accepted(&client.send("POST /api/events", body).await.expect(202), "user.created");

    let received = receiver.wait_for(1).await.remove(0);
    let webhook: Value = serde_json::from_slice(&received.body).unwrap();
    assert_utc_millis(&webhook["timestamp"]);
    let expected = json!({"id": id, "event_id": id, "type": "user.created", "event_type": "user.created",
                          "timestamp": webhook["timestamp"], "data": {"user_id": "12345"}});
    assert_eq!(webhook, expected);
    assert_eq!(received.headers["content-type"], "application/json");
    assert_eq!(received.headers["webhook-id"], id.as_str());
    let path = format!("GET /api/events/{id}/status");
    let status = devstack::testing::eventually(SHOWN, "the delivery is recorded", || async {
        let status = client.send(&path, "").await.expect(200).json();
        (status["status"] == "delivered").then_some(status)
    })
    .await;
    assert_eq!((&status["attempts"], &status["retry_attempts"]), (&json!(1), &json!(0)), "{status}");
    assert_eq!(status["deliveries"][0]["last_status_code"], 200, "{status}");
    let page = client.send("GET /api/inbox?status=delivered", "").await.expect(200).json();
    assert_eq!((&page["events"][0]["id"], &page["events"][0]["delivery_status"]), (&json!(id), &json!("delivered")));
}
