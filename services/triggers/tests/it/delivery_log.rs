//! Deliveries from the outside: a system with all roles, a receiver, the routes and the commands that show them.

use std::time::Duration;

use devstack::testing::eventually;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::deliveries::RECEIVED_WITHIN;
use crate::system::System;

const RECEIVERS_HERE: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_commands_show_where_an_event_went() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let accepting = Receiver::start(ReceiverBehavior::Status(200)).await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let endpoint = async |receiver: &Receiver, types: Value, timeout: u32| {
        let body = json!({"url": receiver.url(), "event_types": types, "timeout_seconds": timeout, "max_in_flight": 1});
        api.post("/v1/endpoints", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned()
    };
    let good = endpoint(&accepting, json!(["order.*"]), 10).await;
    let slow = endpoint(&hanging, json!([]), 30).await;
    let other = endpoint(&accepting, json!(["refund.*"]), 10).await;
    let first = api.accept("order.created", &json!(1)).await;
    hanging.wait_for(1).await;
    // The slow endpoint has one request in flight, so this event is not tried there.
    let event = api.accept("order.created", &json!(2)).await;
    let delivered = eventually(RECEIVED_WITHIN, "the delivery is listed", || async {
        let page = api.get(&format!("/v1/endpoints/{good}/deliveries?status=delivered")).await.expect(200).json();
        let found = page["deliveries"].as_array().unwrap().iter().find(|item| item["event_id"] == event.as_str());
        found.cloned()
    })
    .await;
    assert_eq!((&delivered["attempts"], &delivered["last_status_code"]), (&json!(1), &json!(200)));

    let status = api.get(&format!("/v1/events/{event}/status")).await.expect(200).json();
    assert_eq!(status["status"], "pending", "one of two endpoints was not tried yet: {status}");
    let one = api.get(&format!("/v1/deliveries/{}", delivered["delivery_id"].as_str().unwrap())).await.expect(200);
    let attempt = &one.json()["attempts_log"][0];
    assert!(attempt["wait_ms"].as_f64().is_some_and(|wait| wait > 0.0), "{attempt}");
    assert_eq!(attempt["remote_address"], Value::Null, "the receiver's address is not public");
    let pending = eventually(Duration::from_secs(30), "the untried delivery is listed", || async {
        let page = api.get(&format!("/v1/events/{event}/deliveries?status=pending")).await.expect(200).json();
        page["deliveries"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(pending["endpoint_id"], slow.as_str());

    let explained = system.run_as(&api, &["event", "explain", &event]).await.expect(0).json();
    let verdict = |id: &str| explained.iter().find(|row| row["endpoint_id"] == id).unwrap()["verdict"].clone();
    assert_eq!(
        (verdict(&good), verdict(&slow), verdict(&other)),
        (json!("delivered"), json!("pending"), json!("other_type"))
    );
    let listed = system.run_as(&api, &["endpoint", "deliveries", &good, "--status", "delivered"]).await.expect(0);
    let events: Vec<Value> = listed.json().iter().map(|row| row["event_id"].clone()).collect();
    assert_eq!(events, [json!(event), json!(first)], "newest first");
    let stats = system.run_as(&api, &["endpoint", "stats", &good, "--window", "1h"]).await.expect(0).json();
    assert_eq!((&stats[0]["delivered"], &stats[0]["success_share"]), (&json!(2), &json!(1.0)));
    system.run_as(&api, &["endpoint", "stats", &good, "--window", "2h"]).await.expect(2);
    system.run_as(&api, &["event", "deliveries", "nonsense"]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delivery_is_retried_and_an_endpoint_tested() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let body = json!({"url": receiver.url(), "event_types": ["order.*"], "retry_schedule": []});
    let endpoint = api.post("/v1/endpoints", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let event = api.accept("order.created", &json!({"n": 1})).await;
    let shown = async |delivery: &str, status: &str| {
        eventually(Duration::from_secs(30), &format!("the delivery is {status}"), || async {
            let shown = system.run_as(&api, &["delivery", "show", delivery]).await;
            (shown.code == 0).then(|| shown.json().remove(0)).filter(|shown| shown["status"] == status)
        })
        .await
    };
    // Until the view has the event, its deliveries are unknown.
    api.shown(&event, Duration::from_secs(30)).await;
    let failed = eventually(RECEIVED_WITHIN, "the delivery has failed", || async {
        let page = api.get(&format!("/v1/events/{event}/deliveries?status=failed")).await.expect(200).json();
        page["deliveries"][0]["delivery_id"].as_str().map(str::to_owned)
    })
    .await;
    let retried = system.run_as(&api, &["endpoint", "retry", &endpoint, "--event-type", "order.created"]).await;
    let replay = retried.expect(0).json();
    assert_eq!((&replay[0]["status"], &replay[0]["scheduled"]), (&json!("finished"), &json!(1)));
    receiver.wait_for(2).await;
    let failed_again = |shown: &Value| shown["status"] == "failed" && shown["attempts"] == 2;
    eventually(Duration::from_secs(30), "the delivery has failed again", || async {
        let shown = api.get(&format!("/v1/deliveries/{failed}")).await.expect(200).json();
        failed_again(&shown).then_some(())
    })
    .await;
    receiver.change(ReceiverBehavior::Status(200));
    system.run_as(&api, &["delivery", "retry", &failed]).await.expect(0);
    let delivered = shown(&failed, "delivered").await;
    let attempts: Vec<_> = delivered["attempts_log"].as_array().unwrap().iter().map(|one| &one["attempt"]).collect();
    assert_eq!(attempts, [&json!(1), &json!(2), &json!(3)]);
    let status = api.get(&format!("/v1/events/{event}/status")).await.expect(200).json();
    assert_eq!(status["status"], "delivered", "the event is not failed any more: {status}");

    let tested = system.run_as(&api, &["endpoint", "test", &endpoint]).await.expect(0).json();
    let delivered = shown(tested[0]["delivery_id"].as_str().unwrap(), "delivered").await;
    assert_eq!((&delivered["event_type"], &delivered["attempts"]), (&json!("triggers.test"), &json!(1)));
    let test = delivered["event_id"].as_str().unwrap();
    api.get(&format!("/v1/events/{test}")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_endpoint_is_an_event_in_the_inbox() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let gone = Receiver::start(ReceiverBehavior::Status(410)).await;
    let watching = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = async |receiver: &Receiver, types: Value| {
        let body = json!({"url": receiver.url(), "event_types": types, "rate_limit_per_second": 50});
        api.post("/v1/endpoints", &body).await.expect(201).json()["id"].as_str().unwrap().to_owned()
    };
    let removed = endpoint(&gone, json!(["order.*"])).await;
    endpoint(&watching, json!(["triggers.*"])).await;
    api.accept("order.created", &json!(1)).await;
    let disabled = "/v1/inbox?event_type=triggers.endpoint.disabled";
    let shown = eventually(RECEIVED_WITHIN, "the event is in the inbox", || async {
        api.get(disabled).await.expect(200).json()["events"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!((&shown["payload"]["endpoint_id"], &shown["payload"]["reason"]), (&json!(removed), &json!("gone")));
    let webhook = watching.with_patience(RECEIVED_WITHIN).wait_for(1).await.remove(0);
    assert_eq!(webhook.json()["data"], shown["payload"], "others get it as a webhook");
    let page = api.get(disabled).await.expect(200).json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "it is there once");
    api.post("/v1/events", &json!({"event_type": "triggers.endpoint.disabled", "payload": 1})).await.expect(400);
    let stats = system.run_as(&api, &["endpoint", "stats", &removed]).await.expect(0).json();
    assert_eq!((&stats[0]["circuit"], &stats[0]["rate_limit_per_second"]), (&json!("closed"), &json!(50)));
}
