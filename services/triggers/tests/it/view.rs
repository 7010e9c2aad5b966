//! `triggers view`: rebuild and replay while the roles run.

use serde_json::{Value, json};

use crate::api::{Api, ids};
use crate::system::System;

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
