//! Rows of attempts depend neither on the order in which the reports are applied nor on how often they are.

use std::collections::BTreeSet;

use schemas::ids::{EndpointId, EventId, OrgId};
use sqlx::postgres::PgPool;
use testkit::{records, setup};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::projector::generation::Generation;

/// Round, attempt, outcome, milliseconds from the start of the test to the append, microseconds from there to the
/// start of the attempt. As two dispatchers report, one of them with a late clock; in several partitions with several
/// leaders.
type Report = (i32, i32, DeliveryOutcome, i64, i64);

const REPORTS: [Report; 6] = {
    use DeliveryOutcome::{Cancelled, Failed, Retrying};
    [
        (0, 1, Retrying, 1_000, 500_000),
        (0, 1, Retrying, 1_700, 600_000),
        (0, 2, Retrying, 2_000, 100_000),
        // Appended in the same millisecond.
        (0, 3, Failed, 3_000, 2_500_000),
        (0, 3, Cancelled, 3_000, 2_600_000),
        (0, 3, Failed, 3_000, 2_400_000),
    ]
};

/// Retried by hand twice: after it was delivered, and after it had failed.
const RETRIED_BY_HAND: [Report; 6] = {
    use DeliveryOutcome::{Delivered, Failed, Retrying};
    [
        (0, 1, Delivered, 1_000, 100_000),
        // Of a halted dispatcher: reported after the next round.
        (0, 2, Failed, 9_000, 8_600_000),
        (1, 2, Retrying, 2_000, 1_500_000),
        (1, 3, Failed, 3_000, 2_400_000),
        (2, 4, Retrying, 4_000, 3_500_000),
        (2, 4, Retrying, 4_000, 3_600_000),
    ]
};

/// All orders of the reports.
fn orders(reports: [Report; 6]) -> Vec<Vec<Report>> {
    reports.into_iter().fold(vec![Vec::new()], |orders, report| {
        let longer = |order: Vec<Report>| {
            (0..=order.len()).map(move |index| {
                let mut order = order.clone();
                order.insert(index, report);
                order
            })
        };
        orders.into_iter().flat_map(longer).collect()
    })
}

fn attempt(org: OrgId, (endpoint, event): (EndpointId, EventId), report: Report, start: i64) -> DeliveryAttempt {
    let (round, number, outcome, _, started_at) = report;
    DeliveryAttempt {
        round,
        started_at: start * 1_000 + started_at,
        latency_ms: started_at / 1_000,
        error: Some(format!("started after {started_at}")),
        wait_us: Some(started_at),
        endpoints_matched: (number != 2).then_some(number + 1),
        next_attempt_at: (outcome == DeliveryOutcome::Retrying).then_some(start * 1_000 + 2 * started_at),
        ..records::attempt(org, event, endpoint, number, outcome)
    }
}

async fn apply_all(pool: &PgPool, attempts: &[(DeliveryAttempt, i64)]) {
    let all: Vec<Record> = attempts
        .iter()
        .map(|(_, timestamp_ms)| Record {
            topic: "deliveries".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: *timestamp_ms,
            key: None,
            value: None,
            headers: Vec::new(),
            is_marker: false,
            has_producers_time: false,
        })
        .collect();
    let rows: Vec<AttemptRow<'_>> =
        all.iter().zip(attempts).map(|(record, (attempt, _))| AttemptRow { record, attempt }).collect();
    let mut transaction = runtime::postgres::begin_with(pool, Generation::Live.begin()).await.unwrap();
    apply(&mut transaction, &rows).await.unwrap();
    transaction.commit().await.unwrap();
}

/// The different contents of the rows, without ids.
async fn contents(pool: &PgPool, table: &str) -> BTreeSet<String> {
    let statement = format!(
        "SELECT string_agg((to_jsonb(t) - 'delivery_id' - 'endpoint_id')::text, ' ' ORDER BY to_jsonb(t) ->> 'attempt',
                           to_jsonb(t) ->> 'outcome', to_jsonb(t) ->> 'appended_at')
         FROM view.{table} t GROUP BY delivery_id"
    );
    let all: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_all(pool).await.unwrap();
    all.into_iter().collect()
}

#[tokio::test]
async fn rows_depend_on_no_order_and_no_repetition_of_reports() {
    let shown = shown_after_all_orders(REPORTS).await;
    assert_eq!(shown, ("cancelled".to_owned(), 3, 100_000, 2_600_000));
}

#[tokio::test]
async fn the_last_round_decides_in_every_order_of_reports() {
    let shown = shown_after_all_orders(RETRIED_BY_HAND).await;
    assert_eq!(shown, ("retrying".to_owned(), 4, 100_000, 3_600_000));
}

/// Status, attempts, and the starts of the first and the last attempt, microseconds from the start of the test.
async fn shown_after_all_orders(reports: [Report; 6]) -> (String, i32, i64, i64) {
    let (_database, pool) = setup::database().await;
    let (org, event, start) = (OrgId::generate(), EventId::generate(), OffsetDateTime::now_utc());
    let start_ms = start.unix_timestamp() * 1_000;
    for day in [start, start + Duration::days(1)] {
        let ensure = sqlx::query("SELECT view_ensure_time_partition('view', $1, 1)").bind(day);
        ensure.execute(&pool).await.unwrap();
    }
    let orders = orders(reports);
    assert_eq!(orders.len(), 720);
    // Each report of a delivery in a batch of its own, and all of them in one; then those that a replay reads.
    for sizes in [&[1, 1, 1, 1, 1, 1, 2][..], &[6], &[2, 4, 5]] {
        let deliveries: Vec<(EndpointId, EventId)> = orders.iter().map(|_| (EndpointId::generate(), event)).collect();
        let mut read = 0;
        for size in sizes {
            let batch = deliveries.iter().zip(&orders).flat_map(|(delivery, order)| {
                let reports = order.iter().cycle().skip(read).take(*size);
                reports.map(|report| (attempt(org, *delivery, *report, start_ms), start_ms + report.3))
            });
            apply_all(&pool, &batch.collect::<Vec<_>>()).await;
            read += size;
        }
    }
    let deliveries = contents(&pool, "deliveries").await;
    assert_eq!(deliveries.len(), 1, "{deliveries:#?}");
    let attempts = contents(&pool, "delivery_attempts").await;
    assert_eq!(attempts.len(), 1, "{attempts:#?}");
    let shown: Vec<(String, i32, i64, i64)> = sqlx::query_as(
        "SELECT DISTINCT status, attempts, (extract(epoch FROM created_at) * 1000000)::bigint - $1,
                (extract(epoch FROM last_started_at) * 1000000)::bigint - $1 FROM view.deliveries",
    )
    .bind(start_ms * 1_000)
    .fetch_all(&pool)
    .await
    .unwrap();
    let [shown] = shown.as_slice() else { panic!("one outcome: {shown:#?}") };
    shown.clone()
}
