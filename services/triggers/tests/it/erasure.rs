//! An organization is erased under load; another one is not affected.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use devstack::testing::{eventually, read_topic};
use schemas::topics;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::api::Api;
use crate::log::Writer;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(120);
/// Requests in flight at the response have arrived after this time, even on a busy machine. Retries follow each second
/// for twenty seconds.
const IN_FLIGHT: Duration = Duration::from_secs(3);

/// One receiver takes everything, the other one answers 500.
struct Hooks {
    fine: Receiver,
    failing: Receiver,
}

impl Hooks {
    async fn start() -> Self {
        let fine = Receiver::start(ReceiverBehavior::Status(204)).await;
        Self { fine, failing: Receiver::start(ReceiverBehavior::Status(500)).await }
    }

    /// Ids that were received at a path after this time.
    fn since(&self, name: &str, after: Option<Instant>) -> BTreeSet<String> {
        let counts = |one: &&Received| one.path == format!("/{name}") && after.is_none_or(|after| one.at > after);
        [self.fine.received(), self.failing.received()].iter().flatten().filter(counts).map(Received::id).collect()
    }
}

async fn endpoint(api: &Api, url: String) {
    let schedule = [1; 20];
    let body = json!({"url": url, "retry_schedule": schedule, "auth": {"type": "bearer", "token": "t"},
                      "compat_signature": {"format": "sha256-hex", "header": "x-sig"}});
    api.post("/v1/endpoints", &body).await.expect(201);
}

/// Sends events and acknowledges some until stopped or refused; returns the accepted and the acknowledged ids.
async fn send_and_acknowledge(api: Api, stop: Arc<AtomicBool>) -> (Vec<String>, BTreeSet<String>) {
    let (mut accepted, mut acknowledged) = (Vec::new(), BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let reply = api.post("/v1/events", &json!({"event_type": "a", "payload": accepted.len()})).await;
        if reply.status == 401 {
            break;
        }
        let id = reply.expect(201).json()["event_id"].as_str().unwrap().to_owned();
        if accepted.len() % 4 == 0 {
            match api.post(&format!("/v1/events/{id}/ack"), &json!({})).await.status {
                200 | 202 => drop(acknowledged.insert(id.clone())),
                401 => break,
                // The event is not in the view yet.
                status => assert!([404, 503].contains(&status), "{status}"),
            }
        }
        accepted.push(id);
    }
    (accepted, acknowledged)
}

