//! Positions outside of their log: what stops, what goes on, and what the command mends, on running roles.

use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{Api, http, ids};
use crate::deliveries::Hook;
use crate::process::Process;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(60);

fn admin(system: &System) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &system.brokers).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// Deletes the events topic and makes it anew, empty.
async fn recreate(system: &System) {
    let topic = system.topic(schemas::topics::EVENTS);
    for deleted in admin(system).delete_topics(&[&topic], &options()).await.unwrap() {
        deleted.unwrap();
    }
    eventually(PATIENCE, "the topic is made anew", || async {
        (system.run(&["topics", "apply"]).await.code == 0).then_some(())
    })
    .await;
}

async fn positions(system: &System) -> Vec<Value> {
    system.run(&["positions", "list"]).await.expect(0).json()
}

/// States of the events topic's positions that are not "ok": (consumer, partition, state).
async fn outside(system: &System) -> Vec<(String, i64, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let bad = positions(system).await.into_iter().filter(|line| line["state"] != "ok");
    bad.map(|line| (text(&line, "consumer"), line["partition"].as_i64().unwrap(), text(&line, "state"))).collect()
}

async fn ready(base_url: &str, wanted: bool) {
    let url = format!("{base_url}/health/ready");
    eventually(PATIENCE, &format!("readiness is {wanted}"), || async {
        (http().get(&url).send().await.ok()?.status().is_success() == wanted).then_some(())
    })
    .await;
}

/// The partition of an organization, as the log has it.
async fn partition_of(database: &PgPool, api: &Api) -> i32 {
    let sql = "SELECT log_partition FROM contract.events WHERE org_id::text = $1 LIMIT 1";
    sqlx::query_scalar(sql).bind(&api.org_id).fetch_one(database).await.unwrap()
}

/// Posts so many events, one after the other; their ids.
async fn post(api: &Api, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(api.accept("n", &json!(n)).await);
    }
    ids
}

async fn all_shown(api: &Api, wanted: &[String]) {
    eventually(PATIENCE, "the inbox has exactly these, in their order", || async {
        (ids(&api.inbox(1000).await) == wanted).then_some(())
    })
    .await;
}

/// An ascending page from a cursor on: ids, and the cursor that goes on.
async fn page(api: &Api, cursor: Option<&str>, limit: u32) -> (Vec<String>, String) {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let page = api.get(&format!("/v1/inbox?limit={limit}&order=asc{cursor}")).await.expect(200).json();
    (ids(page["events"].as_array().unwrap()), page["resume_cursor"].as_str().unwrap().to_owned())
}

/// All roles, two organizations in different partitions, and a webhook of the first.
struct Installed {
    system: System,
    database: PgPool,
    _ingest: Process,
    consumers: Vec<Process>,
    urls: Vec<String>,
    api: Api,
    other: Api,
    hook: Hook,
}

const QUICK: [(&str, &str); 3] = [
    ("CONSUMER_SESSION_TIMEOUT_MS", "3000"),
    ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
    ("WEBHOOK_ALLOW_HTTP", "true"),
];

impl Installed {
    async fn new() -> Self {
        let system = System::shared().await;
        let database = system.database().await;
        let ingest = system.role("ingest", &QUICK);
        let base_url = ingest.ready().await;
        let api = Api::of_new_organization(&base_url, &system.operator_token, "One").await;
        let hook = Hook::start().await;
        api.post("/v1/endpoints", &json!({"url": hook.url})).await.expect(201);
        let mut installed = Self {
            other: api.clone(),
            system,
            database,
            _ingest: ingest,
            consumers: Vec::new(),
            urls: Vec::new(),
            api,
            hook,
        };
        installed.start_consumers().await;
        for url in &installed.urls {
            ready(url, true).await;
        }
        let first = post(&installed.api, 1).await;
        all_shown(&installed.api, &first).await;
        let taken = partition_of(&installed.database, &installed.api).await;
        loop {
            let other = Api::of_new_organization(&base_url, &installed.system.operator_token, "Other").await;
            let id = post(&other, 1).await;
            all_shown(&other, &id).await;
            if partition_of(&installed.database, &other).await != taken {
                installed.other = other;
                return installed;
            }
        }
    }

    /// Started, not waited for: a stopped partition keeps readiness red.
    async fn start_consumers(&mut self) {
        self.consumers = ["materializer", "dispatcher"].map(|role| self.system.role(role, &QUICK)).into();
        self.urls.clear();
        for consumer in &self.consumers {
            self.urls.push(format!("http://127.0.0.1:{}", consumer.port().await));
        }
    }

