//! What the routes of deliveries show. The rows of the view are written as the materializer would write them.

use reqwest::{Method, StatusCode};
use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;

use crate::system::{KEY, OPERATOR_TOKEN, OTHER_KEY, System};

const START: OffsetDateTime = datetime!(2026-11-21 9:00 UTC);

/// A delivery as the view has it.
struct Row {
    event_type: &'static str,
    status: &'static str,
    /// Seconds after the start.
    second: i64,
}

const fn row(second: i64, status: &'static str, event_type: &'static str) -> Row {
    Row { event_type, status, second }
}

async fn endpoint(system: &System, key: &str) -> EndpointId {
    let body = json!({"url": "https://receiver.example/hook", "enabled": false});
    let made = system.call(Method::POST, "/endpoints", key, Some(body)).await.expect(201);
    made.text("id").parse().unwrap()
}

async fn show(system: &System, org: OrgId, endpoint: EndpointId, row: &Row) -> DeliveryId {
    show_of(system, org, endpoint, EventId::generate(), row).await
}

async fn show_of(system: &System, org: OrgId, endpoint: EndpointId, event: EventId, row: &Row) -> DeliveryId {
    let id = DeliveryId::of(endpoint, event);
    sqlx::query(
        "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts,
                                      last_started_at, last_status_code, last_error, created_at, last_appended_at, rank)
         VALUES ($1, $2, $3, $4, $5, $6, 1, $7, 503, 'the endpoint answered 503', $7, $7, 0)",
    )
    .bind(org.as_uuid())
    .bind(id.as_uuid())
    .bind(event.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(row.event_type)
    .bind(row.status)
    .bind(START + time::Duration::seconds(row.second))
    .execute(&system.pool)
    .await
    .unwrap();
    id
}

async fn page(system: &System, path: &str) -> Value {
    system.call(Method::GET, path, KEY, None).await.expect(200).body
}

