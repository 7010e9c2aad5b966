//! One event and its status.

use http::StatusCode;
use schemas::ids::{DeliveryId, EndpointId, EventId};
use time::Duration;

use super::harness::{Bench, Row, START, row, text};

#[tokio::test]
async fn an_event_is_found_acknowledged_or_not_and_only_by_its_organization() {
    let bench = Bench::start().await;
    let rows = [row(0, 0), Row { acknowledged_at: Some(START), ..row(0, 1) }];
    bench.show(bench.alpha, &rows).await;
    let foreign = row(0, 2);
    bench.show(bench.beta, std::slice::from_ref(&foreign)).await;
    for path in ["/v1/events/", "/events/", "/api/events/", "/v1/inbox/"] {
        for event in &rows {
            let answer = bench.get(&format!("{path}{}", event.id)).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            assert_eq!(text(&answer.json(), "id"), event.id.to_string());
            assert!(answer.json().get("duplicate_of").is_none());
        }
        let unknown = EventId::generate().to_string();
        let mut bodies: Vec<String> = Vec::new();
        for id in [foreign.id.to_string(), unknown, "none".to_owned(), "%FF".to_owned(), "stream".to_owned()] {
            let answer = bench.get(&format!("{path}{id}")).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}{id}");
            bodies.push(text(&answer.json(), "detail").to_owned() + text(&answer.json(), "error_code"));
        }
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "they must be indistinguishable: {bodies:?}");
    }
}

#[tokio::test]
async fn an_id_that_turned_out_to_be_a_duplicate_answers_with_the_original() {
    let bench = Bench::start().await;
    let original = row(0, 0);
    bench.show(bench.alpha, std::slice::from_ref(&original)).await;
    let duplicate = EventId::generate();
    sqlx::query(
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         VALUES ($1, $2, $3, 1, 0, 1, $4)",
    )
    .bind(bench.alpha.as_uuid())
    .bind(duplicate.as_uuid())
    .bind(original.id.as_uuid())
    .bind(START)
    .execute(&bench.pool)
    .await
    .unwrap();
    let answer = bench.page(&format!("/v1/events/{duplicate}")).await;
    assert_eq!(text(&answer, "event_id"), original.id.to_string());
    assert_eq!(text(&answer, "duplicate_of"), original.id.to_string());
    assert_eq!(text(&bench.page(&format!("/v1/events/{duplicate}/status")).await, "event_id"), original.id.to_string());
}

#[tokio::test]
async fn a_status_sums_the_deliveries_up() {
    let bench = Bench::start().await;
    let event = Row { delivery_status: "failed", ..row(0, 0) };
    bench.show(bench.alpha, std::slice::from_ref(&event)).await;
    let bare = bench.page(&format!("/v1/events/{}/status", event.id)).await;
    assert_eq!(
        bare,
        serde_json::json!({
            "event_id": event.id, "status": "failed", "attempts": 0, "retry_attempts": 0, "last_retry_at": null, "next_retry_at": null,
            "failed_at": null, "acknowledged_at": null, "deliveries": [],
        })
    );
    for (minute, status, attempts, next) in
        [(1, "failed", 5, None), (2, "retrying", 2, Some(7)), (3, "delivered", 1, None)]
    {
        sqlx::query(
            "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, rank, attempts,
                                          last_started_at, last_status_code, last_error, next_attempt_at, created_at,
                                          last_appended_at)
             VALUES ($1, $2, $3, $4, 'a', $5, 0, $6, $7, 503, 'no', $8, $9, $7)",
        )
        .bind(bench.alpha.as_uuid())
        .bind(DeliveryId::generate().as_uuid())
        .bind(event.id.as_uuid())
        .bind(EndpointId::generate().as_uuid())
        .bind(status)
        .bind(attempts)
        .bind(START + Duration::minutes(minute))
        .bind(next.map(|minute| START + Duration::minutes(minute)))
        .bind(START + Duration::seconds(minute))
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let body = bench.page(&format!("/v1/events/{}/status", event.id)).await;
    assert_eq!((&body["retry_attempts"], &body["deliveries"].as_array().unwrap().len()), (&5.into(), &3));
    assert_eq!(text(&body, "last_retry_at"), "2026-11-21T09:02:00.000Z");
    assert_eq!(text(&body, "next_retry_at"), "2026-11-21T09:07:00.000Z");
    assert_eq!(text(&body, "failed_at"), "2026-11-21T09:01:00.000Z");
    let first = &body["deliveries"][0];
    assert_eq!((text(first, "status"), text(first, "event_id")), ("failed", event.id.to_string().as_str()));
    assert_eq!(
        (&first["last_status_code"], &first["last_error"], &first["next_attempt_at"]),
        (&503.into(), &"no".into(), &serde_json::Value::Null)
    );
    assert_eq!(text(first, "created_at"), "2026-11-21T09:00:01.000Z");
}
