//! Bodies of the wrong type: no route with a JSON body takes them, fails at them, or shows internals of this program.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Document, Ids, Operation, admin_of};
use crate::api::{Api, Reply};
use crate::system::System;

/// Words of the program or of its libraries. An array is a list, in plain words.
const INTERNALS: [&str; 10] =
    ["struct", "u32", "u64", "i64", "sequence", "enum", "variant", "expected", "invalid type", "newtype"];

/// A client that may call every route, and what the routes may be called with.
struct Bench {
    document: Document,
    admin: Api,
    operator: Api,
    ids: Ids,
}

impl Bench {
    async fn new(system: &System, api: &Api) -> Self {
        let (admin, _) = admin_of(api, &system.operator_token, "bodies").await;
        let endpoint = json!({"url": "https://receiver.example/hook", "enabled": false});
        let endpoint =
            admin.post("/v1/endpoints", &endpoint).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let key = json!({"name": "target", "role": "consume"});
        let key = admin.post("/v1/keys", &key).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let ids = Ids { organization: admin.org_id.clone(), event: uuid::Uuid::now_v7().to_string(), endpoint, key };
        let operator = api.with_key(&system.operator_token);
        Self { document: Document::of(api).await, admin, operator, ids }
    }

    fn operations(&self) -> Vec<Operation> {
        let operations: Vec<_> = self.document.operations().into_iter().filter(Operation::has_body).collect();
        assert!(operations.len() >= 13, "routes with a body: {}", operations.len());
        operations
    }

    async fn send(&self, operation: &Operation, body: &Value) -> Reply {
        let caller = if operation.needs_operator() { &self.operator } else { &self.admin };
        let reply = caller.call(&operation.method, &operation.path_with(&self.ids), Some(body)).await;
        self.document.check(operation, &reply);
        reply
    }

    /// The members of the JSON body of a route.
    fn members(&self, operation: &Operation) -> BTreeSet<String> {
        let schema = &operation.described["requestBody"]["content"]["application/json"]["schema"];
        let schema = schema.pointer("/oneOf/0").unwrap_or(schema);
        let described = self.document.0.pointer(&schema["$ref"].as_str().unwrap()[1..]).unwrap();
        described["properties"].as_object().unwrap().keys().cloned().collect()
    }
}

/// What is wrong with a refusal, if it is not in plain words.
fn fault_of(reply: &Reply) -> Option<String> {
    if !(400..500).contains(&reply.status) {
        return (reply.status >= 500).then(|| format!("it is answered {}", reply.status));
    }
    let texts = format!("{} {}", reply.json()["detail"], reply.json()["details"]).to_lowercase();
    INTERNALS.iter().find(|word| texts.contains(**word)).map(|word| format!("the refusal shows {word}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_takes_an_array_for_an_object() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[("OPEN_SIGNUP", "true")]).await;
    let bench = Bench::new(&system, &api).await;
    let mut faults = Vec::new();
    for operation in bench.operations() {
        let in_order = json!(["name", "admin", null, null, false, "live", null]);
        let url = json!(["https://receiver.example/hook"]);
        for body in [json!([]), json!(["a"]), json!([0]), url, in_order, json!(null), json!("a"), json!(7)] {
            let reply = bench.send(&operation, &body).await;
            let fault = (reply.status != 400).then(|| format!("it is answered {}", reply.status));
            if let Some(fault) = fault.or_else(|| fault_of(&reply)) {
                faults.push(format!("{} {body}: {fault}: {}", operation.name(), reply.text));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_wrong_types_are_in_plain_words() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[("OPEN_SIGNUP", "true")]).await;
    let bench = Bench::new(&system, &api).await;
    let (mut refused, mut faults) = (0, Vec::new());
    for operation in bench.operations() {
        for member in bench.members(&operation) {
            let scalars = [json!(null), json!(true), json!(-1.5), json!(-1), json!("x")];
            for wrong in scalars.into_iter().chain([json!([]), json!([[1]]), json!({"x": []})]) {
                let mut body = operation.body(&bench.ids.event).unwrap_or_else(|| json!({}));
                body[&member] = wrong;
                let reply = bench.send(&operation, &body).await;
                let is_refused = reply.status == 400;
                let unnamed = is_refused && !reply.text.contains(&member);
                if let Some(fault) = fault_of(&reply).or_else(|| unnamed.then(|| "the place is not named".to_owned())) {
                    faults.push(format!("{} {body}: {fault}: {}", operation.name(), reply.text));
                }
                refused += usize::from(is_refused);
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(refused > 100, "refused: {refused}");
}
