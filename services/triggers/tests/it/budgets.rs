//! Targets S18: clients that send half a body or read slowly take a bounded part of the memory of `ingest`.

use std::io::Write;
use std::time::Duration;

use devstack::testing::eventually;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::api::Api;
use crate::process::Process;
use crate::system::System;

const MIB: u64 = 1024 * 1024;
const MOST_GROWTH: u64 = 100 * MIB;
const DEADLINE: Duration = Duration::from_secs(60);

/// Resident memory of the process, bytes.
pub(crate) fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

pub(crate) fn gzip_of(bytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(br#"{"organization_name":""#).unwrap();
    encoder.write_all(&vec![b'a'; bytes]).unwrap();
    encoder.finish().unwrap()
}

/// Prints the figure, for docs/performance.md.
fn check_growth(growth: u64, most: u64, what: &str) {
    println!("{what}: {:.1} MiB of memory", growth as f64 / MIB as f64);
    assert!(growth < most, "{what}: {} MiB", growth / MIB);
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.base_url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends a head and a part of its body on each of `count` connections, which stay open.
pub(crate) async fn half_sent(api: &Api, count: usize, head: &str, part: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(api).await;
        let length = part.len() + 1_000;
        let head = format!("{head}host: localhost\r\ncontent-length: {length}\r\n\r\n");
        // The server may have refused already.
        drop(stream.write_all(head.as_bytes()).await);
        drop(stream.write_all(part).await);
        open.push(stream);
    }
    open
}

/// The status of the answer that is there, if there is one.
pub(crate) fn status(stream: &TcpStream) -> Option<u16> {
    let mut answer = [0; 12];
    let read = stream.try_read(&mut answer).ok()?;
    std::str::from_utf8(&answer[..read]).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies_take_little_memory() {
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[("MAX_CONNECTIONS_PER_ADDRESS", "20000")]).await;
    let packed = gzip_of(511 * 1024);
    let key = format!("authorization: Bearer {}\r\n", api.key);
    let signup = "POST /v1/keys/generate HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n";
    let accept = format!("POST /v1/events HTTP/1.1\r\n{key}");
    let endpoint = format!("POST /v1/endpoints HTTP/1.1\r\n{key}content-encoding: gzip\r\n");
    let plain = vec![b'x'; 400 * 1024];
    let cases = [
        ("sign-up, which is off", signup, &packed, &[401, 403][..]),
        ("an event", &accept, &plain, &[429, 503]),
        ("an endpoint in gzip", &endpoint, &packed, &[429, 503]),
    ];
    for (what, head, part, refusals) in cases {
        let before = resident(&ingest);
        let open = half_sent(&api, 1_000, head, part).await;
        eventually(DEADLINE, &format!("{what}: a body is refused before it is complete"), || async {
            open.iter().any(|stream| status(stream).is_some_and(|status| refusals.contains(&status))).then_some(())
        })
        .await;
        let growth = resident(&ingest).saturating_sub(before);
        check_growth(growth, MOST_GROWTH, &format!("1,000 half-sent bodies, {what}"));
        // Small requests are served meanwhile.
        api.accept("small", &json!(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_large_pages_take_little_memory() {
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[]).await;
    for n in 0..64 {
        let text = format!("{n:02}").repeat(127 * 1024);
        api.accept("large", &json!(text)).await;
    }
    eventually(DEADLINE, "a page of 2 MiB", || async {
        (api.get("/v1/inbox?limit=1000").await.text.len() > 1024 * 1024).then_some(())
    })
    .await;
    let page = api.get("/v1/inbox?limit=1000").await.expect(200);
    assert!(page.text.len() as u64 <= 2 * MIB + 64 * 1024, "a page of {} bytes", page.text.len());
    assert_eq!(page.json()["has_more"], true);
    let before = resident(&ingest);
    let mut readers = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let address = api.base_url.strip_prefix("http://").unwrap().parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let head = format!(
            "GET /v1/inbox?limit=1000 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
            api.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        readers.push(stream);
    }
    let mut refused = 0;
    for stream in &mut readers {
        let mut start = [0; 12];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut start)).await.unwrap().unwrap();
        refused += usize::from(matches!(&start[9..], b"429" | b"503"));
    }
    assert!(refused > 0, "pages over the budget are refused");
    let growth = resident(&ingest).saturating_sub(before);
    check_growth(growth, MOST_GROWTH, "100 slow readers");
    drop(readers);
    eventually(DEADLINE, "the budget is free again", || async {
        (api.get("/v1/inbox?limit=1000").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_take_little_memory() {
    // Some are of the other tests of this process.
    let count = http_server::connections_that_fit(11_000) as u64 - 1_000;
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[("MAX_CONNECTIONS_PER_ADDRESS", "20000")]).await;
    let head = format!("GET /v1/endpoints HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n", api.key);
    let before = resident(&ingest);
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = connect(&api).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut start)).await.unwrap().unwrap();
        assert_eq!(&start[9..], b"200");
        open.push(stream);
    }
    let growth = resident(&ingest).saturating_sub(before);
    check_growth(growth, MOST_GROWTH * count / 10_000, &format!("{count} idle connections"));
    // They are still there.
    let last = open.last_mut().unwrap();
    last.write_all(head.as_bytes()).await.unwrap();
    assert!(tokio::time::timeout(DEADLINE, last.read(&mut [0; 12])).await.unwrap().unwrap() > 0);
}
