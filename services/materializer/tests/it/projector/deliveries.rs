//! Webhook attempts: each attempt, each delivery by its last attempt, and the event's status over all deliveries.

use schemas::codec::encode_attempt;
use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use testkit::records::{STARTED_AT, attempt};
use time::OffsetDateTime;
use uuid::Uuid;

use super::harness::{Bench, event};
use super::retention::append_record_at;

/// Outcomes of the attempts of each delivery of one event, and the resulting status and attempts of the event.
type Case = (&'static [&'static [DeliveryOutcome]], (&'static str, i32));

async fn status(bench: &Bench, org: OrgId, id: EventId) -> (String, i32) {
    let row = bench.row(org, id).await.unwrap();
    (row.delivery_status, row.attempts)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_of_attempts_is_capped() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let event = event(org);
    bench.event(&event).await;
    for _ in 0..2 {
        bench
            .attempt(&attempt(org, event.event_id, EndpointId::generate(), i32::MAX, DeliveryOutcome::Delivered))
            .await;
    }
    bench.all_applied().await;
    assert_eq!(status(&bench, org, event.event_id).await, ("delivered".to_owned(), i32::MAX));
    assert!(bench.dead_letters().await.is_empty());
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_events_status_is_the_worst_of_its_deliveries() {
    use DeliveryOutcome::{Cancelled, Delivered, Failed, Retrying};
    let cases: [Case; 7] = [
        (&[&[Delivered]], ("delivered", 1)),
        (&[&[Delivered], &[Retrying]], ("retrying", 2)),
        (&[&[Retrying, Delivered], &[Delivered]], ("delivered", 3)),
        (&[&[Delivered], &[Retrying], &[Retrying, Failed]], ("failed", 4)),
        (&[&[Delivered], &[Cancelled]], ("delivered", 2)),
        (&[&[Cancelled]], ("pending", 1)),
        (&[&[Retrying, Retrying, Delivered]], ("delivered", 3)),
    ];
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    // Events first, attempts first, and both in any batches.
    for events_first in [true, false] {
        let events = cases.map(|_| event(org));
        if events_first {
            for event in &events {
                bench.event(event).await;
            }
            bench.all_applied().await;
        }
        for (event, (deliveries, _)) in events.iter().zip(cases) {
            for outcomes in deliveries {
                let endpoint = EndpointId::generate();
                for (outcome, number) in outcomes.iter().zip(1..) {
                    bench.attempt(&attempt(org, event.event_id, endpoint, number, *outcome)).await;
                }
            }
        }
        bench.all_applied().await;
        if !events_first {
            assert!(bench.count("SELECT count(*) FROM view.pending_effects").await > 0);
            for event in &events {
                bench.event(event).await;
            }
            bench.all_applied().await;
        }
        for (event, (deliveries, (expected, attempts))) in events.iter().zip(cases) {
            assert_eq!(
                status(&bench, org, event.event_id).await,
                (expected.to_owned(), attempts),
                "{deliveries:?}, {events_first}"
            );
        }
    }
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 0);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_pending_until_each_matched_endpoint_was_tried() {
    use DeliveryOutcome::{Cancelled, Delivered, Failed, Retrying};
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let of = event(org);
    bench.event(&of).await;
    let steps = [
        (Delivered, Some(4), "pending"),
        // Of a dispatcher that does not say it.
        (Delivered, None, "pending"),
        (Retrying, Some(4), "retrying"),
        (Cancelled, Some(4), "retrying"),
    ];
    for (outcome, endpoints_matched, expected) in steps {
        let report = attempt(org, of.event_id, EndpointId::generate(), 1, outcome);
        bench.attempt(&DeliveryAttempt { endpoints_matched, ..report }).await;
        bench.all_applied().await;
        assert_eq!(status(&bench, org, of.event_id).await.0, expected, "{outcome:?}");
    }
    let others = event(org);
    bench.event(&others).await;
    for (outcome, expected) in [(Delivered, "pending"), (Cancelled, "delivered"), (Failed, "failed")] {
        let report = attempt(org, others.event_id, EndpointId::generate(), 1, outcome);
        bench.attempt(&DeliveryAttempt { endpoints_matched: Some(2), ..report }).await;
        bench.all_applied().await;
        assert_eq!(status(&bench, org, others.event_id).await.0, expected, "{outcome:?}");
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_has_the_state_of_its_last_attempt() {
    let bench = Bench::start().await;
    let org = bench.organization(1).await;
    let (of, endpoint) = (event(org), EndpointId::generate());
    bench.event(&of).await;
    let attempts = [
        attempt(org, of.event_id, endpoint, 1, DeliveryOutcome::Retrying),
        attempt(org, of.event_id, endpoint, 2, DeliveryOutcome::Retrying),
        attempt(org, of.event_id, endpoint, 3, DeliveryOutcome::Delivered),
    ];
    bench.attempt(&attempts[0]).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(
        delivery(&bench).await,
        ("retrying".to_owned(), 1, Some(503), Some("answered 503".to_owned()), Some(at(&attempts[0], 5)))
    );
    projecting.stop().await;
    // One batch, with a record that was appended again after later ones.
    bench.attempt(&attempts[1]).await;
    bench.attempt(&attempts[2]).await;
    bench.attempt(&attempts[0]).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(delivery(&bench).await, ("delivered".to_owned(), 3, Some(204), None, None));
    bench.attempt(&attempts[1]).await;
    bench.all_applied().await;
    assert_eq!(delivery(&bench).await, ("delivered".to_owned(), 3, Some(204), None, None));
    assert_eq!(status(&bench, org, of.event_id).await, ("delivered".to_owned(), 3));
    let kept: Vec<(Uuid, i32, String, i64, Option<String>)> = sqlx::query_as(
        "SELECT delivery_id, attempt, outcome, latency_ms, response_excerpt
                        FROM view.delivery_attempts ORDER BY attempt",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    let expected = attempts
        .map(|a| (a.delivery_id.as_uuid(), a.attempt, a.outcome.as_str().to_owned(), 12, Some("busy".to_owned())));
    assert_eq!(kept, expected);
    projecting.stop().await;
}

type Delivery = (String, i32, Option<i32>, Option<String>, Option<OffsetDateTime>);

async fn delivery(bench: &Bench) -> Delivery {
    sqlx::query_as("SELECT status, attempts, last_status_code, last_error, next_attempt_at FROM view.deliveries")
        .fetch_one(&bench.pool)
        .await
        .unwrap()
}

fn at(attempt: &DeliveryAttempt, seconds_later: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(attempt.started_at) * 1000).unwrap()
        + time::Duration::seconds(seconds_later)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_does_not_depend_on_how_its_attempts_were_batched() {
    use DeliveryOutcome::{Delivered, Retrying};
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (apart, together) = (EndpointId::generate(), EndpointId::generate());
    let id = EventId::generate();
    let attempts = |endpoint| {
        [(1, Retrying), (2, Retrying), (3, Delivered)].map(|(n, outcome)| attempt(org, id, endpoint, n, outcome))
    };
    let projecting = bench.project();
    for attempt in attempts(apart) {
        bench.attempt(&attempt).await;
        bench.all_applied().await;
    }
    projecting.stop().await;
    for attempt in attempts(together) {
        bench.attempt(&attempt).await;
    }
    let projecting = bench.project();
    bench.all_applied().await;
    // All columns of a row except ids and append time, as one text.
    let rows: Vec<(String, OffsetDateTime)> = sqlx::query_as(
        "SELECT (to_jsonb(d) - 'delivery_id' - 'endpoint_id' - 'last_appended_at')::text, created_at
         FROM view.deliveries d",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0].1.unix_timestamp(), STARTED_AT / 1_000_000 + 1, "created when the first attempt started");
    projecting.stop().await;
}

/// A dispatcher that was halted, or that could not reach Kafka, reports attempts after another one continued the
/// delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_report_never_reopens_a_finished_delivery() {
    use DeliveryOutcome::{Cancelled, Delivered, Failed, Retrying};
    let cases = [
        ([(1, Delivered), (1, Retrying)], ("delivered", 1)),
        ([(1, Delivered), (2, Retrying)], ("delivered", 1)),
        ([(1, Delivered), (2, Failed)], ("delivered", 1)),
        ([(2, Delivered), (3, Cancelled)], ("delivered", 2)),
        ([(3, Failed), (3, Retrying)], ("failed", 3)),
        // The report of its first attempt timed out, and was appended nevertheless.
        ([(0, Cancelled), (1, Retrying)], ("cancelled", 0)),
        ([(1, Retrying), (2, Retrying)], ("retrying", 2)),
    ];
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    for in_one_batch in [true, false] {
        for in_turn in [true, false] {
            let mut projecting = (!in_one_batch).then(|| bench.project());
            let mut expected = Vec::new();
            for (mut reports, (status, attempts)) in cases {
                let (id, endpoint) = (EventId::generate(), EndpointId::generate());
                if !in_turn {
                    reports.reverse();
                }
                for (number, outcome) in reports {
                    bench.attempt(&attempt(org, id, endpoint, number, outcome)).await;
                    if projecting.is_some() {
                        bench.all_applied().await;
                    }
                }
                expected.push((DeliveryId::of(endpoint, id), reports, status, attempts));
            }
            let projecting = projecting.take().unwrap_or_else(|| bench.project());
            bench.all_applied().await;
            projecting.stop().await;
            for (id, reports, status, attempts) in expected {
                let row: (String, i32) =
                    sqlx::query_as("SELECT status, attempts FROM view.deliveries WHERE delivery_id = $1")
                        .bind(id.as_uuid())
                        .fetch_one(&bench.pool)
                        .await
                        .unwrap();
                assert_eq!(row, (status.to_owned(), attempts), "{reports:?}, in one batch: {in_one_batch}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reports_of_one_attempt_the_one_appended_last_wins() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (id, endpoint, now) = (EventId::generate(), EndpointId::generate(), OffsetDateTime::now_utc());
    // Append times are by the leader's clock. In one batch, and against the stored report.
    let append_report = async |status_code, seconds| {
        let report = DeliveryAttempt {
            status_code: Some(status_code),
            ..attempt(org, id, endpoint, 1, DeliveryOutcome::Retrying)
        };
        let (key, value) = (org.to_string(), encode_attempt(&report).unwrap());
        append_record_at(&bench, &bench.topics().deliveries, 0, (&key, &value), now + time::Duration::seconds(seconds))
            .await;
    };
    append_report(500, -60).await;
    append_report(501, -61).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(delivery(&bench).await.2, Some(500));
    append_report(502, -62).await;
    bench.all_applied().await;
    assert_eq!(delivery(&bench).await.2, Some(500));
    append_report(503, -59).await;
    bench.all_applied().await;
    assert_eq!(delivery(&bench).await.2, Some(503));
    projecting.stop().await;
}
