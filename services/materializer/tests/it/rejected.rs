//! `GET /rejected`: what a tenant sees of its records that became dead letters.

use http::{Method, StatusCode};
use schemas::ids::OrgId;
use schemas::position::RecordPosition;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::inbox::harness::{Bench, START, text};

/// Puts a row into the view as the projector would.
async fn reject(bench: &Bench, organization: OrgId, topic: &str, offset: i64, at: OffsetDateTime) {
    sqlx::query(
        "INSERT INTO rejected (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class,
                               message)
         VALUES ($1, $2, 3, 1, $3, $4, 'malformed', 'no JSON')",
    )
    .bind(organization.as_uuid())
    .bind(topic)
    .bind(offset)
    .bind(at)
    .execute(&bench.pool)
    .await
    .unwrap();
}

/// The offsets that the position tokens of the page hold.
fn offsets(bench: &Bench, page: &Value) -> Vec<i64> {
    let offset = |row: &Value| {
        let plain =
            bench.sealing.open_stable_token("position", bench.alpha.as_uuid().as_bytes(), text(row, "position"));
        RecordPosition::from_bytes(&plain.unwrap()).unwrap().offset
    };
    page["rejected"].as_array().unwrap().iter().map(offset).collect()
}

#[tokio::test]
async fn rejected_records_are_paged_newest_first() {
    let bench = Bench::start().await;
    let events = bench.topics().events.clone();
    for offset in 0..25 {
        // Three of each moment: what is behind the time decides too.
        reject(&bench, bench.alpha, &events, offset, START + Duration::seconds(offset / 3)).await;
    }
    let first = bench.page("/v1/rejected?limit=10").await;
    assert_eq!((offsets(&bench, &first), first["has_more"] == true), ((15..25).rev().collect(), true));
    reject(&bench, bench.alpha, &events, 25, START + Duration::hours(1)).await;
    let second = bench.page(&format!("/v1/rejected?limit=10&cursor={}", text(&first, "next_cursor"))).await;
    assert_eq!(offsets(&bench, &second), (5..15).rev().collect::<Vec<_>>());
    let third = bench.page(&format!("/v1/rejected?limit=5&cursor={}", text(&second, "next_cursor"))).await;
    assert_eq!(offsets(&bench, &third), (0..5).rev().collect::<Vec<_>>());
    assert!(third["has_more"] == false && third["next_cursor"].is_null());
    assert_eq!(offsets(&bench, &bench.page("/rejected").await).len(), 26);
}

#[tokio::test]
async fn rejected_record_shows_time_reason_and_position() {
    let bench = Bench::start().await;
    let (events, acks) = (bench.topics().events.clone(), bench.topics().acks.clone());
    reject(&bench, bench.alpha, &events, 7, START).await;
    reject(&bench, bench.alpha, &acks, 8, START - Duration::seconds(1)).await;
    let page = bench.page("/v1/rejected").await;
    let mut event = page["rejected"][0].clone();
    let position = event["position"].take();
    assert!(
        bench
            .sealing
            .open_stable_token("position", bench.alpha.as_uuid().as_bytes(), position.as_str().unwrap())
            .is_some()
    );
    assert_eq!(
        event,
        serde_json::json!({"time": "2026-11-21T09:00:00.000Z", "error_code": "malformed", "message": "no JSON",
                           "topic": events, "position": null}),
        "neither partition nor offset is shown"
    );
    let ack = &page["rejected"][1];
    assert_eq!(ack["topic"], acks);
    let of_ack = format!("/v1/inbox?min_position={}", text(ack, "position"));
    assert_eq!(bench.get(&of_ack).await.status, StatusCode::BAD_REQUEST, "an ack has no position among the events");
    assert_eq!(bench.page("/v1/rejected").await, page, "the same position is the same text");
}

#[tokio::test]
async fn rejected_records_need_the_organization_and_consume_right() {
    let bench = Bench::start().await;
    let events = bench.topics().events.clone();
    for offset in 0..3 {
        reject(&bench, bench.beta, &events, offset, START).await;
    }
    assert_eq!(offsets(&bench, &bench.page("/v1/rejected").await).len(), 0);
    let of_beta = bench.ask(Method::GET, "/v1/rejected?limit=1", "beta", "").await.json();
    let foreign = format!("/v1/rejected?cursor={}", text(&of_beta, "next_cursor"));
    for bad in
        ["/v1/rejected?limit=0", "/v1/rejected?limit=1001", "/v1/rejected?cursor=", "/v1/rejected?cursor=abc", &foreign]
    {
        let answer = bench.get(bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}: {}", answer.text);
        assert_eq!(answer.json()["details"].as_array().unwrap().len(), 1);
    }
    assert_eq!(bench.get("/api/rejected?limit=0").await.status, StatusCode::UNPROCESSABLE_ENTITY);

    let body = r#"{"name": "p", "role": "produce", "environment": "test"}"#;
    let produce = bench.ask(Method::POST, "/v1/keys", "alpha", body).await.json();
    let restricted = bench.restricted_key(&["a"]).await;
    for key in [text(&produce, "key"), &restricted] {
        assert_eq!(bench.ask(Method::GET, "/v1/rejected", key, "").await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(bench.ask(Method::GET, "/v1/rejected", "nobody", "").await.status, StatusCode::UNAUTHORIZED);
}
