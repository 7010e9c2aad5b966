//! `bench peer`: starts a peer, measures it, stops it with all its processes, and leaves no topic.
//!
//! The peers here are scripts, some with the bare loop of this binary as their server. The programs of the real peers
//! run only until they miss a tool.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{assert_code, bench};

const BENCH: &str = env!("CARGO_BIN_EXE_bench");
/// A small closed load. The warm-up lasts until its requests are answered, however long a new broker takes.
const LOAD: [&str; 11] =
    ["--warm-up", "100ms", "--closed", "--concurrency", "4", "--ramp", "0", "--duration", "500ms", "--orgs", "5"];

/// A folder of peers in which `name` has this script.
fn peers(name: &str, script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(name)).unwrap();
    let path = folder.path().join(name).join("run");
    std::fs::write(&path, format!("#!/usr/bin/env bash\nset -eu\ncd \"$(dirname \"$0\")\"\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

async fn peer(name: &str, peers: &Path, more: &[&str]) -> (std::process::Output, serde_json::Value) {
    let start = ["peer", name, "--peers", peers.to_str().unwrap()];
    bench(&[&start[..], more].concat(), &peers.join("report")).await
}

/// Waits until the processes whose ids the script has noted are gone.
async fn assert_gone(noted: &Path) {
    let pids = std::fs::read_to_string(noted).unwrap();
    assert!(!pids.trim().is_empty());
    devstack::testing::eventually(Duration::from_secs(10), "the processes of the peer are gone", || async {
        pids.split_whitespace().all(is_gone).then_some(())
    })
    .await;
}

/// A process that has ended may wait for its parent to notice.
fn is_gone(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_peer_is_measured_and_leaves_neither_processes_nor_topic() {
    let brokers = devstack::testing::shared().await.brokers();
    let script = format!(
        "sleep 600 >/dev/null 2>&1 & echo $$ $! >pids\n\
         exec {BENCH} bare-server --threads 1 --brokers \"$PEER_BROKERS\" --topic \"$PEER_TOPIC\""
    );
    let peers = peers("camel", &script);
    let (output, report) = peer("camel", peers.path(), &[&LOAD[..], &["--brokers", brokers]].concat()).await;
    assert_code(&output, 0);
    let run = &report["runs"][0];
    assert_eq!((&run["name"], &run["figures"]["load"]["model"]), (&"camel-closed".into(), &"closed".into()));
    assert!(run["figures"]["requests"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!(run["figures"]["errors"], 0);
    assert!(run["figures"]["components"]["peer"]["memory_mib"].as_f64().unwrap() > 0.5, "{report:#}");
    assert!(run["figures"]["cpu_us_per_event"]["kafka"].is_number(), "{report:#}");
    assert_gone(&peers.path().join("camel/pids")).await;
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    devstack::testing::eventually(Duration::from_secs(10), "the topic is gone", || async {
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
        metadata.topics().iter().all(|topic| !topic.name().starts_with("bench.peer.")).then_some(())
    })
    .await;
}

/// Answers 204 on the routes of Durable Streams, without a body and an id.
const WITHOUT_IDS: &str = r#"echo $$ >pids
code=$(cat <<'END'
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204 if self.path in ("/events/0", "/events/1") else 404)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], "Stub 1.2", flush=True)
server.serve_forever()
END
)
exec python3 -c "$code""#;

#[tokio::test]
async fn a_peer_without_ids_is_measured_open_and_closed() {
    let peers = peers("durable-streams", WITHOUT_IDS);
    let load = ["--warm-up", "100ms", "--rate", "100", "--ramp", "0", "--duration", "500ms", "--orgs", "2"];
    let (output, report) =
        peer("durable-streams", peers.path(), &[&load[..], &["--connections", "2"], &["--concurrency", "2"]].concat())
            .await;
    assert_code(&output, 0);
    let names: Vec<_> = report["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["durable-streams-open", "durable-streams-closed"]);
    assert_eq!(report["runs"][0]["figures"]["requests"], 50);
    assert_eq!(report["runs"][0]["figures"]["errors"], 0, "{report:#}");
    assert_eq!(report["runs"][0]["environment"]["versions"]["durable-streams"], "Stub 1.2");
    assert!(peers.path().join("report/series-durable-streams-open.csv").exists());
    assert_gone(&peers.path().join("durable-streams/pids")).await;
}

#[tokio::test]
async fn a_peer_that_ends_or_says_nonsense_fails_the_run() {
    for (script, expected) in [
        ("echo 'no java here' >&2; exit 3", "ended before it printed its port: exit status: 3"),
        ("sleep 600 >/dev/null 2>&1 & echo $$ $! >pids; echo ready; wait", "printed `ready` instead of PORT VERSION"),
        ("echo $$ >pids; trap '' TERM; exec >&-; while true; do sleep 1; done", "closed its output"),
    ] {
        let peers = peers("durable-streams", script);
        let (output, _) = peer("durable-streams", peers.path(), &LOAD).await;
        assert_code(&output, 1);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains(expected), "{printed}");
        if script.contains("pids") {
            assert_gone(&peers.path().join("durable-streams/pids")).await;
        }
    }
}

/// Posts as many webhooks as the test writes records, one of them twice.
const DELIVERS: &str = r#"echo $$ >pids
[ "$1" = deliver ]
code=$(cat <<'END'
import os, sys, urllib.request, uuid
print("0 Stub", flush=True)
ids = [str(uuid.uuid4()) for _ in range(200)]
for id in ids[:1] + ids[:-1]:
    request = urllib.request.Request(os.environ["PEER_TARGET"], b"{}", {"webhook-id": id}, method="POST")
    assert urllib.request.urlopen(request).status == 204
sys.stdin.read()
END
)
exec python3 -c "$code""#;

#[tokio::test]
async fn deliveries_of_a_peer_are_counted_at_the_receiver() {
    let brokers = devstack::testing::shared().await.brokers();
    let peers = peers("camel", DELIVERS);
    let (output, report) = peer("camel-deliver", peers.path(), &["--records", "200", "--brokers", brokers]).await;
    // 200 arrived, of which one came twice, so one is missing.
    assert_code(&output, 1);
    assert_eq!(report["deliveries"]["missing"], 1, "{report:#}");
    assert_eq!(report["deliveries"]["repeated"], 1);
    assert!(report["deliveries"]["per_second"].as_f64().unwrap() > 1.0, "{report:#}");
    assert_gone(&peers.path().join("camel/pids")).await;
}

/// The program of a real peer, in an environment that has only these tools.
fn run_without(name: &str, tools: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for tool in ["bash", "dirname", "sed", "head"].iter().chain(tools) {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|path| path.join(tool))
            .find(|path| path.exists());
        std::os::unix::fs::symlink(found.unwrap(), folder.path().join(tool)).unwrap();
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../peers").join(name).join("run");
    let output = std::process::Command::new("/bin/bash")
        .arg(script)
        .env_clear()
        .envs([("PATH", folder.path()), ("HOME", folder.path())])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_programs_of_the_peers_name_a_missing_tool() {
    let printed = run_without("camel", &[]);
    assert!(printed.contains("Camel cannot start: java is missing; install the Debian package"), "{printed}");
    let printed = run_without("camel", &["java"]);
    assert!(printed.contains("Camel cannot start: javac is missing"), "{printed}");
    let printed = run_without("durable-streams", &[]);
    assert!(printed.contains("Durable Streams cannot start: cargo is missing"), "{printed}");
}
