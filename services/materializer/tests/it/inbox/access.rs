//! Access rights and invalid requests.

use http::{Method, StatusCode};
use runtime::postgres::PostgresConfig;

use super::harness::{Bench, ViewEvent, ids, row, text};

#[tokio::test]
async fn invalid_parameters_get_the_mounts_error_code() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &(0..5).map(|offset| row(0, offset)).collect::<Vec<_>>()).await;
    let up = bench.page("/v1/inbox?limit=2").await;
    let down = bench.page("/v1/inbox?limit=2&order=desc").await;
    bench.show(bench.beta, &(0..5).map(|offset| row(0, offset)).collect::<Vec<_>>()).await;
    let foreign = bench.ask(Method::GET, "/v1/inbox?limit=2", "beta", "").await.json();
    let bad = [
        "limit=0".to_owned(),
        "limit=1001".to_owned(),
        "limit=x".to_owned(),
        "order=up".to_owned(),
        "status=open".to_owned(),
        "since=yesterday".to_owned(),
        "until=0".to_owned(),
        "wait=31".to_owned(),
        "include_acknowledged=perhaps".to_owned(),
        "event_type=%00".to_owned(),
        "event_type=".to_owned(),
        "min_position=zzz".to_owned(),
        "cursor=zzz".to_owned(),
        "cursor=".to_owned(),
        format!("order=desc&cursor={}", text(&up, "next_cursor")),
        format!("order=asc&cursor={}", text(&down, "next_cursor")),
        format!("cursor={}", text(&foreign, "next_cursor")),
        format!("min_position={}", text(&foreign["events"][0], "position")),
    ];
    for query in bad {
        for (mount, status) in [("/v1", 400), ("", 400), ("/api", 422)] {
            let answer = bench.get(&format!("{mount}/inbox?{query}")).await;
            assert_eq!(answer.status.as_u16(), status, "{mount} {query}: {}", answer.text);
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert_eq!(answer.json()["details"].as_array().unwrap().len(), 1, "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_restricted_key_sees_counts_and_finds_only_its_event_types() {
    let bench = Bench::start().await;
    let key = bench.restricted_key(&["a", "b"]).await;
    let of = |offset, event_type: &str| ViewEvent { event_type: event_type.to_owned(), ..row(0, offset) };
    let rows = [of(0, "a"), of(1, "c"), of(2, "b"), of(3, "c"), of(4, "a")];
    bench.show(bench.alpha, &rows).await;
    let page = bench.ask(Method::GET, "/v1/inbox", &key, "").await.json();
    assert_eq!(ids(&page), [rows[0].id, rows[2].id, rows[4].id]);
    assert_eq!(page["pagination"]["total_undelivered"], 3);
    let narrower = bench.ask(Method::GET, "/v1/inbox?event_type=c&event_type=b", &key, "").await.json();
    assert_eq!(ids(&narrower), [rows[2].id]);
    let none = bench.ask(Method::GET, "/v1/inbox?event_type=c", &key, "").await.json();
    assert_eq!((ids(&none).len(), none["has_more"] == false), (0, true));
    for path in ["/v1/events/", "/v1/inbox/"] {
        assert_eq!(bench.ask(Method::GET, &format!("{path}{}", rows[0].id), &key, "").await.status, StatusCode::OK);
        assert_eq!(
            bench.ask(Method::GET, &format!("{path}{}", rows[1].id), &key, "").await.status,
            StatusCode::NOT_FOUND
        );
    }
    assert_eq!(
        bench.ask(Method::GET, &format!("/v1/events/{}/status", rows[1].id), &key, "").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn reading_needs_a_key_with_the_right_to() {
    let bench = Bench::start().await;
    let body = r#"{"name": "p", "role": "produce", "environment": "test"}"#;
    let produce = bench.ask(Method::POST, "/v1/keys", "alpha", body).await.json();
    let id = row(0, 0).id;
    for path in ["/v1/inbox".to_owned(), format!("/v1/events/{id}"), format!("/v1/events/{id}/status")] {
        assert_eq!(bench.ask(Method::GET, &path, "nobody", "").await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(
            bench.ask(Method::GET, &path, text(&produce, "key"), "").await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    assert_eq!(bench.ask(Method::PUT, "/v1/inbox", "alpha", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn without_a_database_reads_answer_503_within_their_budget() {
    // The keys' database is there, the view's is not: nothing listens on port 1.
    let bench = Bench::start_with(|_| PostgresConfig::new("postgres://nobody@127.0.0.1:1/none"), None).await;
    let id = row(0, 0).id;
    for (method, path) in [
        (Method::GET, "/v1/inbox?wait=5".to_owned()),
        (Method::GET, format!("/v1/events/{id}")),
        (Method::GET, format!("/v1/events/{id}/status")),
        (Method::DELETE, format!("/v1/events/{id}")),
    ] {
        let answer = bench.ask(method, &path, "alpha", "").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
        assert!(answer.took.as_secs() < 4, "{path} took {:?}", answer.took);
    }
}
