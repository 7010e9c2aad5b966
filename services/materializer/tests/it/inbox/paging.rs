//! Paging: complete, without gap or repeat, in log order, whatever happens meanwhile.

use std::collections::{HashMap, HashSet};

use schemas::ids::EventId;
use serde_json::Value;
use time::Duration;

use super::harness::{Bench, ViewEvent, ids, row, text};

/// 3,000 rows over 3 partitions, 1,000 each, whose times overlap and now and then step back.
fn three_thousand_events() -> Vec<ViewEvent> {
    let at = |partition: i32, offset: i64| {
        let mut row = row(partition, offset);
        let step_back = if offset % 97 == 0 { 5 } else { 0 };
        row.accepted_at += Duration::milliseconds(i64::from(partition) * 333) - Duration::seconds(step_back);
        row
    };
    (0..3).flat_map(|partition| (0..1_000).map(move |offset| at(partition, offset))).collect()
}

/// Reads on from `path` to the end of the reading; answers the ids in order and the last page.
async fn read_to_the_end(bench: &Bench, path: &str) -> (Vec<EventId>, Value) {
    let mut page = bench.page(path).await;
    let mut seen = ids(&page);
    let parameters = path.split("&cursor=").next().unwrap();
    while page["has_more"] == true {
        page = bench.page(&format!("{parameters}&cursor={}", text(&page, "next_cursor"))).await;
        seen.extend(ids(&page));
    }
    assert!(page["next_cursor"].is_null());
    (seen, page)
}

fn assert_log_order(seen: &[EventId], rows: &[ViewEvent], descending: bool) {
    let offset_of: HashMap<EventId, (i32, i64)> =
        rows.iter().map(|row| (row.id, (row.partition, row.offset))).collect();
    for partition in 0..3 {
        let mut offsets: Vec<i64> = seen
            .iter()
            .map(|id| offset_of[id])
            .filter(|position| position.0 == partition)
            .map(|position| position.1)
            .collect();
        if descending {
            offsets.reverse();
        }
        assert!(offsets.is_sorted_by(|a, b| a < b), "partition {partition}");
    }
}

/// Shows `rows` in small transactions and acknowledges every third of `old`, so that both happen between two pages.
async fn disturb(bench: &Bench, rows: &[ViewEvent], old: &[ViewEvent]) {
    let mut victims = old.iter().step_by(3);
    for chunk in rows.chunks(10) {
        bench.show(bench.alpha, chunk).await;
        let done: Vec<_> = victims.by_ref().take(20).map(|row| row.id.as_uuid()).collect();
        let query =
            sqlx::query("UPDATE view.events SET acknowledged_at = now() WHERE org_id = $1 AND event_id = ANY($2)");
        query.bind(bench.alpha.as_uuid()).bind(done).execute(&bench.pool).await.unwrap();
    }
}

fn later() -> Vec<ViewEvent> {
    // Partition by partition in turns, as a log grows; the last partition is a new one.
    (1_000..1_100).flat_map(|offset| (0..4).map(move |partition| row(partition, offset))).collect()
}

#[tokio::test]
async fn paging_3000_events_has_no_gap_or_repeat() {
    let bench = Bench::start().await;
    let (old, new) = (three_thousand_events(), later());
    bench.show(bench.alpha, &old).await;
    bench.show(bench.beta, &(0..50).map(|offset| row(0, offset)).collect::<Vec<_>>()).await;

    let everything = "/v1/inbox?limit=37&include_acknowledged=true";
    let ((mut seen, last), ()) = tokio::join!(read_to_the_end(&bench, everything), disturb(&bench, &new, &old));
    let (rest, _) = read_to_the_end(&bench, &format!("{everything}&cursor={}", text(&last, "resume_cursor"))).await;
    seen.extend(rest);

    let all: Vec<ViewEvent> = old.into_iter().chain(new).collect();
    assert_eq!(seen.len(), all.len());
    assert_eq!(seen.iter().copied().collect::<HashSet<_>>(), all.iter().map(|row| row.id).collect::<HashSet<_>>());
    assert_log_order(&seen, &all, false);
}

