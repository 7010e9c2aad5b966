//! Endpoints that are made and deleted while events come in: an endpoint gets every event that was accepted after the
//! answer to its creation, and none that was accepted after the answer to its deletion.

use std::collections::{BTreeMap, BTreeSet};

use devstack::testing::eventually;
use futures_util::future::join_all;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::Api;
use crate::deliveries::RECEIVED_WITHIN;
use crate::system::System;

const SETTINGS: [(&str, &str); 3] = [
    ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
    ("WEBHOOK_ALLOW_HTTP", "true"),
    ("WEBHOOK_MAX_ENDPOINT_CHANGES_PER_HOUR", "10000"),
];
const ORGANIZATIONS: usize = 4;
const ENDPOINTS_OF_EACH: usize = 25;

/// What one organization was promised.
#[derive(Default)]
struct Promised {
    /// Path of an endpoint and id of an event that must reach it.
    arrive: BTreeSet<(String, String)>,
    /// The same of those that must not.
    stay_away: BTreeSet<(String, String)>,
}

/// Makes and deletes endpoints one after the other, with events before, between and after the changes.
async fn hammer(api: &Api, receiver: &Receiver, number: usize) -> Promised {
    let mut promised = Promised::default();
    let send = async |n: usize| api.accept("order.created", &json!(n)).await;
    for nth in 0..ENDPOINTS_OF_EACH {
        let path = format!("{number}-{nth}");
        // It may arrive: the dispatcher may read it after the endpoint was made.
        send(nth).await;
        let endpoint = api.post("/v1/endpoints", &json!({"url": receiver.url_of(&path)})).await.expect(201).json();
        for _ in 0..3 {
            promised.arrive.insert((path.clone(), send(nth).await));
        }
        if nth % 2 == 0 {
            // What was accepted before the deletion need not arrive any more.
            let must = promised.arrive.iter().filter(|(of, _)| *of == path).cloned().collect::<Vec<_>>();
            eventually(RECEIVED_WITHIN, "the endpoint gets its events", async || {
                let seen = arrivals(receiver);
                must.iter().all(|one| seen.contains(one)).then_some(())
            })
            .await;
        }
        let id = endpoint["id"].as_str().unwrap();
        api.delete(&format!("/v1/endpoints/{id}")).await.expect(204);
        if nth % 2 == 1 {
            promised.arrive.retain(|(of, _)| *of != path);
        }
        for _ in 0..3 {
            promised.stay_away.insert((path.clone(), send(nth).await));
        }
    }
    promised
}

/// Path and event of every request.
fn arrivals(receiver: &Receiver) -> BTreeSet<(String, String)> {
    let received = receiver.received();
    received.iter().map(|one| (one.path.trim_start_matches('/').to_owned(), one.id())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_endpoints_holds_for_the_next_event() {
    let system = System::shared().await;
    let (_ingest, _materializer, first) = system.inbox_roles(&SETTINGS).await;
    let dispatchers = [(); 2].map(|()| system.role("dispatcher", &SETTINGS));
    for dispatcher in &dispatchers {
        dispatcher.ready().await;
    }
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let mut apis = Vec::new();
    for number in 0..ORGANIZATIONS {
        let name = format!("Changing {number}");
        apis.push(Api::of_new_organization(&first.base_url, &system.operator_token, &name).await);
    }
    let promised = join_all(apis.iter().enumerate().map(|(number, api)| hammer(api, &receiver, number))).await;

    // The last event of each organization is behind all others of its partition.
    let mut last = BTreeMap::new();
    for (number, api) in apis.iter().enumerate() {
        let path = format!("{number}-last");
        api.post("/v1/endpoints", &json!({"url": receiver.url_of(&path)})).await.expect(201);
        last.insert(path, api.accept("order.created", &json!("last")).await);
    }
    eventually(RECEIVED_WITHIN, "the last events arrive", async || {
        let seen = arrivals(&receiver);
        last.iter().all(|(path, id)| seen.contains(&(path.clone(), id.clone()))).then_some(())
    })
    .await;
    let seen = arrivals(&receiver);
    for promised in &promised {
        assert!(!promised.arrive.is_empty() && !promised.stay_away.is_empty());
        let missing: Vec<_> = promised.arrive.difference(&seen).collect();
        assert!(missing.is_empty(), "accepted after the endpoint was made, and not received: {missing:?}");
        let unwanted: Vec<_> = promised.stay_away.intersection(&seen).collect();
        assert!(unwanted.is_empty(), "accepted after the endpoint was deleted, and received: {unwanted:?}");
    }
}