fn ids(page: &Value) -> Vec<DeliveryId> {
    let listed = page["deliveries"].as_array().unwrap().iter();
    listed.map(|item| item["delivery_id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn an_endpoints_deliveries_are_paged_from_the_newest_on() {
    let system = System::without_dispatcher().await;
    let id = endpoint(&system, KEY).await;
    let mut expected = Vec::new();
    // Two of one time: the id decides.
    for second in [0, 1, 2, 2, 3, 4] {
        let status = if second % 2 == 0 { "delivered" } else { "failed" };
        expected.push((second, show(&system, system.org, id, &row(second, status, "a")).await));
    }
    expected.sort_unstable_by_key(|delivery| std::cmp::Reverse(*delivery));
    let expected: Vec<DeliveryId> = expected.into_iter().map(|(_, id)| id).collect();
    let path = format!("/endpoints/{id}/deliveries");
    let mut found = Vec::new();
    let mut next = page(&system, &format!("{path}?limit=4")).await;
    loop {
        found.extend(ids(&next));
        assert_eq!(next["has_more"], json!(!next["next_cursor"].is_null()));
        let Some(cursor) = next["next_cursor"].as_str() else { break };
        next = page(&system, &format!("{path}?limit=4&cursor={cursor}")).await;
    }
    assert_eq!(found, expected);
    let newest = &page(&system, &path).await["deliveries"][0];
    assert_eq!(
        (&newest["status"], &newest["attempts"], &newest["last_status_code"], &newest["created_at"]),
        (&json!("delivered"), &json!(1), &json!(503), &json!("2026-11-21T09:00:04.000Z"))
    );
    let cursor = page(&system, &format!("{path}?limit=1")).await["next_cursor"].as_str().unwrap().to_owned();
    let theirs = endpoint(&system, OTHER_KEY).await;
    let foreign = format!("/endpoints/{theirs}/deliveries?cursor={cursor}");
    assert_eq!(system.call(Method::GET, &foreign, OTHER_KEY, None).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn deliveries_are_filtered_by_state_type_and_time() {
    let system = System::without_dispatcher().await;
    let id = endpoint(&system, KEY).await;
    let rows = [
        row(0, "delivered", "a"),
        row(1, "failed", "b"),
        row(2, "retrying", "a"),
        row(3, "cancelled", "b"),
        row(4, "failed", "c"),
    ];
    let mut shown = Vec::new();
    for row in &rows {
        shown.push(show(&system, system.org, id, row).await);
    }
    let at = |second| (START + time::Duration::seconds(second)).format(&Rfc3339).unwrap();
    let cases = [
        ("status=failed".to_owned(), vec![4, 1]),
        ("status=failed&status=retrying".to_owned(), vec![4, 2, 1]),
        ("status=pending".to_owned(), vec![]),
        ("event_type=a".to_owned(), vec![2, 0]),
        ("event_type=b&event_type=c".to_owned(), vec![4, 3, 1]),
        ("event_type=b&status=failed".to_owned(), vec![1]),
        (format!("from={}&to={}", at(1), at(3)), vec![2, 1]),
        (format!("from={}&event_type=b", at(2)), vec![3]),
    ];
    for (query, expected) in cases {
        let expected: Vec<DeliveryId> = expected.into_iter().map(|index: usize| shown[index]).collect();
        assert_eq!(ids(&page(&system, &format!("/endpoints/{id}/deliveries?{query}")).await), expected, "{query}");
    }
}

#[tokio::test]
async fn deliveries_of_others_and_of_other_types_are_unknown() {
    let system = System::without_dispatcher().await;
    let id = endpoint(&system, KEY).await;
    let delivery = show(&system, system.org, id, &row(0, "failed", "a")).await;
    let other = show(&system, system.org, id, &row(1, "failed", "b")).await;
    let event = page(&system, &format!("/deliveries/{delivery}")).await["event_id"].as_str().unwrap().to_owned();
    for path in [
        format!("/endpoints/{id}/deliveries"),
        format!("/endpoints/{id}/stats"),
        format!("/deliveries/{delivery}"),
        format!("/events/{event}/deliveries"),
        format!("/events/{event}/explain"),
    ] {
        assert_eq!(system.call(Method::GET, &path, OTHER_KEY, None).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let wanted = json!({"name": "restricted", "role": "manage", "event_types": ["b"]});
    let keys = format!("/organizations/{}/keys", system.org);
    let restricted = system.call(Method::POST, &keys, OPERATOR_TOKEN, Some(wanted)).await.expect(201).text("key");
    let get = |path: String| {
        let (system, restricted) = (&system, &restricted);
        async move { system.call(Method::GET, &path, restricted, None).await }
    };
    assert_eq!(ids(&get(format!("/endpoints/{id}/deliveries")).await.expect(200).body), [other]);
    assert_eq!(get(format!("/deliveries/{delivery}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(format!("/deliveries/{other}")).await.status, StatusCode::OK);
    assert_eq!(get(format!("/events/{event}/deliveries")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(format!("/endpoints/{id}/stats")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_delivery_that_was_not_tried_yet_is_pending() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Hang).await;
    let made = system.endpoint(&receiver, json!({"timeout_seconds": 30, "max_in_flight": 1})).await;
    let id = made["id"].as_str().unwrap();
    let (first, second) = (system.event("a"), system.event("b"));
    system.publish(&first).await;
    receiver.wait_for(1).await;
    let appended = system.publish(&second).await;
    system.wait_for_schedule("both wait for their first attempt's end", |rows| rows.len() == 2).await;
    let listed = page(&system, &format!("/endpoints/{id}/deliveries?status=pending&event_type=b")).await;
    let [item] = listed["deliveries"].as_array().unwrap().as_slice() else { panic!("one delivery: {listed}") };
    assert_eq!((&item["event_id"], &item["attempts"]), (&json!(second.event_id), &json!(0)));
    let all = page(&system, &format!("/endpoints/{id}/deliveries")).await;
    assert_eq!(all["deliveries"].as_array().unwrap().len(), 2);
    let one = page(&system, &format!("/deliveries/{}", item["delivery_id"].as_str().unwrap())).await;
    assert_eq!((&one["status"], &one["attempts_log"]), (&json!("pending"), &json!([])));
    let of_event = page(&system, &format!("/events/{}/deliveries", second.event_id)).await;
    assert_eq!(ids(&of_event), ids(&listed));
    let failed = page(&system, &format!("/events/{}/deliveries?status=failed", second.event_id)).await;
    assert!(ids(&failed).is_empty());

    system.show(&second, &appended, false).await;
    let explained = page(&system, &format!("/events/{}/explain", second.event_id)).await;
    let [one] = explained["endpoints"].as_array().unwrap().as_slice() else { panic!("one endpoint: {explained}") };
    assert_eq!((&one["verdict"], &one["delivery_id"]), (&json!("pending"), &item["delivery_id"]));
}

#[tokio::test]
async fn the_explanation_names_an_open_circuit() {
    let system = System::without_dispatcher().await;
    let body = json!({"url": "https://receiver.example/hook"});
    let id: EndpointId =
        system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(201).text("id").parse().unwrap();
    let event = system.event("a");
    let appended = system.publish(&event).await;
    system.show(&event, &appended, false).await;
    show_of(&system, system.org, id, event.event_id, &row(0, "retrying", "a")).await;
    let explained = async || {
        let explained = page(&system, &format!("/events/{}/explain", event.event_id)).await;
        let [one] = explained["endpoints"].as_array().unwrap().as_slice() else { panic!("one endpoint: {explained}") };
        one["explanation"].as_str().unwrap().to_owned()
    };
    assert!(!explained().await.contains("circuit"));
    for (circuit, stopped_for, reason) in [("open", None, "the circuit"), ("closed", Some("1 hour"), "Retry-After")] {
        sqlx::query(
            "INSERT INTO endpoint_conditions (endpoint_id, org_id, circuit, circuit_retry_at, stopped_until)
             VALUES ($1, $2, $3, now() + '1 minute', now() + $4::text::interval)
             ON CONFLICT (endpoint_id) DO UPDATE SET circuit = $3, stopped_until = excluded.stopped_until",
        )
        .bind(id.as_uuid())
        .bind(system.org.as_uuid())
        .bind(circuit)
        .bind(stopped_for)
        .execute(&system.pool)
        .await
        .unwrap();
        assert!(explained().await.contains(reason), "{}", explained().await);
    }
}

#[tokio::test]
async fn one_delivery_shows_the_parts_of_its_attempts() {
    let system = System::without_dispatcher().await;
    let id = endpoint(&system, KEY).await;
    let delivery = show(&system, system.org, id, &row(0, "cancelled", "a")).await;
    sqlx::query(
        "INSERT INTO view.delivery_attempts (org_id, delivery_id, attempt, outcome, started_at, latency_ms, status_code,
                                             error, response_excerpt, appended_at, connect_us, send_us, wait_us,
                                             remote_address, batch_id)
         VALUES ($1, $2, 1, 'retrying', $3, 31, 503, 'the endpoint answered 503', 'busy', now(), 1250, 90, 29700,
                 '192.0.2.7', '0192f0c1-2345-5abc-8def-0123456789af'),
                ($1, $2, 2, 'retrying', $3, 5, NULL, 'the connection was refused', NULL, now(), NULL, NULL, NULL, NULL,
                 NULL),
                ($1, $2, 2, 'cancelled', $3, 0, NULL, 'the endpoint was deleted', NULL, now(), NULL, NULL, NULL, NULL,
                 NULL)",
    )
    .bind(system.org.as_uuid())
    .bind(delivery.as_uuid())
    .bind(START)
    .execute(&system.pool)
    .await
    .unwrap();
    let shown = page(&system, &format!("/deliveries/{delivery}")).await;
    let [first, second] = shown["attempts_log"].as_array().unwrap().as_slice() else {
        panic!("two attempts; the end without one is none: {shown}")
    };
    let expected = json!({
        "attempt": 1, "started_at": "2026-11-21T09:00:00.000Z", "status_code": 503, "latency_ms": 31,
        "connect_ms": 1.25, "send_ms": 0.09, "wait_ms": 29.7, "error": "the endpoint answered 503",
        "response_excerpt": "busy", "remote_address": "192.0.2.7", "batch_id": "0192f0c1-2345-5abc-8def-0123456789af"
    });
    assert_eq!(*first, expected);
    assert_eq!((&second["connect_ms"], &second["remote_address"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn stats_count_what_started_in_their_window() {
    let system = System::without_dispatcher().await;
    let id = endpoint(&system, KEY).await;
    let empty = page(&system, &format!("/endpoints/{id}/stats")).await;
    assert_eq!(
        (&empty["delivered"], &empty["success_share"], &empty["p50_ms"]),
        (&json!(0), &json!(null), &json!(null))
    );
    let ago = |hours: i64| (OffsetDateTime::now_utc() - START).whole_seconds() - hours * 3600;
    for (hours, status, latency) in [
        (2, "delivered", 10_i64),
        (3, "delivered", 20),
        (4, "delivered", 30),
        (5, "failed", 40),
        (6, "retrying", 50),
        (100, "failed", 900),
    ] {
        let delivery = show(&system, system.org, id, &row(ago(hours), status, "a")).await;
        sqlx::query(
            "INSERT INTO view.delivery_attempts (org_id, delivery_id, attempt, outcome, started_at, latency_ms,
                                                 appended_at) VALUES ($1, $2, 1, $3, now(), $4, now())",
        )
        .bind(system.org.as_uuid())
        .bind(delivery.as_uuid())
        .bind(status)
        .bind(latency)
        .execute(&system.pool)
        .await
        .unwrap();
    }
    let day = page(&system, &format!("/endpoints/{id}/stats?window=24h")).await;
    assert_eq!((&day["delivered"], &day["failed"], &day["retrying"]), (&json!(3), &json!(1), &json!(1)));
    assert_eq!((&day["success_share"], &day["p50_ms"], &day["p95_ms"]), (&json!(0.75), &json!(30.0), &json!(48.0)));
    assert_eq!(
        (&day["counts_are_lower_bounds"], &day["last_error"]),
        (&json!(false), &json!("the endpoint answered 503"))
    );
    let hour = page(&system, &format!("/endpoints/{id}/stats?window=1h")).await;
    assert_eq!((&hour["delivered"], &hour["success_share"]), (&json!(0), &json!(null)));
    assert!(hour["last_success_at"].is_string(), "the last success is of any time: {hour}");
    assert_eq!(page(&system, &format!("/endpoints/{id}/stats?window=7d")).await["failed"], json!(2));
    let wrong = system.call(Method::GET, &format!("/endpoints/{id}/stats?window=2h"), KEY, None).await.expect(400);
    assert_eq!(wrong.body["details"][0]["field"], "window");
}
