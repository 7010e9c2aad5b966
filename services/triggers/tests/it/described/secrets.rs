//! After a request to every route, no secret is in a log, in the database, or on the disk, except in the files that are
//! there to keep it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use devstack::Signal;
use devstack::testing::read_topic;
use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use schemas::topics;
use serde_json::{Value, json};

use super::{Document, Ids};
use crate::api::Api;
use crate::system::System;
use crate::up::ParentFolder;

/// Files of the data folder that keep secrets. Only their owner may read them.
const KEEPERS: [&str; 3] = ["dev.json", "operator.token", "dev.key"];

/// Everything in an answer that only its receiver may know.
fn secrets_in(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if matches!(name.as_str(), "key" | "api_key" | "secret" | "webhook_secret") => {
                        found.push(text.to_owned())
                    }
                    _ => secrets_in(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secrets_in(item, found)),
        _ => {}
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_no_log_no_table_and_no_file() {
    let parent = ParentFolder::new();
    let (mut up, dev) = parent.up().await;
    let api = Api::new(dev["base_url"].as_str().unwrap(), dev["api_key"].as_str().unwrap()).await;
    let operator = api.with_key(dev["operator_token"].as_str().unwrap());
    let document = Document::of(&api).await;
    let mut secrets = vec![api.key.clone(), operator.key.clone()];
    let header = "value-of-a-secret-header";
    let (token, signing) = ("token-of-an-endpoint-with-auth", "secret-of-a-second-signature");
    secrets.extend([header, token, signing].map(str::to_owned));
    let endpoint = json!({"url": "http://127.0.0.1:9/hook", "headers": {"x-token": header},
                          "auth": {"type": "bearer", "token": token},
                          "compat_signature": {"format": "sha256-hex", "header": "x-sig", "secret": signing}});
    let endpoint = api.post("/v1/endpoints", &endpoint).await.expect(201).json();
    secrets_in(&endpoint, &mut secrets);
    let event = api.accept("order.created", &json!(1)).await;
    let mut called = 0;
    for operation in document.operations() {
        let key = api.post("/v1/keys", &json!({"name": "one", "role": "admin"})).await.expect(201).json();
        secrets_in(&key, &mut secrets);
        let ids = Ids {
            organization: api.org_id.clone(),
            event: event.clone(),
            endpoint: endpoint["id"].as_str().unwrap().to_owned(),
            key: key["id"].as_str().unwrap().to_owned(),
        };
        // The organization is erased last, or nothing of it would be left to look at.
        if operation.name() == "DELETE /v1/organizations/{id}" {
            continue;
        }
        let caller = if operation.needs_operator() { &operator } else { &api.with_key(key["key"].as_str().unwrap()) };
        let body = operation.body(&event);
        let reply = caller.call(&operation.method, &operation.path_with(&ids), body.as_ref()).await;
        document.check(&operation, &reply);
        called += usize::from(reply.status < 400);
        if !reply.text.is_empty() {
            secrets_in(&reply.json(), &mut secrets);
        }
        // A key in the wrong place: in a path, in a query, and as a key that is not known.
        let wrong = format!("{}x", key["key"].as_str().unwrap());
        secrets.push(wrong.clone());
        drop(api.with_key(&wrong).call(&operation.method, &operation.path_with(&ids), body.as_ref()).await);
    }
    assert!(called > 25 && secrets.len() > 60, "{called} calls were answered, {} secrets", secrets.len());
    let tables = System::tables(dev["database_url"].as_str().unwrap()).await;
    assert!(tables.contains("order.created") && tables.contains("audit_log"), "the tables were read");
    assert_none(&secrets, tables.as_bytes(), "the database");
    assert_none(&secrets, up.log().as_bytes(), "the log");
    for topic in [topics::EVENTS, topics::ACKS, topics::DELIVERIES] {
        // Records are compressed, so that a search of the files would not find a secret in them.
        for record in read_topic(dev["kafka_brokers"].as_str().unwrap(), topic).await {
            assert_none(&secrets, record.payload().unwrap_or_default(), topic);
            let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
            headers.for_each(|header| assert_none(&secrets, header.value.unwrap_or_default(), topic));
        }
    }
    up.signal(Signal::INT);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.log());
    let mut files = Vec::new();
    files_below(&parent.data(), &mut files);
    assert!(files.len() > 100, "Kafka and PostgreSQL have written files: {}", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy();
        if KEEPERS.contains(&&*name) {
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o077, 0, "{} is private", path.display());
            continue;
        }
        assert_none(&secrets, &std::fs::read(&path).unwrap_or_default(), &path.display().to_string());
    }
}

#[track_caller]
fn assert_none(secrets: &[String], bytes: &[u8], place: &str) {
    if let Some(found) = AhoCorasick::new(secrets).unwrap().find(bytes) {
        panic!("the secret that begins with {} is in {place}", &secrets[found.pattern()][..12]);
    }
}
