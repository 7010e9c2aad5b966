//! The commands against a running system: their output, exit codes and one-line error messages.

use std::path::Path;
use std::time::Duration;

use devstack::testing::eventually;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};

use crate::api::Api;
use crate::process::triggers;
use crate::system::{System, finish};

#[tokio::test]
async fn exit_codes_of_help_usage_errors_and_failures() {
    let folder = tempfile::tempdir().unwrap();
    let wrong: [&[&str]; 7] = [
        &[],
        &["frobnicate"],
        &["send"],
        &["key", "create"],
        &["up", "--port", "nine"],
        // An id is no path: this would revoke a key.
        &["endpoint", "delete", "../keys/0192f0c1-2345-7abc-8def-0123456789ab"],
        &["replay", "cancel", "0192f0c1-2345-7abc-8def-0123456789ab#"],
    ];
    for args in wrong {
        let finished = finish(triggers(folder.path()), args).await.expect(2);
        assert!(finished.log.starts_with("error: ") || finished.log.contains("Usage:"), "{}", finished.log);
    }
    for args in [&["--help"][..], &["send", "--help"], &["--version"]] {
        assert!(!finish(triggers(folder.path()), args).await.expect(0).output.is_empty());
    }
    let finished = finish(triggers(folder.path()), &["inbox"]).await.expect(1);
    assert!(finished.log.starts_with("triggers: ") && finished.log.lines().count() == 1, "{}", finished.log);
    let finished =
        finish(triggers(folder.path()), &["inbox", "--url", "http://127.0.0.1:1", "--key", "k"]).await.expect(1);
    assert!(finished.log.contains("is it running?") && finished.log.lines().count() == 1, "{}", finished.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_works_on_a_running_system() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let api = organizations_and_keys(&system, &api).await;
    let id = events(&system, &api).await;
    acks(&system, &api, &id).await;
    endpoints(&system, &api).await;
    operations(&system).await;
}

/// Creates an organization with the commands; returns a client of it.
async fn organizations_and_keys(system: &System, api: &Api) -> Api {
    let created = system.run_as(api, &["org", "create", "Acme", "--tier", "enterprise"]).await.expect(0).json();
    let id = created[0]["id"].as_str().unwrap();
    let listed = system.run_as(api, &["org", "list"]).await.expect(0).json();
    assert!(
        listed.iter().any(|org| org["id"] == id && org["name"] == "Acme" && org["tier"] == "enterprise"),
        "{listed:?}"
    );
    assert_eq!(system.run_as(api, &["org", "show", id]).await.expect(0).json()[0]["name"], "Acme");
    system.run_as(api, &["org", "create", "Acme", "--tier", "golden"]).await.expect(1);

    let key = system.run_as(api, &["key", "create", "boss", "--role", "manage", "--org", id]).await.expect(0).json();
    let acme = Api::new(&api.base_url, key[0]["key"].as_str().unwrap()).await;
    assert_eq!(acme.org_id, id);
    let create = ["key", "create", "second", "--role", "produce", "--limit", "9", "--expires", "2100-01-01T00:00:00Z"];
    let second = system.run_as(&acme, &create).await.expect(0).json();
    let second = acme.with_key(second[0]["key"].as_str().unwrap());
    let listed = system.run_as(&acme, &["key", "list"]).await.expect(0);
    assert!(!listed.output.contains(&acme.key) && !listed.output.contains(&second.key), "a key is shown only once");
    let keys = listed.json();
    let key_id = keys.iter().find(|key| key["name"] == "second").unwrap()["id"].as_str().unwrap();

    assert_eq!(second_limit(&keys), 9);
    let patched = system.run_as(&acme, &["key", "patch", key_id, "--limit", "8"]).await.expect(0).json();
    assert_eq!((&patched[0]["rate_limit_per_minute"], &patched[0]["name"]), (&json!(8), &json!("second")));
    restrictions_are_removed(system, &acme, key_id).await;
    organization_is_patched(system, api, &acme).await;
    let rotated = system.run_as(&acme, &["key", "rotate"]).await.expect(0).json();
    let acme = acme.with_key(rotated[0]["api_key"].as_str().unwrap());
    let audit = system.run_as(&acme, &["audit", "--action", "key.rotated"]).await.expect(0);
    assert!(audit.output.contains("key.rotated") && !audit.output.contains("key.created"), "{}", audit.output);
    let newest = system.run_as(&acme, &["audit", "--limit", "1", "--since", "2020-01-01T00:00:00Z"]).await.expect(0);
    let cursor = newest.log.split_once("--cursor ").expect("the cursor of the next page").1.trim();
    let older = system.run_as(&acme, &["audit", "--limit", "1", "--cursor", cursor]).await.expect(0);
    assert!(!older.output.is_empty() && older.output != newest.output, "{}", older.output);
    let none = system.run_as(&acme, &["audit", "--until", "2020-01-01T00:00:00Z"]).await.expect(0);
    assert!(none.output.is_empty(), "{}", none.output);

    system.run_as(&second, &["send", "first", "--dedup-id", "only"]).await.expect(0);
    system.run_as(&acme, &["key", "revoke", key_id]).await.expect(0);
    eventually(Duration::from_secs(1), "the revoked key is refused", || async {
        let reply = second.post("/v1/events", &json!({"event_type": "late", "payload": 1})).await;
        (reply.status == 401).then_some(())
    })
    .await;
    let refused = system.run_as(&second, &["send", "late"]).await.expect(1);
    assert!(refused.log.contains("401") && !refused.log.contains(&second.key), "{}", refused.log);
    system.run_as(&acme, &["key", "revoke", &uuid::Uuid::new_v4().to_string()]).await.expect(1);
    acme
}

async fn restrictions_are_removed(system: &System, acme: &Api, key_id: &str) {
    let patch = ["key", "patch", key_id, "--no-limit", "--no-expiry", "--event-type", "first"];
    let patched = system.run_as(acme, &patch).await.expect(0).json();
    let members = ["rate_limit_per_minute", "expires_at", "event_types"].map(|member| &patched[0][member]);
    assert_eq!(members, [&json!(null), &json!(null), &json!(["first"])]);
    let patched = system.run_as(acme, &["key", "patch", key_id, "--all-event-types"]).await.expect(0).json();
    assert_eq!(patched[0]["event_types"], json!(null));
    system.run_as(acme, &["key", "patch", key_id, "--limit", "8", "--no-limit"]).await.expect(2);
}

async fn organization_is_patched(system: &System, api: &Api, acme: &Api) {
    let id = &*acme.org_id;
    let patch = ["org", "patch", id, "--tier", "business", "--limit", "7", "--webhook-url", "https://example.com/hook"];
    let patched = system.run_as(api, &patch).await.expect(0).json();
    assert_eq!(patched[0]["webhook_url"], "https://example.com/hook");
    assert!(patched[0]["webhook_secret"].is_string());
    let business = system.run_as(api, &["org", "patch", id, "--no-limit"]).await.expect(0).json();
    assert_eq!(business[0]["rate_limit_per_minute"], 10_000);
    let listed = system.run_as(acme, &["endpoint", "list"]).await.expect(0).json();
    assert_eq!((listed.len(), &listed[0]["url"]), (1, &json!("https://example.com/hook")));
    system.run_as(acme, &["endpoint", "delete", listed[0]["id"].as_str().unwrap()]).await.expect(0);
    let shown = system.run_as(api, &["org", "show", id]).await.expect(0).json();
    assert_eq!(shown[0]["webhook_url"], json!(null));
}

fn second_limit(keys: &[Value]) -> u64 {
    let second = keys.iter().find(|key| key["name"] == "second").unwrap();
    second["rate_limit_per_minute"].as_u64().unwrap()
}

/// Returns the id of an event in the inbox.
async fn events(system: &System, api: &Api) -> String {
    let sent = system.run_as(api, &["send", "order.created", r#"{"id": 1}"#]).await.expect(0).json();
    assert_eq!(sent[0]["status"], "accepted");
    let id = sent[0]["event_id"].as_str().unwrap().to_owned();
    let repeated = system.run_as(api, &["send", "first", "--dedup-id", "only"]).await.expect(1);
    assert!(repeated.log.contains("409"), "{}", repeated.log);
    system.run_as(api, &["send", "order.created", "{"]).await.expect(1);

    let listed = system.run_as(api, &["inbox", "--event-type", "order.created"]).await.expect(0).json();
    assert_eq!((listed.len(), &listed[0]["event_id"], &listed[0]["payload"]), (1, &json!(id), &json!({"id": 1})));
    let page = system.run_as(api, &["inbox", "--json", "--limit", "1"]).await.expect(0).json();
    assert_eq!((&page[0]["has_more"], &page[0]["events"][0]["event_type"]), (&json!(true), &json!("first")));
    let tailed = system.run_as(api, &["tail", "--from-start", "--count", "2"]).await.expect(0).json();
    let types: Vec<&Value> = tailed.iter().map(|event| &event["event_type"]).collect();
    assert_eq!(types, ["first", "order.created"]);
    id
}

async fn acks(system: &System, api: &Api, id: &str) {
    let done = system.run_as(api, &["ack", id]).await.expect(0);
    assert_eq!(done.output.trim(), "1 acknowledged");
    system.run_as(api, &["ack", id]).await.expect(0);
    let stranger = uuid::Uuid::new_v4().to_string();
    system.run_as(api, &["ack", &stranger]).await.expect(1);
    assert_eq!(system.run_as(api, &["inbox"]).await.expect(0).json().len(), 1);
    system.run_as(api, &["ack", "--all"]).await.expect(0);
    assert!(system.run_as(api, &["inbox"]).await.expect(0).output.is_empty());
    assert_eq!(system.run_as(api, &["inbox", "--all"]).await.expect(0).json().len(), 2);
}

async fn endpoints(system: &System, api: &Api) {
    let create =
        ["endpoint", "create", "https://example.com/hook", "--event-type", "order.*", "--description", "orders"];
    let created = system.run_as(api, &create).await.expect(0).json();
    assert!(created[0]["secret"].as_str().unwrap().starts_with("whsec_"));
    let id = created[0]["id"].as_str().unwrap();
    let listed = system.run_as(api, &["endpoint", "list"]).await.expect(0).json();
    assert_eq!(
        (listed.len(), &listed[0]["id"], &listed[0]["url"]),
        (1, &json!(id), &json!("https://example.com/hook"))
    );
    assert!(listed[0]["secret"].is_null(), "the secret is shown once");
    system.run_as(api, &["endpoint", "delete", id]).await.expect(0);
    assert!(system.run_as(api, &["endpoint", "list"]).await.expect(0).output.is_empty());
    system.run_as(api, &["endpoint", "show", id]).await.expect(1);
    system.run_as(api, &["endpoint", "create", "ftp://example.com/"]).await.expect(1);
}

async fn operations(system: &System) {
    eventually(Duration::from_secs(10), "the lag is 0", || async {
        let lag = system.run(&["lag"]).await.expect(0).json();
        let events = lag.iter().find(|line| line["topic"] == system.topic(schemas::topics::EVENTS))?;
        (events["lag_records"] == 0).then_some(())
    })
    .await;
    let planned = system.run(&["topics", "plan"]).await.expect(0);
    assert_eq!(planned.output.lines().count(), 1, "{}", planned.output);
    let mut command = system.command();
    command.env("TOPIC_PREFIX", format!("{}other.", system.topic_prefix));
    let planned = finish(command, &["topics", "plan"]).await.expect(1);
    assert_eq!(planned.output.matches("missing").count(), 4, "{}", planned.output);

    let healthy = system.run(&["doctor"]).await.expect(0);
    assert!(healthy.output.lines().all(|line| line.starts_with("ok ")), "{}", healthy.output);
    let mut command = system.command();
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    let failed = finish(command, &["doctor"]).await.expect(1);
    assert!(failed.output.contains("FAIL  PostgreSQL") && failed.output.contains("DATABASE_URL"), "{}", failed.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_commands_use_options_before_dev_json() {
    let system = System::shared().await;
    let nowhere = "127.0.0.1:1";
    let nobody = "postgres://nobody@127.0.0.1:1/nothing";
    let dev_json = |folder: &Path, brokers: &str, database_url: &str| {
        let dev = json!({
            "base_url": "http://127.0.0.1:1", "api_key": "k", "organization_id": "o", "operator_token": "t",
            "kafka_brokers": brokers, "database_url": database_url, "metrics_urls": [],
        });
        std::fs::write(folder.join("dev.json"), dev.to_string()).unwrap();
    };
    let run = |folder: &Path, args: &[&str]| {
        let mut command = system.command();
        command.env_remove("KAFKA_BROKERS").env_remove("DATABASE_URL").env("TRIGGERS_DATA_DIR", folder);
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        async move { finish(command, &args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };

    let local = tempfile::tempdir().unwrap();
    dev_json(local.path(), &system.brokers, &system.database_url);
    for args in [&["topics", "plan"][..], &["topics", "apply"], &["migrate"], &["lag"]] {
        run(local.path(), args).await.expect(0);
    }
    let elsewhere = tempfile::tempdir().unwrap();
    dev_json(elsewhere.path(), nowhere, nobody);
    let (brokers, database_url) = (["--kafka-brokers", &system.brokers], ["--database-url", &system.database_url]);
    run(elsewhere.path(), &[&["topics", "plan"][..], &brokers].concat()).await.expect(0);
    run(elsewhere.path(), &[&["migrate"][..], &database_url].concat()).await.expect(0);
    run(elsewhere.path(), &[&["lag"][..], &brokers, &database_url].concat()).await.expect(0);
    let checked = run(elsewhere.path(), &[&["doctor"][..], &brokers, &database_url].concat()).await.expect(1).output;
    assert_eq!(checked.matches("FAIL").count(), 1, "only the API of dev.json does not answer: {checked}");
    assert!(checked.contains("FAIL  API") && checked.contains(&format!("{} answers", system.brokers)), "{checked}");

    std::fs::write(elsewhere.path().join("dev.json"), "{").unwrap();
    let refused = run(elsewhere.path(), &["topics", "plan"]).await.expect(1);
    assert!(refused.log.contains("dev.json is not a file that `triggers up` wrote"), "{}", refused.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_counts_records_behind_an_open_transaction() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let system = System::shared().await;
    let (_ingest, _materializer, _api) = system.inbox_roles(&[]).await;
    let (brokers, topic) = (system.brokers.clone(), system.topic(schemas::topics::EVENTS));
    let lag_is = async |expected: i64| {
        eventually(PATIENCE, &format!("the lag is {expected}"), || async {
            let lines = system.run(&["lag"]).await.expect(0).json();
            let line = lines.into_iter().find(|line| line["topic"] == topic.as_str())?;
            (line["lag_records"] == expected).then_some(())
        })
        .await;
    };
    lag_is(0).await;
    let events = topic.clone();
    let open = move || {
        let mut config = ClientConfig::new();
        let config = config.set("bootstrap.servers", brokers).set("transactional.id", &events);
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&events).partition(0).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer
    };
    let producer = tokio::task::spawn_blocking(open).await.unwrap();
    lag_is(1).await;
    tokio::task::spawn_blocking(move || producer.abort_transaction(PATIENCE).unwrap()).await.unwrap();
    lag_is(0).await;
}
