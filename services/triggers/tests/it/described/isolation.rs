//! No route gives anything of one organization to another, or of an event type to a key that may not see it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Document, Ids, admin_of};
use crate::api::Api;
use crate::system::System;

/// In everything that belongs to the first organization.
const MARK: &str = "belongs-to-the-first";
const SHOWN: Duration = Duration::from_secs(20);

/// What the first organization has.
struct First {
    api: Api,
    ids: Ids,
    /// Its event as the inbox shows it.
    event: Value,
    cursor: String,
}

impl First {
    async fn new(api: &Api, operator_token: &str) -> Self {
        let (api, key) = admin_of(api, operator_token, MARK).await;
        // With the dedup id of the document's examples: another organization may send it as well.
        let sent = json!({"event_type": "order.created", "payload": {"mark": MARK}, "dedup_id": "ord-7"});
        let accepted = api.post_event_as("a key of the first", &sent).await.expect(201).json();
        let event = accepted["event_id"].as_str().unwrap().to_owned();
        let endpoint = json!({"url": format!("https://{MARK}.example/hook"), "enabled": false});
        let endpoint = api.post("/v1/endpoints", &endpoint).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let shown = api.shown(&event, SHOWN).await;
        let cursor = api.get("/v1/inbox").await.expect(200).json()["resume_cursor"].as_str().unwrap().to_owned();
        let ids = Ids { organization: api.org_id.clone(), event, endpoint, key };
        Self { api, ids, event: shown, cursor }
    }

    fn is_mentioned_in(&self, text: &str) -> bool {
        let ids = [&self.ids.organization, &self.ids.endpoint, &self.ids.key, &self.ids.event];
        text.contains(MARK) || ids.into_iter().any(|id| text.contains(id.as_str()))
    }

    /// Everything of it that a route could change or show.
    async fn state(&self) -> Value {
        let mut state = Vec::new();
        for path in ["/v1/keys", "/v1/keys/list", "/v1/endpoints", "/v1/inbox?include_acknowledged=true"] {
            let mut answer = self.api.get(path).await.expect(200).json();
            // Each answer has a new nonce.
            for name in ["resume_cursor", "next_cursor"] {
                if let Some(cursor) = answer.get_mut(name) {
                    *cursor = Value::Null;
                }
            }
            state.push(answer);
        }
        Value::Array(state)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_gives_anything_to_another_organization() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let document = Document::of(&api).await;
    let first = First::new(&api, &system.operator_token).await;
    let before = first.state().await;
    let mut with_ids = 0;
    for operation in document.operations().iter().filter(|operation| operation.right().is_some()) {
        let name = operation.name();
        let (other, _) = admin_of(&api, &system.operator_token, "second").await;
        let path = operation.path_with(&first.ids);
        let body = operation.body(&first.ids.event);
        let reply = other.call(&operation.method, &path, body.as_ref()).await;
        document.check(operation, &reply);
        if operation.has_ids_in_path() {
            with_ids += 1;
            assert_eq!(reply.status, 404, "{name}: another organization's id is unknown: {}", reply.text);
        } else {
            assert!(reply.status < 400, "{name} works for its own organization: {}", reply.text);
        }
        // A batch of acks repeats the ids that it was sent.
        let repeated = reply.text.replace(&first.ids.event, "");
        let text = if body.is_some() { &repeated } else { &reply.text };
        // The path of the request is in each problem.
        let text = text.replace(&path, "");
        assert!(!first.is_mentioned_in(&text), "{name} shows something of another organization: {text}");
        for parameter in operation.query_parameters() {
            let position = first.event["position"].as_str().unwrap();
            let token = if parameter == "min_position" { position } else { &first.cursor };
            let reply = other.call(&operation.method, &format!("{path}?{parameter}={token}"), None).await;
            document.check(operation, &reply);
            let text = reply.text.replace(&path, "");
            assert!(!first.is_mentioned_in(&text), "{name}, {parameter}: {text}");
        }
    }
    assert!(with_ids > 10, "routes with ids were tested: {with_ids}");
    assert_eq!(first.state().await, before, "nobody has changed anything of the first organization");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_event_types_gets_nothing_of_others() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let document = Document::of(&api).await;
    let first = First::new(&api, &system.operator_token).await;
    let before = first.state().await;
    let operator = api.with_key(&system.operator_token);
    for operation in document.operations().iter().filter(|operation| operation.right().is_some()) {
        let name = operation.name();
        // A key for each: one of the routes replaces it.
        let wanted = json!({"name": "restricted", "role": "admin", "event_types": ["refund.created"]});
        let keys = format!("/v1/organizations/{}/keys", first.ids.organization);
        let key = operator.post(&keys, &wanted).await.expect(201).json();
        let restricted = first.api.with_key(key["key"].as_str().unwrap());
        let path = operation.path_with(&first.ids);
        let reply = restricted.call(&operation.method, &path, operation.body(&first.ids.event).as_ref()).await;
        document.check(operation, &reply);
        assert!(!reply.text.contains(&format!("\"mark\":\"{MARK}\"")), "{name} shows the event: {}", reply.text);
        if path.contains(&first.ids.event) {
            assert_eq!(reply.status, 404, "{name}: an event of another type is unknown: {}", reply.text);
        }
        if operation.path.ends_with("/events") {
            assert_eq!(reply.status, 403, "{name} of another type: {}", reply.text);
        }
    }
    let after = first.state().await;
    for index in [2, 3] {
        assert_eq!(after[index], before[index], "endpoints and events are as before");
    }
    let keys = after[1]["keys"].as_array().unwrap();
    let admin = keys.iter().find(|key| key["id"] == json!(first.ids.key)).unwrap();
    assert_eq!(admin["revoked_at"], Value::Null, "a narrower key does not revoke a wider one");
    assert!(
        keys.iter().filter(|key| key["event_types"].is_null()).count() == 1,
        "no key made a key with more rights than it had: {keys:#?}"
    );
}
