//! Batches in lines (NDJSON) are accepted while they arrive.

use std::time::Duration;

use devstack::testing::eventually;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::batch::{NDJSON, counts, event, lines, statuses};
use crate::bench::{Answer, Bench, Instance, KEY, send};

const PATIENCE: Duration = Duration::from_secs(30);

/// A request whose body is sent in chunks.
pub(crate) struct Upload(TcpStream);

impl Upload {
    pub(crate) async fn start(instance: &Instance) -> Self {
        let mut stream = TcpStream::connect(instance.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!(
            "POST /v1/events/batch HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\ncontent-type: {NDJSON}\r\n\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            instance.address()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.0.write_all(&chunk).await.unwrap();
    }

    pub(crate) async fn finish(mut self) -> Answer {
        self.0.write_all(b"0\r\n\r\n").await.unwrap();
        self.answer().await
    }

    /// Stops in the middle of the body, and reads the answer.
    async fn stop(mut self) -> Answer {
        self.0.shutdown().await.unwrap();
        self.answer().await
    }

    async fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("an answer").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let mut head = head.lines();
        let status: u16 = head.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
        };
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: head.map(header).collect::<HeaderMap>(), body }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_on_the_log_before_the_next_one_arrives() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let mut upload = Upload::start(&instance).await;
    for number in 0..3 {
        upload.send(lines(&[event(number)]).as_bytes()).await;
        eventually(PATIENCE, "the line is on the log", || async {
            (bench.log().await.len() == number + 1).then_some(())
        })
        .await;
    }
    let answer = upload.finish().await.expect(200);
    assert_eq!((statuses(&answer), counts(&answer)), (vec![201; 3], [3, 0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_arrive_byte_by_byte_are_read() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let mut upload = Upload::start(&instance).await;
    let body = format!("\n{}\r\n\n  \nno json\n{}", event(0), event(1));
    for byte in body.as_bytes() {
        upload.send(&[*byte]).await;
    }
    let answer = upload.finish().await.expect(207);
    assert_eq!((statuses(&answer), counts(&answer)), (vec![201, 400, 201], [2, 0, 1]));
    let refused = &answer.body["results"][1];
    assert_eq!(refused["error_code"], "invalid_json");
    assert!(refused["message"].as_str().unwrap().contains("line 1"), "{refused}");
    let payloads: Vec<String> = bench.log().await.into_iter().map(|record| record.event.payload).collect();
    assert_eq!(payloads, ["0", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_in_the_middle_learns_what_was_accepted() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let mut upload = Upload::start(&instance).await;
    upload.send(format!("{}1\n{{\"type\": \"a\", \"da", lines(&[event(0), event(1)])).as_bytes()).await;
    let answer = upload.stop().await.expect(400);
    assert_eq!((answer.text("error_code").as_str(), counts(&answer)), ("incomplete_body", [2, 0, 1]));
    assert_eq!(statuses(&answer), [201, 201, 400]);
    assert!(answer.text("detail").contains("2 of the 3 events before were accepted"), "{}", answer.text("detail"));
    assert_eq!(bench.log().await.len(), 2, "the half line is no event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_end_is_not_kept() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let mut upload = Upload::start(&instance).await;
    for _ in 0..30 {
        upload.send(&[b' '; 64 * 1024]).await;
    }
    upload.send(format!("\n{}", event(0)).as_bytes()).await;
    let answer = upload.finish().await.expect(207);
    assert_eq!((statuses(&answer), counts(&answer)), (vec![413, 201], [1, 0, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_lines_than_the_whole_limit_are_413_in_one_piece_or_many() {
    let bench = Bench::start().await;
    // Development keys have no limits.
    sqlx::query("UPDATE organizations SET rate_limit_per_minute = 100").execute(&bench.pool).await.unwrap();
    sqlx::query("UPDATE api_keys SET environment = 'test', rate_limit_per_minute = NULL")
        .execute(&bench.pool)
        .await
        .unwrap();
    let instance = bench.instance().await;
    let detail = "a batch may have at most 100 events, which is the whole rate limit of a minute";
    let too_many = (0..101).map(event).collect::<Vec<_>>();
    let whole = send(instance.batch("/v1/events/batch", NDJSON, lines(&too_many))).await.expect(413);
    assert_eq!((whole.text("error_code").as_str(), whole.text("detail").as_str()), ("batch_too_large", detail));
    assert_eq!(bench.log().await.len(), 0);

    let mut upload = Upload::start(&instance).await;
    for number in 0..3 {
        upload.send(lines(&too_many[number..=number]).as_bytes()).await;
        eventually(PATIENCE, "the line is on the log", || async {
            (bench.log().await.len() == number + 1).then_some(())
        })
        .await;
    }
    upload.send(lines(&too_many[3..]).as_bytes()).await;
    let pieces = upload.finish().await.expect(413);
    let detail = format!("{detail}; 3 of the 3 events before were accepted, see results");
    assert_eq!((pieces.text("error_code"), pieces.text("detail")), ("batch_too_large".to_owned(), detail));
    assert_eq!((statuses(&pieces), counts(&pieces)), (vec![201; 3], [3, 0, 0]));
}
