//! `triggers view`: rebuild and replay while the roles run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use devstack::testing::eventually;
use serde_json::{Value, json};

use crate::api::{Api, ids};
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(30);

async fn inbox(api: &Api) -> Vec<String> {
    ids_of(&api.get("/v1/inbox?limit=1000&include_acknowledged=true").await.json())
}

fn ids_of(page: &Value) -> Vec<String> {
    ids(page["events"].as_array().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuild_and_replay_change_nothing_under_running_roles() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    for n in 0..20 {
        api.post("/v1/events", &json!({"event_type": "n", "payload": n, "dedup_id": (n / 2).to_string()})).await;
    }
    let first = api.get("/v1/inbox?limit=3").await.json();
    let before = inbox(&api).await;
    assert_eq!(before.len(), 10);
    system.run_as(&api, &["ack", &before[0]]).await.expect(0);

    let compared = system.run(&["view", "rebuild", "--dry-run"]).await.expect(0);
    assert!(compared.output.contains("the views are equal; the live view is kept"), "{}", compared.output);
    let rebuilt = system.run(&["view", "rebuild"]).await.expect(0);
    assert!(rebuilt.output.ends_with("the rebuilt view is live\n"), "{}", rebuilt.output);
    let replayed = system.run(&["view", "replay", "--from", "2026-01-01T00:00:00Z"]).await.expect(0);
    assert!(replayed.output.ends_with("records read\n"), "{}", replayed.output);
    assert_eq!(inbox(&api).await, before);

    // An old cursor still works, and the materializer, which was fenced by the switch, shows new events.
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(ids_of(&api.get(&format!("/v1/inbox?limit=1000&cursor={cursor}")).await.json()).len(), 7);
    let late = api.post("/v1/events", &json!({"event_type": "late", "payload": 1})).await.json();
    let shown = api.get("/v1/inbox?event_type=late&wait=30").await.json();
    assert_eq!(shown["events"][0]["event_id"], late["event_id"]);
    let acknowledged = api.get(&format!("/v1/events/{}", before[0])).await.json();
    assert_ne!(acknowledged["acknowledged_at"], Value::Null);

    system.run(&["view", "replay", "--from", "yesterday"]).await.expect(2);
    system.run(&["view", "abandon"]).await.expect(0);
}

/// The position tokens of events by their ids, as the inbox and `GET /v1/events/{id}` show them.
async fn shown_positions(api: &Api, count: usize) -> BTreeMap<String, String> {
    let page = eventually(PATIENCE, "the inbox shows all events", || async {
        let events = api.inbox(1000).await;
        (events.len() == count).then_some(events)
    })
    .await;
    for event in &page {
        let id = event["event_id"].as_str().unwrap();
        let single = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
        assert_eq!(single["position"], event["position"], "the inbox and the event itself show one text");
    }
    page.iter().map(position_of).collect()
}

fn position_of(value: &Value) -> (String, String) {
    let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned();
    (text("event_id"), text("position"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_the_same_text_everywhere() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let event = |n: u32| json!({"event_type": "n", "payload": n});
    let mut answered = BTreeMap::new();
    for n in 0..3 {
        answered.extend([position_of(&api.post("/v1/events", &event(n)).await.expect(201).json())]);
    }
    let keyed = api.post_event_as("once", &event(3)).await.expect(201).json();
    answered.extend([position_of(&keyed)]);
    let batch = json!({"events": (4..20).map(event).collect::<Vec<_>>()});
    let results = api.post("/v1/events/batch", &batch).await.expect(200).json();
    answered.extend(results["results"].as_array().unwrap().iter().map(position_of));
    assert_eq!(answered.len(), 20);
    assert_eq!(answered.values().collect::<BTreeSet<_>>().len(), 20, "each event has a position of its own");

    assert_eq!(shown_positions(&api, 20).await, answered);
    let last = results["results"][15]["position"].as_str().unwrap();
    let page = api.get(&format!("/v1/inbox?limit=1000&min_position={last}")).await.expect(200).json();
    assert_eq!(page["events"].as_array().unwrap().len(), 20, "a position that ingest gave is one to read from");
    // An instance that is asked before the view has answered writes the event again, and knows only that one then.
    let replayed = eventually(PATIENCE, "the view knows the key", || async {
        let restarted = system.role("ingest", &[]);
        let answer = api.at(&restarted.ready().await).post_event_as("once", &event(3)).await.expect(201);
        (answer.header("idempotency-replayed") == "true").then_some(answer)
    })
    .await;
    assert_eq!(position_of(&replayed.json()), position_of(&keyed), "as does an instance that knows it from the view");

    system.run(&["view", "rebuild"]).await.expect(0);
    assert_eq!(shown_positions(&api, 20).await, answered, "a rebuilt view shows the same texts");
}
