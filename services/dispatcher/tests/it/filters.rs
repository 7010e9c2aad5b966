//! Filters: which events reach an endpoint, and the dry run.

use reqwest::{Method, StatusCode};
use schemas::records::Event;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, OTHER_KEY, System};

fn event(system: &System, payload: &str) -> Event {
    Event { payload: payload.to_owned(), ..system.event("order.created") }
}

#[tokio::test]
async fn only_events_whose_payload_matches_are_sent() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let filter = json!({"all": [{"path": "total", "gte": 100}, {"not": {"path": "test", "equals": true}}]});
    let endpoint = system.endpoint(&receiver, json!({"event_types": ["order.*"], "filter": filter})).await;
    assert_eq!(endpoint["filter"], filter);
    let payloads = [r#"{"total": 99.99}"#, r#"{"total": 100, "test": true}"#, r#"[100]"#, r#"{"total": 1e2}"#];
    let events = payloads.map(|payload| event(&system, payload));
    for event in &events {
        let appended = system.publish(event).await;
        system.wait_until_passed(&appended).await;
    }
    let ids = |receiver: &Receiver| receiver.received().iter().map(|one| one.id()).collect::<Vec<_>>();
    receiver.wait_for(1).await;
    assert_eq!(ids(&receiver), [events[3].event_id.to_string()]);

    system.change_endpoint(&endpoint["id"], json!({"filter": null})).await;
    let last = event(&system, payloads[0]);
    system.publish(&last).await;
    receiver.wait_for_ids(&[last.event_id.to_string()]).await;
    assert_eq!(ids(&receiver).len(), 2, "without the filter, the next event is sent");
}

#[tokio::test]
async fn a_mistake_in_a_filter_is_refused_with_its_place() {
    let system = System::without_dispatcher().await;
    let filter = json!({"all": [{"path": "a", "exists": true}, {"path": "b", "gte": "100"}]});
    let url = "https://example.com/";
    let made = system.call(Method::POST, "/endpoints", KEY, Some(json!({ "url": url }))).await.expect(201);
    let path = format!("/endpoints/{}", made.text("id"));
    for (method, path, body) in [
        (Method::POST, "/endpoints", json!({"url": url, "filter": filter})),
        (Method::PATCH, path.as_str(), json!({ "filter": filter })),
        (Method::POST, "/endpoints/filter/test", json!({ "filter": filter })),
    ] {
        let refused = system.call(method, path, KEY, Some(body)).await.expect(400);
        assert_eq!(refused.text("error_code"), "invalid_endpoint");
        assert_eq!(refused.body["details"][0]["field"], "filter.all[1].gte", "{path}");
    }
}

#[tokio::test]
async fn a_filter_is_tested_against_the_last_events() {
    let system = System::without_dispatcher().await;
    let mut ids = Vec::new();
    for total in 0..5 {
        let event = event(&system, &format!(r#"{{"total": {total}}}"#));
        let appended = system.publish(&event).await;
        system.show(&event, &appended, false).await;
        ids.push(event.event_id.to_string());
    }
    let test =
        async |key: &str, body: Value| system.call(Method::POST, "/endpoints/filter/test", key, Some(body)).await;
    let filter = json!({"any": [{"path": "total", "gte": 4}, {"path": "total", "lt": 3}]});
    let all = test(KEY, json!({ "filter": filter })).await.expect(200).body;
    assert_eq!((&all["examined"], &all["matched"]), (&json!(5), &json!(4)));
    let shown: Vec<_> = all["events"].as_array().unwrap().iter().map(|one| one["event_id"].as_str().unwrap()).collect();
    assert!(shown.iter().rev().copied().eq(ids.iter().map(String::as_str)), "newest first");
    let expected = json!([{"condition": "any[0]", "holds": false}, {"condition": "any[1]", "holds": false}]);
    assert_eq!((&all["events"][1]["matched"], &all["events"][1]["conditions"]), (&json!(false), &expected));

    let two = test(KEY, json!({"filter": filter, "limit": 2})).await.expect(200).body;
    assert_eq!((&two["examined"], &two["matched"]), (&json!(2), &json!(1)));
    let typed = test(KEY, json!({"filter": filter, "event_types": ["refund.*"]})).await.expect(200).body;
    assert_eq!((&typed["examined"], &typed["matched"]), (&json!(5), &json!(0)), "of another type");
    // After partitions were added, the newest events are in another one, which may have a lower number.
    sqlx::query(
        "UPDATE view.events SET log_partition = 7 WHERE log_offset < (SELECT max(log_offset) FROM view.events)",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    let newest = test(KEY, json!({"filter": filter, "limit": 1})).await.expect(200).body;
    assert_eq!(newest["events"][0]["event_id"], ids[4].as_str());
    let theirs = test(OTHER_KEY, json!({ "filter": filter })).await.expect(200).body;
    assert_eq!(theirs, json!({"examined": 0, "matched": 0, "events": []}));
    for (body, field) in [
        (json!({"filter": filter, "limit": 0}), "limit"),
        (json!({"filter": filter, "limit": 101}), "limit"),
        (json!({"filter": filter, "event_types": ["a*"]}), "event_types"),
    ] {
        let refused = test(KEY, body).await;
        assert_eq!((refused.status, &refused.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)));
    }
}
