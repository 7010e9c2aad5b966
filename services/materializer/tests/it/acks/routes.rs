//! Every ack route is one idempotent operation, which answers when the view shows it.

use std::collections::HashSet;
use std::time::Duration;

use http::{Method, StatusCode};
use runtime::postgres::PostgresConfig;
use schemas::ids::EventId;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::log::{PATIENCE, accept, accept_and_show, create_topics, project, written};
use crate::inbox::harness::{Answer, Bench, START, ViewEvent, ids, row, text};

fn routes(id: EventId) -> [(Method, String); 8] {
    [
        (Method::DELETE, format!("/v1/events/{id}")),
        (Method::DELETE, format!("/v1/inbox/{id}")),
        (Method::POST, format!("/v1/events/{id}/ack")),
        (Method::POST, format!("/v1/inbox/ack/{id}")),
        (Method::POST, format!("/v1/ack/{id}")),
        (Method::DELETE, format!("/api/events/{id}")),
        (Method::POST, format!("/api/inbox/ack/{id}")),
        (Method::POST, format!("/ack/{id}")),
    ]
}

async fn ack(bench: &Bench, method: Method, path: &str) -> Answer {
    bench.ask(method, path, "alpha", "").await
}

async fn ack_many(bench: &Bench, key: &str, event_ids: &[String]) -> Answer {
    bench.ask(Method::POST, "/v1/inbox/ack", key, &json!({"event_ids": event_ids}).to_string()).await
}

#[tokio::test]
async fn each_route_acknowledges_once_and_answers_the_same_again() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let projecting = project(&bench);
    let accepted = accept_and_show(&bench, 9).await;
    let count = routes(accepted[0]).len();
    for (index, id) in accepted.iter().copied().enumerate().take(count) {
        let (method, path) = routes(id)[index].clone();
        let first = ack(&bench, method.clone(), &path).await;
        let again = ack(&bench, method.clone(), &path).await;
        assert_eq!((first.status, &first.text), (again.status, &again.text), "{path}");
        if method == Method::DELETE {
            assert_eq!((first.status, first.text.as_str()), (StatusCode::NO_CONTENT, ""), "{path}");
        } else {
            assert_eq!(first.status, StatusCode::OK, "{path}: {}", first.text);
            let body = first.json();
            assert_eq!(
                (text(&body, "id"), text(&body, "event_id")),
                (id.to_string().as_str(), id.to_string().as_str())
            );
            assert_eq!((text(&body, "status"), &body["success"]), ("acknowledged", &Value::Bool(true)));
            assert!(
                OffsetDateTime::parse(text(&body, "acknowledged_at"), &Rfc3339).unwrap()
                    > START - time::Duration::days(365)
            );
        }
        assert!(!ids(&bench.page("/v1/inbox").await).contains(&id), "the next read must not list it");
        assert!(!bench.page(&format!("/v1/events/{id}")).await["acknowledged_at"].is_null(), "but it is still there");
    }
    assert_eq!(ids(&bench.page("/v1/inbox").await), [accepted[8]]);
    let on_the_log = written(&bench).await;
    assert_eq!(on_the_log.len(), count, "one record for each event, however often it was acknowledged");
    let record = &on_the_log[0];
    assert_eq!(record.key, bench.alpha.to_string());
    assert_eq!(record.headers["content-type"], "application/avro");
    assert!(record.headers.contains_key("x-request-id") && record.headers.contains_key("triggers-key-id"));
    assert!(on_the_log.iter().all(|record| record.ack.0 == bench.alpha));
    projecting.stop().await;
}

