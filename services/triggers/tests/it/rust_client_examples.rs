//! The examples of the Rust client (`clients/rust/examples`), run as programs against the roles.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use devstack::testing::eventually;
use serde_json::json;
use tokio::process::Command;

use crate::api::Api;
use crate::process::Process;
use crate::system::{System, finish};

const PATIENCE: Duration = Duration::from_secs(60);

/// Allows webhooks to receivers on this machine.
const RECEIVERS: [(&str, &str); 2] = [("WEBHOOK_ALLOW_HTTP", "true"), ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

/// A built example. `cargo test --workspace` builds it beside the binary.
fn example(name: &str, api: &Api) -> Command {
    let binary: PathBuf = Path::new(env!("CARGO_BIN_EXE_triggers")).with_file_name("examples").join(name);
    assert!(binary.exists(), "build it first: cargo build --profile ci -p triggers-client --examples");
    let mut command = Command::new(binary);
    command.env("TRIGGERS_URL", &api.base_url).env("TRIGGERS_API_KEY", &api.key);
    // A proxy that does not answer: nothing that is meant for this machine goes there.
    command.envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, "http://127.0.0.1:1")));
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_rust_client_run() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&RECEIVERS).await;
    let dispatcher = system.role("dispatcher", &RECEIVERS);
    dispatcher.ready().await;

    // The port is known before the secret is: the endpoint names the port, and its answer has the secret.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = json!({"url": format!("http://127.0.0.1:{port}/hook")});
    let endpoint = api.post("/v1/endpoints", &endpoint).await.expect(201).json();
    let mut receiver = example("webhook_receiver", &api);
    receiver.env("WEBHOOK_SECRET", endpoint["secret"].as_str().unwrap()).arg(port.to_string());
    let receiver = Process::start(receiver, system.folder(), "webhook_receiver");
    receiver.printed("listening").await;

    let produced = finish(example("produce", &api), &["7"]).await.expect(0);
    // `order ID is new`, `item INDEX ID`.
    let id = |line: &'_ str| line.split(' ').find(|word| word.len() == 36).unwrap().to_owned();
    let ids: Vec<String> = produced.output.lines().map(id).collect();
    assert!(ids.len() == 4 && produced.output.contains("is new"), "{}", produced.output);
    let again = finish(example("produce", &api), &["7"]).await.expect(0);
    assert!(again.output.contains("was there") && again.output.contains(&ids[3]), "{}", again.output);

    let consumed = finish(example("consume", &api), &["4"]).await.expect(0);
    let in_inbox: Vec<&str> = consumed.output.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(in_inbox, ids, "{}", consumed.output);
    assert!(consumed.output.contains(r#"order.item {"name":"apples","order":"7"}"#), "{}", consumed.output);
    assert!(api.inbox(50).await.is_empty(), "each is acknowledged");

    eventually(PATIENCE, "each webhook is verified", || async {
        let output = receiver.output();
        ids.iter().all(|id| output.contains(id)).then_some(())
    })
    .await;
    assert_eq!(receiver.log(), "", "none is refused");
}