/// Tables that still have rows of the organization, except `erasures`, emptied rows of `endpoints`, and the entry in
/// the audit log that says that it was erased.
async fn remaining_rows(database: &PgPool, org_id: &str) -> Vec<String> {
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT format('%I.%I', c.table_schema, c.table_name) FROM information_schema.columns c
         JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.column_name = 'org_id' AND t.table_type = 'BASE TABLE' AND c.table_name <> 'erasures'",
    )
    .fetch_all(database)
    .await
    .unwrap();
    let mut found = Vec::new();
    for (table,) in tables {
        let emptied = match table.as_str() {
            "public.endpoints" => {
                "AND NOT (url = '' AND num_nulls(sealed_secret, sealed_headers, auth, sealed_auth, compat_signature,
                                                 sealed_compat_signature) = 6)"
            }
            "public.audit_log" => "AND NOT (action = 'organization.erased' AND detail = '{}' AND actor = 'system')",
            // Counts that one entry.
            "public.audit_counts" => "AND NOT (by_keys = 0 AND by_others = 1)",
            _ => "",
        };
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE org_id = '{org_id}' {emptied}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(database).await.unwrap();
        if rows > 0 {
            found.push(format!("{table}: {rows}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_erased_under_load_leaves_no_rows() {
    let system = System::shared().await;
    let settings = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];
    let (_ingest, _materializer, kept) = system.inbox_roles(&settings).await;
    let dispatcher = system.role("dispatcher", &settings);
    dispatcher.ready().await;
    let erased = Api::of_new_organization(&kept.base_url, &system.operator_token, "Erased").await;
    let operator = kept.with_key(&system.operator_token);
    let hooks = Hooks::start().await;
    endpoint(&kept, hooks.fine.url_of("kept")).await;
    endpoint(&erased, hooks.fine.url_of("erased")).await;
    endpoint(&erased, hooks.failing.url_of("fails")).await;

    let stop = Arc::new(AtomicBool::new(false));
    let flowing: Vec<_> = [&kept, &kept, &erased, &erased]
        .map(|api| tokio::spawn(send_and_acknowledge(api.clone(), stop.clone())))
        .into();
    eventually(PATIENCE, "webhooks arrive and some wait for their next attempt", || async {
        let enough = |name| hooks.since(name, None).len() >= 30;
        (enough("kept") && enough("erased") && enough("fails")).then_some(())
    })
    .await;
    let path = format!("/v1/organizations/{}", erased.org_id);
    let refused = system.run_as(&kept, &["org", "erase", &erased.org_id]).await.expect(1);
    assert!(refused.log.contains("Erased") && refused.log.contains("--yes"), "{}", refused.log);
    let shown = system.run_as(&kept, &["org", "erase", &erased.org_id, "--yes"]).await.expect(0).json();
    assert_eq!(shown[0]["status"], "erasing");
    let answered = Instant::now();
    erased.get("/v1/inbox").await.expect(401);
    operator.delete(&path).await.expect(204);
    assert_eq!(operator.get(&path).await.expect(200).json()["status"], "erasing");
    eventually(PATIENCE, "it is erased", || async {
        (operator.get(&path).await.expect(200).json()["status"] == "erased").then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let mut flowed = Vec::new();
    for flow in flowing {
        flowed.push(flow.await.unwrap());
    }
    let database = system.database().await;
    assert_eq!(remaining_rows(&database, &erased.org_id).await, [""; 0]);
    for name in ["erased", "fails"] {
        assert_eq!(hooks.since(name, Some(answered + IN_FLIGHT)), BTreeSet::new(), "sent to {name} after the erasure");
    }

    // A native producer still writes records of the organization.
    let (writer, events) = (Writer::new(&system.brokers), system.topic(topics::EVENTS));
    writer.write(&events, None, &erased.org_id, b"garbage", &[]).await;
    let event = br#"{"event_type": "a", "payload": 1}"#;
    let (partition, offset) = writer.write(&events, None, &erased.org_id, event, &[]).await;
    eventually(PATIENCE, "both consumers have applied the record", || async {
        let sql = "SELECT count(*) FROM consumer_positions WHERE topic = $1 AND partition = $2 AND next_offset > $3";
        let consumers: i64 =
            sqlx::query_scalar(sql).bind(&events).bind(partition).bind(offset).fetch_one(&database).await.unwrap();
        (consumers == 2).then_some(())
    })
    .await;
    let accepted: BTreeSet<String> = flowed[..2].iter().flat_map(|(accepted, _)| accepted.clone()).collect();
    let acknowledged: BTreeSet<String> =
        flowed[..2].iter().flat_map(|(_, acknowledged)| acknowledged.clone()).collect();
    assert_nothing_is_missing(&system, &hooks, &kept, (&accepted, &acknowledged)).await;
    system.run(&["view", "rebuild"]).await.expect(0);
    system.run(&["view", "replay", "--from", "2020-01-01T00:00:00Z"]).await.expect(0);
    assert_eq!(remaining_rows(&database, &erased.org_id).await, [""; 0], "rebuild and replay bring no rows back");
    assert_nothing_is_missing(&system, &hooks, &kept, (&accepted, &acknowledged)).await;
    assert_eq!(read_topic(&system.brokers, &system.topic(topics::DEAD_LETTERS)).await.len(), 0);
}

/// Every accepted event has a row, acknowledged events are shown as such, and all were sent to the endpoint.
async fn assert_nothing_is_missing(
    system: &System,
    hooks: &Hooks,
    api: &Api,
    (accepted, acknowledged): (&BTreeSet<String>, &BTreeSet<String>),
) {
    let database = system.database().await;
    eventually(PATIENCE, "all events of the other organization have a row", || async {
        let rows: Vec<(String, bool)> = sqlx::query_as(
            "SELECT event_id::text, acknowledged_at IS NOT NULL FROM view.events WHERE org_id = $1::uuid",
        )
        .bind(&api.org_id)
        .fetch_all(&database)
        .await
        .unwrap();
        let shown: BTreeSet<&String> = rows.iter().map(|(id, _)| id).collect();
        let done: BTreeSet<&String> = rows.iter().filter(|(_, done)| *done).map(|(id, _)| id).collect();
        (rows.len() == accepted.len()
            && accepted.iter().all(|id| shown.contains(id))
            && acknowledged.iter().all(|id| done.contains(id)))
        .then_some(())
    })
    .await;
    eventually(PATIENCE, "all events of the other organization were sent", || async {
        let sent = hooks.since("kept", None);
        accepted.iter().all(|id| sent.contains(id)).then_some(())
    })
    .await;
}