#[tokio::test]
async fn ack_record_carries_the_trace_headers() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let shown = row(0, 0);
    bench.show(bench.alpha, std::slice::from_ref(&shown)).await;
    let trace = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", "a=1")];
    // No projector runs: the record is on the log all the same.
    bench.ask_with(Method::POST, &format!("/v1/ack/{}", shown.id), "alpha", "", &trace).await;
    let record = &written(&bench).await[0];
    for (name, value) in trace {
        assert_eq!(record.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[tokio::test]
async fn events_of_others_answer_404_and_write_no_ack() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let (foreign, hidden) = (row(0, 0), ViewEvent { event_type: "b".to_owned(), ..row(0, 1) });
    bench.show(bench.beta, std::slice::from_ref(&foreign)).await;
    bench.show(bench.alpha, std::slice::from_ref(&hidden)).await;
    let narrow = bench.restricted_key(&["a"]).await;
    for (method, path) in routes(foreign.id) {
        assert_eq!(ack(&bench, method, &path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path) in routes(EventId::generate()) {
        assert_eq!(ack(&bench, method, &path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path) in routes(hidden.id) {
        assert_eq!(bench.ask(method, &path, &narrow, "").await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/v1/events/none", "/v1/inbox/%FF"] {
        assert_eq!(ack(&bench, Method::DELETE, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let many = ack_many(&bench, &narrow, &[hidden.id.to_string(), foreign.id.to_string()]).await;
    assert_eq!((many.status, &many.json()["failed"]), (StatusCode::OK, &2.into()));
    assert_eq!(written(&bench).await.len(), 0);
}

#[tokio::test]
async fn ack_many_returns_one_result_per_distinct_id_in_order() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let projecting = project(&bench);
    let accepted = accept_and_show(&bench, 600).await;
    let duplicate = EventId::generate();
    sqlx::query(
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         VALUES ($1, $2, $3, 1, 0, 900, $4)",
    )
    .bind(bench.alpha.as_uuid())
    .bind(duplicate.as_uuid())
    .bind(accepted[0].as_uuid())
    .bind(START)
    .execute(&bench.pool)
    .await
    .unwrap();
    let unknown = EventId::generate().to_string();
    let mut named: Vec<String> = vec![unknown.clone(), duplicate.to_string(), "none".to_owned()];
    named.extend(accepted[..500].iter().map(EventId::to_string));
    let distinct = named.len();
    named.extend(named[..10].to_vec());
    let answer = ack_many(&bench, "alpha", &named).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let body = answer.json();
    assert_eq!((&body["acknowledged"], &body["failed"]), (&501.into(), &2.into()));
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|result| text(result, "event_id")).collect::<Vec<_>>(), named[..distinct]);
    for result in results {
        let wanted =
            if [unknown.as_str(), "none"].contains(&text(result, "event_id")) { "not_found" } else { "acknowledged" };
        assert_eq!(text(result, "status"), wanted, "{result}");
    }
    let open = bench.page("/v1/inbox?limit=1000").await;
    assert_eq!(ids(&open), accepted[500..]);
    let again = ack_many(&bench, "alpha", &named).await;
    assert_eq!(again.text, answer.text);
    let on_the_log = written(&bench).await;
    assert_eq!(on_the_log.iter().map(|record| record.ack.1).collect::<HashSet<_>>().len(), 500);
    assert_eq!(on_the_log.len(), 500, "the duplicate's original is acknowledged once");
    projecting.stop().await;
}

#[tokio::test]
async fn invalid_ack_many_request_gets_the_mounts_error_code() {
    let bench = Bench::start().await;
    let too_many = json!({"event_ids": vec!["x"; 1_001]}).to_string();
    let bad = [
        "{}",
        r#"{"event_ids": []}"#,
        r#"{"event_ids": "x"}"#,
        r#"{"event_ids": [1]}"#,
        r#"{"lease_id": "l"}"#,
        "[",
        "",
        &too_many,
    ];
    for body in bad {
        for (mount, status) in [("/v1", 400), ("/api", 422)] {
            let answer = bench.ask(Method::POST, &format!("{mount}/inbox/ack"), "alpha", body).await;
            assert_eq!(answer.status.as_u16(), status, "{mount} {body}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn ack_not_yet_in_the_view_answers_202() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let projecting = project(&bench);
    let id = accept_and_show(&bench, 1).await[0];
    projecting.stop().await;
    let answer = ack(&bench, Method::POST, &format!("/v1/events/{id}/ack")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!((text(&answer.json(), "status"), &answer.json()["success"]), ("acknowledged", &Value::Bool(true)));
    assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);
    assert_eq!(ack(&bench, Method::DELETE, &format!("/v1/events/{id}")).await.status, StatusCode::ACCEPTED);
    let many = ack_many(&bench, "alpha", &[id.to_string()]).await;
    assert_eq!((many.status, &many.json()["acknowledged"]), (StatusCode::ACCEPTED, &1.into()));
    // The view catches up: the first ack counts, and the answer is as the first one would have been.
    let projecting = project(&bench);
    let shown = devstack::testing::eventually(PATIENCE, "the view shows the ack", || async {
        let answer = ack(&bench, Method::POST, &format!("/v1/events/{id}/ack")).await;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(text(&shown.json(), "acknowledged_at"), text(&answer.json(), "acknowledged_at"));
    projecting.stop().await;
}

#[tokio::test]
async fn ack_waits_for_an_event_that_was_just_accepted() {
    let bench = Bench::start().await;
    create_topics(&bench).await;
    let projecting = project(&bench);
    accept_and_show(&bench, 1).await;
    ack(&bench, Method::DELETE, &format!("/v1/events/{}", ids(&bench.page("/v1/inbox").await)[0])).await;
    for _ in 0..20 {
        let (id, appended) = accept(&bench, 1).await[0];
        bench.written.note(bench.alpha.as_uuid(), appended.partition, appended.offset, std::time::Instant::now());
        let answer = ack(&bench, Method::DELETE, &format!("/v1/events/{id}")).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
        assert_eq!(ids(&bench.page("/v1/inbox").await), []);
    }
    projecting.stop().await;
}

#[tokio::test]
async fn ack_without_kafka_answers_503_and_may_be_repeated() {
    let bench = Bench::start_with(|url| PostgresConfig::new(url), Some("127.0.0.1:1")).await;
    let rows = [row(0, 0), ViewEvent { acknowledged_at: Some(START), ..row(0, 1) }];
    bench.show(bench.alpha, &rows).await;
    let open = [
        ack(&bench, Method::DELETE, &format!("/v1/events/{}", rows[0].id)).await,
        ack_many(&bench, "alpha", &[rows[0].id.to_string(), rows[1].id.to_string()]).await,
    ];
    for answer in open {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
        assert!(answer.headers.contains_key("retry-after") && answer.text.contains("safe"), "{}", answer.text);
        assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
    }
    let done = ack(&bench, Method::POST, &format!("/v1/ack/{}", rows[1].id)).await;
    assert_eq!(done.status, StatusCode::OK, "an acknowledged event needs no record: {}", done.text);
    assert_eq!(text(&done.json(), "acknowledged_at"), "2026-11-21T09:00:00.000Z");
}
