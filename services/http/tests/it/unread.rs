//! HTTP/2 clients that ask for much and read nothing: they give their streams a window of no bytes.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use http_server::{MountOptions, ServerLimits, mount};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Server, within};

const CONNECTIONS: usize = 20;
/// As many as a connection may have open.
const STREAMS: u32 = 100;
/// The size of an answer that is not large.
const PAGE: usize = 15_000;
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_OF_STREAM_AND_HEADERS: u8 = 5;
const ENHANCE_YOUR_CALM: u32 = 11;

fn api() -> Router {
    let api =
        Router::new().route("/things", get(|| async { "things" })).route("/page", get(|| async { "x".repeat(PAGE) }));
    mount(api, MountOptions::default())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of a header block whose name is number `name` of HPACK's static table; the value is plain text.
fn field(name: u8, value: &str) -> Vec<u8> {
    let mut field = vec![name];
    match value.len() {
        short @ ..127 => field.push(u8::try_from(short).unwrap()),
        long => {
            field.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
    }
    field.extend_from_slice(value.as_bytes());
    field
}

fn get_request(path: &str) -> Vec<u8> {
    // `:method: GET` and `:scheme: http`.
    [vec![0x82, 0x86], field(4, path), field(1, "localhost")].concat()
}

/// Opens `STREAMS` streams with a GET of `path` and a window of no bytes.
async fn open_unread(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let window_of_none = [0, 4, 0, 0, 0, 0];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &window_of_none));
    for number in 0..STREAMS {
        bytes.extend(frame(HEADERS, END_OF_STREAM_AND_HEADERS, 1 + 2 * number, &get_request(path)));
    }
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// Heads of answers, and the reasons of resets.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    resets: Vec<u32>,
}

/// Reads frames until `enough` or the end of the connection, and answers pings.
async fn see(stream: &mut TcpStream, enough: impl Fn(&Seen) -> bool) -> Seen {
    let mut seen = Seen::default();
    let mut head = [0; 9];
    while !enough(&seen) && stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        match (head[3], head[4]) {
            (HEADERS, _) => seen.answers += 1,
            (RESET, _) => seen.resets.push(u32::from_be_bytes(payload.try_into().unwrap())),
            (PING, flags) if flags & ACK == 0 => drop(stream.write_all(&frame(PING, ACK, 0, &payload)).await),
            _ => {}
        }
    }
    seen
}

/// A connection of HTTP/2 that reads what it gets, from another address of this machine.
async fn neighbour(server: &Server) -> http2::SendRequest<Full<Bytes>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

async fn page_of(sender: &mut http2::SendRequest<Full<Bytes>>) -> Result<(StatusCode, usize), hyper::Error> {
    let request = Request::get("http://localhost/v1/page").body(Full::default()).unwrap();
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes().len()))
}

fn limits(response_grace: Duration) -> ServerLimits {
    ServerLimits {
        response_grace,
        header_read_timeout: Duration::from_millis(300),
        max_response_bytes_without_key: 2 * 1024 * 1024,
        max_response_bytes_per_address: 1024 * 1024,
        ..ServerLimits::default()
    }
}

fn slow_clients() -> u64 {
    let text = runtime::telemetry::metrics::render();
    let line = text.lines().find_map(|line| line.strip_prefix("triggers_http_slow_clients_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn unread_small_answers_of_http_2_are_bounded() {
    let server = Server::start_with(api(), limits(Duration::from_secs(600))).await;
    let (mut hostile, mut answers) = (Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let mut stream = open_unread(&server, "/v1/page").await;
        let all = |seen: &Seen| seen.answers + seen.resets.len() == STREAMS as usize;
        let seen = within("an answer or a reset of each stream", see(&mut stream, all)).await;
        assert!(seen.resets.iter().all(|reason| *reason == ENHANCE_YOUR_CALM), "{seen:?}");
        answers += seen.answers;
        hostile.push(stream);
    }
    let most = 1024 * 1024 / PAGE;
    assert!((most / 2..=most).contains(&answers), "one address holds {answers} unread answers");
    let mut sender = neighbour(&server).await;
    for _ in 0..20 {
        let page = within("a page for another address", page_of(&mut sender)).await.unwrap();
        assert_eq!(page, (StatusCode::OK, PAGE));
    }
}

#[tokio::test]
async fn a_client_of_http_2_that_reads_nothing_is_dropped() {
    let server = Server::start_with(api(), limits(Duration::from_millis(300))).await;
    for round in 0..3 {
        let slow_before = slow_clients();
        let mut stream = open_unread(&server, "/v1/page").await;
        let seen = within("the end of the connection", see(&mut stream, |_| false)).await;
        assert!(seen.answers >= 40, "what the round before round {round} held is given back: {seen:?}");
        assert!(slow_clients() > slow_before, "the connection is counted as slow");
    }
}

#[tokio::test]
async fn an_answer_repeats_200_characters_of_a_path() {
    let server = Server::start_with(api(), ServerLimits::default()).await;
    let response = server.get(&format!("/{}", "x".repeat(15_000))).await;
    let problem = response.problem(404, "route_not_found");
    assert_eq!(problem["instance"], format!("/{}\u{2026}", "x".repeat(199)));
    assert!(response.body.len() < 1_000, "the answer has {} bytes", response.body.len());
}
