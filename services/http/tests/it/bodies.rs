//! Bodies: size limits, encodings, timeouts, JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_server::{BATCH_BODY_BYTES, EVENT_BODY_BYTES, JsonBody, MountOptions, RequestBody, ServerLimits, mount};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{Server, head, within};

#[derive(Deserialize)]
struct Thing {
    name: String,
    #[serde(default)]
    sizes: BTreeMap<String, u32>,
}

fn api() -> Router {
    Router::new()
        .route("/raw", post(|body: RequestBody| async move { body.bytes.len().to_string() }))
        .route("/large", post(|body: RequestBody<BATCH_BODY_BYTES>| async move { body.bytes.len().to_string() }))
        .route("/echo", post(|body: RequestBody| async move { body.bytes }))
        .route(
            "/json",
            post(|JsonBody(thing): JsonBody<Thing>| async move { format!("{} {}", thing.name, thing.sizes.len()) }),
        )
        .route(
            "/maybe",
            post(|thing: Option<JsonBody<Thing>>| async move { thing.map_or("none".to_owned(), |thing| thing.0.name) }),
        )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_body_of_the_limit_is_read_and_one_byte_more_refused() {
    let server = Server::start(api()).await;
    let exact = vec![b'x'; EVENT_BODY_BYTES];
    assert_eq!(server.request("POST /v1/raw", &[], &exact).await.text(), "524288");
    let more = vec![b'x'; EVENT_BODY_BYTES + 1];
    server.request("POST /v1/raw", &[], &more).await.problem(413, "payload_too_large");
    assert_eq!(server.request("POST /v1/large", &[], &more).await.text(), "524289");
}

#[tokio::test]
async fn a_content_length_over_the_limit_is_refused_at_once() {
    let server = Server::start(api()).await;
    let mut client = server.client().await;
    client.send(&head("POST /v1/raw", &[], EVENT_BODY_BYTES + 1)).await;
    client.response().await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn a_chunked_body_is_refused_once_it_is_over_the_limit() {
    let server = Server::start(api()).await;
    let mut client = server.client().await;
    client.send(&head("POST /v1/raw", &["transfer-encoding: chunked"], 0)).await;
    let chunk = [format!("{:x}\r\n", 64 * 1024).into_bytes(), vec![b'x'; 64 * 1024], b"\r\n".to_vec()].concat();
    // No last chunk follows: the server answers before the end of the body.
    for _ in 0..9 {
        client.send(&chunk).await;
    }
    client.response().await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn a_client_that_sends_everything_first_reads_the_413() {
    let server = Server::start(api()).await;
    let much = vec![b'x'; 8 * EVENT_BODY_BYTES];
    for _ in 0..10 {
        let mut client = server.client().await;
        client.send(&head("POST /v1/raw", &[], much.len())).await;
        // Many clients stop when sending fails, and never read the response.
        within("sending everything", client.0.write_all(&much)).await.unwrap();
        client.response().await.problem(413, "payload_too_large");
    }
}

#[tokio::test]
async fn a_chunked_body_arrives_whole() {
    let server = Server::start(api()).await;
    let mut client = server.client().await;
    client.send(&head("POST /v1/echo", &["transfer-encoding: chunked"], 0)).await;
    for piece in ["abc", "d", "efghij"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await;
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "abcdefghij");
}

#[tokio::test]
async fn gzip_is_decompressed_also_in_several_members() {
    let server = Server::start(api()).await;
    let body = [gzip(b"first "), gzip(b"second")].concat();
    assert_eq!(server.request("POST /v1/echo", &["content-encoding: gzip"], &body).await.text(), "first second");
    assert_eq!(server.request("POST /v1/echo", &["content-encoding: identity"], b"plain").await.text(), "plain");
}

#[tokio::test]
async fn a_gzip_bomb_is_stopped_at_the_limit() {
    let server = Server::start(api()).await;
    let bomb = gzip(&vec![0; 300 * 1024 * 1024]);
    assert!(bomb.len() < EVENT_BODY_BYTES, "{}", bomb.len());
    server.request("POST /v1/raw", &["content-encoding: gzip"], &bomb).await.problem(413, "payload_too_large");
    let exact = gzip(&vec![0; EVENT_BODY_BYTES]);
    assert_eq!(server.request("POST /v1/raw", &["content-encoding: gzip"], &exact).await.text(), "524288");
}

#[tokio::test]
async fn invalid_gzip_is_400_and_another_encoding_415() {
    let server = Server::start(api()).await;
    let whole = gzip(b"some text that is long enough to be cut");
    for broken in [&b"not gzip at all"[..], &whole[..whole.len() - 4], &[&whole[..], b"rubbish"].concat()] {
        server.request("POST /v1/echo", &["content-encoding: gzip"], broken).await.problem(400, "invalid_encoding");
    }
    for encoding in ["br", "gzip, gzip", "deflate", "gzip\r\ncontent-encoding: gzip"] {
        let response = server.request("POST /v1/echo", &[&format!("content-encoding: {encoding}")], &whole).await;
        response.problem(415, "unsupported_media_type");
        assert_eq!(response.header("accept-encoding"), "gzip");
    }
}

#[tokio::test]
async fn a_body_that_trickles_in_is_a_408_at_the_timeout() {
    let limits = ServerLimits { body_read_timeout: Duration::from_millis(300), ..ServerLimits::default() };
    let server = Server::start_with(mount(api(), MountOptions::default()), limits).await;
    let mut client = server.client().await;
    client.send(&head("POST /v1/raw", &[], 1_000_000 / 2)).await;
    let response = within("the 408 of a trickling body", async {
        loop {
            client.send(b"x").await;
            if let Ok(response) = tokio::time::timeout(Duration::from_millis(20), client.response()).await {
                return response;
            }
        }
    })
    .await;
    response.problem(408, "request_timeout");
}

#[tokio::test]
async fn json_is_read_with_and_without_its_content_type() {
    let server = Server::start(api()).await;
    let body = br#"{"name": "a", "sizes": {"x": 1}}"#;
    for lines in
        [&[][..], &["content-type: application/json; charset=utf-8"], &["content-type: application/cloudevents+json"]]
    {
        assert_eq!(server.request("POST /v1/json", lines, body).await.text(), "a 1");
    }
    let form = ["content-type: application/x-www-form-urlencoded"];
    server.request("POST /v1/json", &form, body).await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn malformed_json_is_answered_with_line_and_column() {
    let server = Server::start(api()).await;
    let problem = server.request("POST /v1/json", &[], b"{\n  \"name\": oops}").await.problem(400, "invalid_json");
    assert!(problem["detail"].as_str().unwrap().contains("line 2 column 11"), "{problem}");
    for malformed in [
        &b""[..],
        b"{",
        b"\xef\xbb\xbf{\"name\":\"a\"}",
        b"{\"name\":\"\xff\"}",
        b"{\"name\":\"a\"} x",
        b"{\"name\":\"\\ud800\"}",
    ] {
        server.request("POST /api/json", &[], malformed).await.problem(422, "invalid_json");
    }
}

#[tokio::test]
async fn json_that_does_not_fit_is_answered_with_the_field() {
    let server = Server::start(api()).await;
    let problem = server.request("POST /v1/json", &[], br#"{"sizes": {}}"#).await.problem(400, "invalid_request");
    assert_eq!(problem["details"], json!([{ "field": "name", "reason": "is missing" }]));
    let problem = server
        .request("POST /v1/json", &[], br#"{"name": "a", "sizes": {"x": -1}}"#)
        .await
        .problem(400, "invalid_request");
    assert_eq!(problem["details"][0]["field"], "sizes.x");
    let problem = server.request("POST /v1/json", &[], b"7").await.problem(400, "invalid_request");
    assert_eq!(problem["detail"], "the body must be an object");
    assert!(problem.get("details").is_none());
    let array = server.request("POST /v1/json", &[], br#"["a", {}]"#).await.problem(400, "invalid_request");
    assert_eq!(array["detail"], "the body must be an object", "an array is no object with its members in order");
}

#[tokio::test]
async fn an_optional_body_may_be_absent_but_not_malformed() {
    let server = Server::start(api()).await;
    assert_eq!(server.request("POST /v1/maybe", &[], b"").await.text(), "none");
    assert_eq!(server.request("POST /v1/maybe", &[], br#"{"name": "a"}"#).await.text(), "a");
    server.request("POST /v1/maybe", &[], b"{").await.problem(400, "invalid_json");
}

/// The detail and the only field of a refusal.
fn refusal(problem: &serde_json::Value) -> (&str, &str) {
    (problem["detail"].as_str().unwrap(), problem["details"][0]["field"].as_str().unwrap())
}

#[tokio::test]
async fn unknown_and_repeated_members_are_refused_by_name() {
    let server = Server::start(api()).await;
    for (body, detail, field) in [
        (r#"{"nmae": "a"}"#, "nmae is not a member of this body; did you mean name?", "nmae"),
        (r#"{"name": "a", "x": 1}"#, "x is not a member of this body; known: name, sizes", "x"),
        (r#"{"name": "a", "name": "a"}"#, "name is given twice", "name"),
        (r#"{"name": "a", "sizes": {"x": 1, "x": 1}}"#, "sizes.x is given twice", "sizes.x"),
    ] {
        let problem = server.request("POST /v1/json", &[], body.as_bytes()).await.problem(400, "invalid_request");
        assert_eq!(refusal(&problem), (detail, field));
        server.request("POST /api/maybe", &[], body.as_bytes()).await.problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn names_of_a_librarys_own_have_no_meaning() {
    let server = Server::start(api()).await;
    for private in ["RawValue", "Number"] {
        let body = format!(r#"{{"name": {{"$serde_json::private::{private}": "\"a\""}}}}"#);
        let problem = server.request("POST /v1/json", &[], body.as_bytes()).await.problem(400, "invalid_request");
        assert_eq!(problem["details"][0]["field"], format!("name.$serde_json::private::{private}"));
    }
}

#[tokio::test]
async fn an_answer_repeats_100_characters_of_a_name() {
    let server = Server::start(api()).await;
    let body = format!(r#"{{"name": "a", "{}": 1}}"#, "x".repeat(500_000));
    let problem = server.request("POST /v1/json", &[], body.as_bytes()).await.problem(400, "invalid_request");
    assert_eq!(refusal(&problem).1, format!("{}\u{2026}", "x".repeat(100)));
    let body = format!(r#"{{"name": "a", "sizes": {{"{}": "not a number"}}}}"#, "x".repeat(500_000));
    let problem = server.request("POST /v1/json", &[], body.as_bytes()).await.problem(400, "invalid_request");
    assert!(problem.to_string().len() < 3_000, "the whole answer has {} bytes", problem.to_string().len());
}