    async fn stop_consumers(&mut self) {
        for consumer in &mut self.consumers {
            consumer.signal(Signal::TERM);
            assert_eq!(consumer.ended().await.code(), Some(0), "{}", consumer.log());
        }
    }

    async fn are_ready(&self, wanted: bool) {
        for url in &self.urls {
            ready(url, wanted).await;
        }
    }

    async fn mend(&self, args: &[&str], code: i32) -> String {
        let finished = self.system.run(&[&["positions", "mend"], args].concat()).await.expect(code);
        finished.output + &finished.log
    }

    async fn log_epochs(&self, partition: i32) -> Vec<(String, i32)> {
        let sql = "SELECT consumer, log_epoch FROM consumer_positions WHERE topic LIKE '%events%' AND partition = $1 ORDER BY 1";
        sqlx::query_as(sql).bind(partition).fetch_all(&self.database).await.unwrap()
    }
}

fn both(log_epoch: i32) -> Vec<(String, i32)> {
    vec![("dispatcher".to_owned(), log_epoch), ("materializer".to_owned(), log_epoch)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_log_stops_its_partition_until_the_command_mends_it_on_running_roles() {
    let mut installed = Installed::new().await;
    let before: Vec<String> = [ids(&installed.api.inbox(1000).await), post(&installed.api, 9).await].concat();
    all_shown(&installed.api, &before).await;
    installed.hook.wait_for(&before).await;
    let (_, cursor) = page(&installed.api, None, 4).await;
    let partition = partition_of(&installed.database, &installed.api).await;
    installed.stop_consumers().await;

    post(&installed.api, 5).await;
    let left = post(&installed.api, 5).await;
    let mut deleted = TopicPartitionList::new();
    let end = positions(&installed.system).await.iter().find(|line| line["partition"] == partition).unwrap()["log_end"]
        .as_i64()
        .unwrap();
    let topic = installed.system.topic(schemas::topics::EVENTS);
    deleted.add_partition_offset(&topic, partition, Offset::Offset(end - 5)).unwrap();
    admin(&installed.system).delete_records(&deleted, &options()).await.unwrap();
    installed.start_consumers().await;
    installed.are_ready(false).await;

    // The other partition goes on, and nothing is skipped here.
    let others = [ids(&installed.other.inbox(10).await), post(&installed.other, 3).await].concat();
    all_shown(&installed.other, &others).await;
    assert_eq!(ids(&installed.api.inbox(1000).await), before);
    for consumer in &installed.consumers {
        eventually(PATIENCE, "the reason is in the log", || async {
            consumer
                .log()
                .contains(&format!("the position is {}, the log reaches from {} to {end}", end - 10, end - 5))
                .then_some(())
        })
        .await;
    }
    let state = |consumer: &str| (consumer.to_owned(), i64::from(partition), "truncated".to_owned());
    assert_eq!(outside(&installed.system).await, [state("dispatcher"), state("materializer")]);
    let said = installed.mend(&["--all-outside"], 1).await;
    assert!(said.contains("5 records were deleted") && said.contains("--yes"), "{said}");
    assert_eq!(outside(&installed.system).await.len(), 2, "nothing was changed");
    let named = ["--consumer", "materializer", "--topic", topic.as_str(), "--partition"];
    let number = partition.to_string();
    installed.mend(&[&named[..], &[number.as_str(), "--yes"]].concat(), 0).await;
    assert_eq!(outside(&installed.system).await, [state("dispatcher")]);
    all_shown(&installed.api, &[before.clone(), left.clone()].concat()).await;
    assert!(left.iter().all(|id| !installed.hook.counts().contains_key(id)), "the other consumer is not mended");
    installed.mend(&["--all-outside", "--yes"], 0).await;
    installed.hook.wait_for(&left).await;
    installed.are_ready(true).await;
    assert_eq!(installed.log_epochs(partition).await, both(1));

    // An old cursor goes on over the boundary; what was written after it is read at once; a keyed event gets its
    // verdict.
    let (rest, cursor) = page(&installed.api, Some(&cursor), 1000).await;
    assert_eq!(rest, [before[4..].to_vec(), left].concat());
    let keyed = installed.api.post_event_as("key", &json!({"event_type": "n", "payload": 1})).await.expect(201).json();
    let keyed = keyed["event_id"].as_str().unwrap().to_owned();
    assert_eq!(page(&installed.api, Some(&cursor), 1000).await.0, [keyed.as_str()], "read what you wrote");
    installed.hook.wait_for(&[keyed]).await;
    assert!(installed.hook.counts().values().all(|count| *count == 1), "{:?}", installed.hook.counts());
    assert_eq!(outside(&installed.system).await, []);
    let said = installed.mend(&["--all-outside", "--yes"], 0).await;
    assert!(said.contains("nothing is to be mended"), "{said}");
    // Nobody listens there.
    let said = installed.mend(&["--all-outside", "--yes", "--kafka-brokers", "127.0.0.1:1"], 1).await;
    assert!(said.contains("it is not known") && !said.contains("nothing is to be mended"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_under_running_roles_stops_and_is_mended_without_a_restart() {
    let installed = Installed::new().await;
    let before: Vec<String> = [ids(&installed.api.inbox(1000).await), post(&installed.api, 9).await].concat();
    all_shown(&installed.api, &before).await;
    installed.hook.wait_for(&before).await;
    let (first, cursor) = page(&installed.api, None, 4).await;
    let partition = partition_of(&installed.database, &installed.api).await;
    recreate(&installed.system).await;
    // Accepted into the new log, whose offsets begin again.
    let accepted = eventually(PATIENCE, "ingest writes to the new topic", || async {
        let reply = installed.api.post("/v1/events", &json!({"event_type": "n", "payload": 0})).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    installed.are_ready(false).await;
    assert!(!outside(&installed.system).await.is_empty());
    installed.mend(&["--all-outside", "--yes"], 0).await;
    let after = [vec![accepted], post(&installed.api, 2).await].concat();
    all_shown(&installed.api, &[before.clone(), after.clone()].concat()).await;
    installed.hook.wait_for(&after).await;
    installed.are_ready(true).await;
    assert_eq!(installed.log_epochs(partition).await, both(2));
    let (rest, _) = page(&installed.api, Some(&cursor), 1000).await;
    let all = [before.clone(), after].concat();
    assert_eq!([first, rest].concat(), all, "an old cursor repeats nothing and skips nothing");
    installed.api.post(&format!("/v1/inbox/ack/{}", before[0]), &json!({})).await.expect(200);
    assert_eq!(ids(&installed.api.inbox(5).await), all[1..], "what is of the old log can be acknowledged");
    assert!(installed.hook.counts().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_stops_although_it_outgrew_positions() {
    let mut installed = Installed::new().await;
    let before = ids(&installed.api.inbox(10).await);
    installed.hook.wait_for(&before).await;
    installed.stop_consumers().await;
    recreate(&installed.system).await;
    let first = eventually(PATIENCE, "ingest writes to the new topic", || async {
        let reply = installed.api.post("/v1/events", &json!({"event_type": "n", "payload": 0})).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    let after = [vec![first], post(&installed.api, 9).await].concat();
    installed.start_consumers().await;
    installed.are_ready(false).await;
    let partition = i64::from(partition_of(&installed.database, &installed.api).await);
    let found = outside(&installed.system).await;
    let state = |consumer: &str| (consumer.to_owned(), partition, "recreated".to_owned());
    assert!(found.contains(&state("materializer")) && found.contains(&state("dispatcher")), "{found:?}");
    assert_eq!(ids(&installed.api.inbox(1000).await), before, "nothing is read from the middle of another log");
    for words in [["rebuild", "--accept-differences"].as_slice(), &["replay", "--from", "2026-01-01T00:00:00Z"]] {
        let refused = installed.system.run(&[&["view"], words].concat()).await.expect(1);
        assert!(refused.log.contains("is outside of its log"), "{}", refused.log);
    }
    assert_eq!(ids(&installed.api.inbox(1000).await), before, "nor by a command");
    let ill = installed.system.run(&["doctor"]).await.expect(1);
    assert!(ill.output.contains(&format!(
        "FAIL  positions: materializer in {}[{partition}]",
        installed.system.topic(schemas::topics::EVENTS)
    )));
    installed.mend(&["--all-outside", "--yes"], 0).await;
    all_shown(&installed.api, &[before, after.clone()].concat()).await;
    installed.hook.wait_for(&after).await;
    assert!(installed.hook.counts().values().all(|count| *count == 1));
    installed.system.run(&["doctor"]).await.expect(0);
}
