//! Tests of endpoints.

use devstack::testing::eventually;
use reqwest::Method;
use schemas::ids::DeliveryId;
use schemas::records::DeliveryOutcome;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{Answer, KEY, OTHER_KEY, PATIENCE, System, config};

async fn test(system: &System, endpoint: &Value, key: &str) -> Answer {
    let path = format!("/endpoints/{}/test", endpoint["id"].as_str().unwrap());
    system.call(Method::POST, &path, key, None).await
}

#[tokio::test]
async fn a_test_is_signed_and_sent_once() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let more = json!({"event_types": ["order.*"], "retry_schedule": [1, 1]});
    let endpoint = system.endpoint(&receiver, more).await;
    test(&system, &endpoint, OTHER_KEY).await.expect(404);
    let delivery: DeliveryId = test(&system, &endpoint, KEY).await.expect(202).text("delivery_id").parse().unwrap();
    let received = receiver.wait_for(1).await.remove(0);
    Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap().verify(&received.body, &received.headers).unwrap();
    assert_eq!(received.json()["type"], "triggers.test");
    assert!(received.json()["data"]["message"].is_string());
    let report = system.wait_for_reports(received.id().parse().unwrap(), 1).await.remove(0);
    assert_eq!((report.delivery_id, report.attempt, report.outcome), (delivery, 1, DeliveryOutcome::Failed));
    let path = format!("/deliveries/{delivery}");
    eventually(PATIENCE, "the delivery shows its end before the view does", || async {
        let shown = system.call(Method::GET, &path, KEY, None).await.expect(200).body;
        (shown["status"] == "failed").then_some(())
    })
    .await;
    sqlx::query("UPDATE delivery_schedule SET finished_at = now() - interval '2 hours'")
        .execute(&system.pool)
        .await
        .unwrap();
    system.wait_for_schedule("the row is swept", |rows| rows.is_empty()).await;
    let stored: (i64, i64, i64) =
        sqlx::query_as("SELECT open_rows, event_bytes, (SELECT count(*) FROM delivery_events) FROM delivery_usage")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert_eq!((stored, receiver.received().len()), ((0, 0, 0), 1));
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body;
    assert_eq!(page["entries"][0]["action"], "endpoint.tested");
}

#[tokio::test]
async fn a_test_waits_for_no_lane_and_shares_no_batch() {
    let mut system = System::without_dispatcher().await;
    let (ordered, batched) = (
        Receiver::start(ReceiverBehavior::Refuse(500, "\"many\"")).await,
        Receiver::start(ReceiverBehavior::Status(200)).await,
    );
    let with_lanes = system.endpoint(&ordered, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let with_batches = system.endpoint(&batched, json!({"event_types": ["none"], "batch": {}})).await;
    for _ in 0..3 {
        test(&system, &with_batches, KEY).await.expect(202);
    }
    system.start_dispatcher(config());
    for request in batched.wait_for(3).await {
        let body = request.json();
        let [event] = body.as_array().unwrap().as_slice() else { panic!("all of them are due: {body}") };
        assert_eq!(event["type"], "triggers.test");
    }
    system.publish_many(2).await;
    ordered.wait_for(1).await;
    test(&system, &with_lanes, KEY).await.expect(202);
    let received = ordered.wait_for(2).await;
    assert_eq!(received[1].json()["type"], "triggers.test", "the lane waits for the event that failed");
}

#[tokio::test]
async fn a_test_is_refused_where_nothing_may_be_sent() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let disabled = system.endpoint(&receiver, json!({"enabled": false})).await;
    let refused = test(&system, &disabled, KEY).await.expect(409);
    assert_eq!(refused.body["error_code"], "endpoint_disabled");
    let endpoint = system.endpoint(&receiver, json!({})).await;
    sqlx::query("INSERT INTO delivery_usage VALUES ($1, 1000000, 0)")
        .bind(system.org.as_uuid())
        .execute(&system.pool)
        .await
        .unwrap();
    let refused = test(&system, &endpoint, KEY).await.expect(409);
    assert_eq!(refused.body["error_code"], "too_many_open_deliveries");
    assert!(system.schedule().await.is_empty());
}