#[tokio::test]
async fn paging_unacknowledged_events_has_no_gap_or_repeat() {
    let bench = Bench::start().await;
    let (old, new) = (three_thousand_events(), later());
    bench.show(bench.alpha, &old).await;
    let ((mut seen, last), ()) =
        tokio::join!(read_to_the_end(&bench, "/v1/inbox?limit=41"), disturb(&bench, &new, &old));
    seen.extend(resume(&bench, &last).await);

    let distinct: HashSet<EventId> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len(), "shown twice");
    let never_acknowledged = old.iter().enumerate().filter(|(index, _)| index % 3 != 0).map(|(_, row)| row);
    assert!(never_acknowledged.chain(&new).all(|row| distinct.contains(&row.id)), "not shown");
    let all: Vec<ViewEvent> = old.iter().chain(&new).cloned().collect();
    assert_log_order(&seen, &all, false);
}

/// What a last page's resume cursor brings.
async fn resume(bench: &Bench, last: &Value) -> Vec<EventId> {
    let mut seen = Vec::new();
    let mut cursor = text(last, "resume_cursor").to_owned();
    loop {
        let page = bench.page(&format!("/v1/inbox?limit=500&cursor={cursor}")).await;
        seen.extend(ids(&page));
        if page["has_more"] == false {
            return seen;
        }
        cursor = text(&page, "next_cursor").to_owned();
    }
}

#[tokio::test]
async fn descending_paging_is_a_snapshot_and_resumes() {
    let bench = Bench::start().await;
    let (old, new) = (three_thousand_events(), later());
    bench.show(bench.alpha, &old).await;
    let first = bench.page("/v1/inbox?limit=10&order=desc").await;
    assert_eq!(ids(&first)[0], old.iter().max_by_key(|row| (row.accepted_at, row.partition)).unwrap().id);
    bench.show(bench.alpha, &new).await;

    let (rest, _) =
        read_to_the_end(&bench, &format!("/v1/inbox?limit=200&order=desc&cursor={}", text(&first, "next_cursor")))
            .await;
    let seen: Vec<EventId> = ids(&first).into_iter().chain(rest).collect();
    assert_eq!(seen.len(), old.len());
    assert_eq!(seen.iter().copied().collect::<HashSet<_>>(), old.iter().map(|row| row.id).collect::<HashSet<_>>());
    assert_log_order(&seen, &old, true);

    let after = resume(&bench, &first).await;
    assert_eq!(after.len(), new.len());
    assert_log_order(&after, &new, false);
}

#[tokio::test]
async fn later_log_epoch_sorts_after_an_earlier_one() {
    let bench = Bench::start().await;
    let mut rows: Vec<ViewEvent> = (500..510).map(|offset| row(0, offset)).collect();
    rows.extend((0..10).map(|offset| ViewEvent {
        log_epoch: 2,
        accepted_at: super::harness::START + Duration::hours(1),
        ..row(0, offset)
    }));
    bench.show(bench.alpha, &rows).await;
    let (seen, last) = read_to_the_end(&bench, "/v1/inbox?limit=7").await;
    assert_eq!(seen, rows.iter().map(|row| row.id).collect::<Vec<_>>());
    assert_eq!(resume(&bench, &last).await, vec![]);
}

#[tokio::test]
async fn an_empty_inbox_gives_a_cursor_that_shows_the_first_event() {
    let bench = Bench::start().await;
    let page = bench.page("/inbox").await;
    assert_eq!((&page["events"], &page["has_more"]), (&Value::Array(vec![]), &Value::Bool(false)));
    assert!(page["oldest_available"].is_null() && page["next_cursor"].is_null());
    let first = row(2, 7);
    bench.show(bench.alpha, std::slice::from_ref(&first)).await;
    assert_eq!(resume(&bench, &page).await, vec![first.id]);
    let descending = bench.page("/v1/inbox?order=desc").await;
    assert_eq!(resume(&bench, &descending).await, vec![]);
}

#[tokio::test]
async fn mounts_differ_in_limit_and_order() {
    let bench = Bench::start().await;
    let rows: Vec<ViewEvent> = (0..120).map(|offset| row(0, offset)).collect();
    bench.show(bench.alpha, &rows).await;
    for (path, limit, first) in [("/v1/inbox", 50, 0), ("/inbox", 50, 0), ("/api/inbox", 100, 119)] {
        let page = bench.page(path).await;
        assert_eq!((ids(&page).len(), ids(&page)[0]), (limit, rows[first].id), "{path}");
        assert_eq!(page["pagination"]["limit"], limit, "{path}");
    }
    // What the resume cursor of /api's own order is used with there.
    let page = bench.page("/api/inbox").await;
    bench.show(bench.alpha, &[row(0, 120)]).await;
    assert_eq!(ids(&bench.page(&format!("/api/inbox?cursor={}", text(&page, "resume_cursor"))).await).len(), 1);
}
