//! Filters, counts and what an event looks like.

use std::collections::HashSet;

use devstack::testing::eventually;
use schemas::ids::EventId;
use time::Duration;
use time::format_description::well_known::Rfc3339;

use super::harness::{Bench, START, ViewEvent, ids, row};
use crate::projector::harness::PATIENCE;

fn moment(after_start: Duration) -> String {
    (START + after_start).format(&Rfc3339).unwrap()
}

fn ids_of<'a>(rows: impl IntoIterator<Item = &'a ViewEvent>) -> Vec<EventId> {
    rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn filters_by_type_status_and_acknowledgement() {
    let bench = Bench::start().await;
    let of = |offset, event_type: &str, delivery_status| ViewEvent {
        event_type: event_type.to_owned(),
        delivery_status,
        ..row(0, offset)
    };
    let mut rows = vec![
        of(0, "order.created", "pending"),
        of(1, "order.paid", "retrying"),
        of(2, "order.created", "failed"),
        of(3, "a b/c&d", "delivered"),
        of(4, "order.created", "delivered"),
    ];
    rows[4].acknowledged_at = Some(START);
    bench.show(bench.alpha, &rows).await;
    for (query, wanted) in [
        ("", &[0, 1, 2, 3][..]),
        ("?include_acknowledged=true", &[0, 1, 2, 3, 4]),
        ("?include_acknowledged=false&event_type=order.created", &[0, 2]),
        ("?event_type=order.created&event_type=order.paid&order=desc", &[2, 1, 0]),
        ("?event_type=a%20b%2Fc%26d", &[3]),
        ("?event_type=order", &[]),
        ("?status=pending", &[0]),
        ("?status=retrying", &[1]),
        ("?status=failed", &[2]),
        ("?status=delivered", &[3]),
        ("?status=delivered&include_acknowledged=1", &[3, 4]),
        ("?status=failed&event_type=order.paid", &[]),
    ] {
        let page = bench.page(&format!("/v1/inbox{query}")).await;
        assert_eq!(ids(&page), ids_of(wanted.iter().map(|index| &rows[*index])), "{query}");
        assert_eq!(page["pagination"]["total_undelivered"], 4, "the count is of the inbox, not of the filter: {query}");
    }
}

#[tokio::test]
async fn since_is_inclusive_and_until_exclusive() {
    let bench = Bench::start().await;
    // Two partitions and an older log epoch; times of one partition step back by minutes now and then.
    let mut rows: Vec<ViewEvent> = (0..200).map(|offset| ViewEvent { log_epoch: 1, ..row(0, offset * 60) }).collect();
    rows.extend((200..600).map(|n| ViewEvent {
        log_epoch: 2,
        accepted_at: START + Duration::minutes(n),
        ..row(0, n - 200)
    }));
    rows.extend((0..600).map(|n| ViewEvent {
        accepted_at: START + Duration::minutes(n - if n % 50 == 0 { 8 } else { 0 }),
        ..row(1, n * 3)
    }));
    bench.show(bench.alpha, &rows).await;
    for (since, until) in
        [(0, 600), (-1_000, 5), (590, 5_000), (100, 101), (199, 203), (250, 420), (300, 300), (-50, -20), (700, 800)]
    {
        let (from, to) = (START + Duration::minutes(since), START + Duration::minutes(until));
        let wanted = rows.iter().filter(|row| row.accepted_at >= from && row.accepted_at < to);
        for order in ["asc", "desc"] {
            let window =
                format!("since={}&until={}", moment(Duration::minutes(since)), moment(Duration::minutes(until)));
            let path = format!("/v1/inbox?limit=1000&order={order}&{window}");
            let mut page = bench.page(&path).await;
            let mut seen = ids(&page);
            while let Some(cursor) = page["next_cursor"].as_str().map(str::to_owned) {
                page = bench.page(&format!("{path}&cursor={cursor}")).await;
                seen.extend(ids(&page));
            }
            let wanted: HashSet<EventId> = ids_of(wanted.clone()).into_iter().collect();
            assert_eq!(seen.len(), wanted.len(), "{since}..{until} {order}");
            assert_eq!(seen.into_iter().collect::<HashSet<_>>(), wanted, "{since}..{until} {order}");
        }
    }
}

#[tokio::test]
async fn cursor_survives_a_filter_change() {
    let bench = Bench::start().await;
    let of = |offset: i64, event_type: &str| ViewEvent { event_type: event_type.to_owned(), ..row(0, offset) };
    bench
        .show(
            bench.alpha,
            &(0..30).map(|offset| of(offset, if offset == 3 { "rare" } else { "a" })).collect::<Vec<_>>(),
        )
        .await;
    let page = bench.page("/v1/inbox?event_type=rare").await;
    assert_eq!(ids(&page).len(), 1);
    let cursor = page["resume_cursor"].as_str().unwrap();
    assert_eq!(ids(&bench.page(&format!("/v1/inbox?cursor={cursor}")).await).len(), 0, "earlier events are skipped");
    bench.show(bench.alpha, &[of(30, "a")]).await;
    assert_eq!(ids(&bench.page(&format!("/v1/inbox?cursor={cursor}")).await).len(), 1);
    // A status changes: what does not fit now may fit later, so nothing is skipped.
    let page = bench.page("/v1/inbox?status=failed").await;
    sqlx::query("UPDATE view.events SET delivery_status = 'failed' WHERE log_offset = 7")
        .execute(&bench.pool)
        .await
        .unwrap();
    let cursor = page["resume_cursor"].as_str().unwrap();
    assert_eq!(ids(&bench.page(&format!("/v1/inbox?status=failed&cursor={cursor}")).await).len(), 1);
}

#[tokio::test]
async fn unacknowledged_count_is_exact_up_to_10000() {
    let bench = Bench::start().await;
    let fill = "INSERT INTO view.events
                    (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload)
                SELECT $1, gen_random_uuid(), 1, 0, n, $2, 'a', '1' FROM generate_series($3::bigint, $4::bigint) n";
    let fill = async |from: i64, to: i64| {
        let query = sqlx::query(fill).bind(bench.alpha.as_uuid()).bind(START).bind(from).bind(to);
        query.execute(&bench.pool).await.unwrap();
    };
    fill(1, 10_000).await;
    let pagination = bench.page("/v1/inbox?limit=1").await["pagination"].take();
    assert_eq!((&pagination["total_undelivered"], &pagination["total_count"]), (&10_000.into(), &10_000.into()));
    assert!(pagination.get("total_is_lower_bound").is_none());
    fill(10_001, 10_001).await;
    let page = bench.page("/v1/inbox?limit=1").await;
    assert_eq!(page["pagination"]["total_undelivered"], 10_000);
    assert_eq!(page["pagination"]["total_is_lower_bound"], true);
    let cursor = page["next_cursor"].as_str().unwrap();
    let second = bench.page(&format!("/v1/inbox?limit=1&cursor={cursor}")).await;
    assert!(second["pagination"]["total_undelivered"].is_null() && second["pagination"]["total_count"].is_null());
    assert_eq!(second["pagination"]["cursor"], cursor);
    // That there are too many is remembered for a second.
    sqlx::query("UPDATE view.events SET acknowledged_at = now() WHERE log_offset > 9998")
        .execute(&bench.pool)
        .await
        .unwrap();
    eventually(PATIENCE, "the count is exact again", || async {
        let pagination = bench.page("/v1/inbox?limit=1").await["pagination"].take();
        let is_exact = pagination.get("total_is_lower_bound").is_none();
        assert_eq!(pagination["total_undelivered"], if is_exact { 9998 } else { 10_000 });
        is_exact.then_some(())
    })
    .await;
}

#[tokio::test]
async fn payload_bytes_are_the_producers_and_every_field_is_there() {
    let bench = Bench::start().await;
    let payload = "{ \"b\":1.50e+2 , \"a\": 123456789012345678901234567890,\t\"a\":\"\\u00e9\u{e9}\\/\" ,\"n\": [ ] }";
    sqlx::query(
        "INSERT INTO view.events
             (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload,
                                  occurred_at, source,
                                  ordering_key, metadata, dedup_id, attempts)
         VALUES ($1, '0192f0c1-2345-7abc-8def-0123456789ab', 1, 0, 5, $2, 'x.y', $3::text::json,
                 $4, 'shop', 'c-9', '{\"k\": \"v\"}', 'ord-7', 3)",
    )
    .bind(bench.alpha.as_uuid())
    .bind(START + Duration::microseconds(123_456))
    // Not as `sqlx::types::Json`: that binds a jsonb, which is another text.
    .bind(payload)
    .bind(START - Duration::days(1))
    .execute(&bench.pool)
    .await
    .unwrap();
    let answer = bench.get("/v1/inbox").await;
    assert!(answer.text.contains(&format!("\"payload\":{payload},")), "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json");
    let page = answer.json();
    let mut event = page["events"][0].clone();
    let position = event["position"].take();
    assert!(
        bench
            .sealing
            .open_stable_token("position", bench.alpha.as_uuid().as_bytes(), position.as_str().unwrap())
            .is_some()
    );
    event["payload"].take();
    assert_eq!(
        event,
        serde_json::json!({
            "event_id": "0192f0c1-2345-7abc-8def-0123456789ab", "id": "0192f0c1-2345-7abc-8def-0123456789ab",
            "event_type": "x.y", "type": "x.y", "payload": null, "timestamp": "2026-11-21T09:00:00.123Z",
            "created_at": "2026-11-21T09:00:00.123Z", "occurred_at": "2026-11-20T09:00:00.000Z", "source": "shop",
            "ordering_key": "c-9",
            "metadata": {"k": "v"}, "dedup_id": "ord-7", "status": "pending", "delivery_status": "pending",
            "attempts": 3,
            "acknowledged_at": null, "leased_until": null, "position": null,
        })
    );
    assert_eq!(page["oldest_available"], "2026-11-21T09:00:00.123Z");
    let alone = bench.get("/v1/events/0192f0c1-2345-7abc-8def-0123456789ab").await;
    assert!(alone.text.contains(&format!("\"payload\":{payload},")), "{}", alone.text);
}
