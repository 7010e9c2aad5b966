//! Where the command line sends keys and tokens, and from where it takes them.

use std::fs;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use testkit::receiver::{Receiver, ReceiverBehavior};
use tokio::process::Command;

use crate::process::triggers;
use crate::system::{Finished, finish};

const KEY: &str = "zap_test_secret_of_the_command_line";
const SEND: [&str; 3] = ["send", "order.created", "{}"];

/// A command with a proxy in its environment, as many companies have it.
fn behind_proxy(folder: &std::path::Path, proxy: &Receiver) -> Command {
    let mut command = triggers(folder);
    let url = format!("http://127.0.0.1:{}", proxy.port());
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, &url);
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    command
}

/// A system that answers every request with a redirect. Returns its URL and the `Authorization` headers that it got.
pub(crate) async fn redirecting(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let received: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = received.clone();
    let redirect = move |headers: HeaderMap| async move {
        noted.lock().unwrap().push(headers["authorization"].to_str().unwrap().to_owned());
        (StatusCode::TEMPORARY_REDIRECT, [("location", target)]).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(tokio::spawn(async move { axum::serve(listener, Router::new().fallback(redirect)).await }));
    (url, received)
}

async fn send(command: Command, url: &str, key: &str) -> Finished {
    finish(command, &[&SEND[..], &["--url", url, "--key", key]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_this_machine_goes_to_no_proxy_and_follows_no_redirect() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, other) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(200)).await);
    let (url, received) = redirecting(other.url()).await;
    let finished = send(behind_proxy(folder.path(), &proxy), &url, KEY).await.expect(1);
    assert!(finished.log.contains(&format!("redirects to {}", other.url())), "{}", finished.log);
    assert_eq!(*received.lock().unwrap(), [format!("Bearer {KEY}")]);
    assert!(other.received().is_empty() && proxy.received().is_empty(), "nobody else gets the event or the key");
    assert!(!finished.log.contains("plain text"), "this machine is no network: {}", finished.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_to_another_host_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    // It stands for the network: the name does not exist.
    let proxy = Receiver::start(ReceiverBehavior::Status(500)).await;
    let finished = send(behind_proxy(folder.path(), &proxy), "http://triggers.invalid", KEY).await.expect(1);
    assert!(finished.log.contains("goes to triggers.invalid in plain text"), "{}", finished.log);
    assert_eq!(proxy.received().len(), 1, "a proxy is used for other hosts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_a_file_is_sent_without_its_line_break() {
    let folder = tempfile::tempdir().unwrap();
    let system = Receiver::start(ReceiverBehavior::Status(500)).await;
    let url = format!("http://127.0.0.1:{}", system.port());
    fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    let finished = send(triggers(folder.path()), &url, "@key").await.expect(1);
    assert!(!finished.log.contains(KEY), "{}", finished.log);
    assert_eq!(system.received()[0].header("authorization"), format!("Bearer {KEY}"));
    let mut from_variable = triggers(folder.path());
    from_variable.env("TRIGGERS_API_KEY", "@key").args(SEND).args(["--url", &url]);
    finish(from_variable, &[]).await.expect(1);
    assert_eq!(system.received()[1].header("authorization"), format!("Bearer {KEY}"));
    let finished = send(triggers(folder.path()), &url, "@nowhere").await.expect(2);
    assert!(
        finished.log.contains("--key") && finished.log.contains("cannot read the file nowhere"),
        "{}",
        finished.log
    );
}
