//! Read-your-writes, `min_position` and long polls.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use schemas::position::RecordPosition;
use schemas::unix_time::to_millis;
use tenancy::BudgetSettings;

use super::harness::{Bench, START, ViewEvent, ids, row, text};

/// Shows events of Alpha when a read waits for the view.
async fn show_while_a_read_waits(bench: &Bench, rows: &[ViewEvent]) {
    bench.a_read_waits().await;
    bench.show(bench.alpha, rows).await;
}

#[tokio::test]
async fn page_read_waits_for_events_that_were_just_accepted() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(4, 0)]).await;
    let accepted = row(4, 17);
    bench.written.note(bench.alpha.as_uuid(), 4, 17, Instant::now());
    let shown = show_while_a_read_waits(&bench, std::slice::from_ref(&accepted));
    let ((), answer) = tokio::join!(shown, bench.get("/v1/inbox"));
    assert_eq!(ids(&answer.json()).last(), Some(&accepted.id));
    assert!(
        answer.took < Duration::from_millis(900),
        "it continues as soon as the view has caught up: {:?}",
        answer.took
    );
    let other = bench.ask(Method::GET, "/v1/inbox", "beta", "").await;
    assert!(other.took < Duration::from_secs(1), "another organization does not wait");
}

#[tokio::test]
async fn single_read_waits_for_an_event_that_was_just_accepted() {
    let bench = Bench::start().await;
    let accepted = row(4, 17);
    let path = format!("/v1/events/{}", accepted.id);
    bench.written.note(bench.alpha.as_uuid(), 4, 17, Instant::now());
    let shown = show_while_a_read_waits(&bench, std::slice::from_ref(&accepted));
    let ((), answer) = tokio::join!(shown, bench.get(&path));
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

#[tokio::test]
async fn a_view_that_stays_behind_is_read_as_it_is_after_a_second() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(4, 0)]).await;
    bench.written.note(bench.alpha.as_uuid(), 4, 17, Instant::now());
    let answer = bench.get("/v1/inbox").await;
    assert_eq!(ids(&answer.json()).len(), 1);
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&answer.took), "{:?}", answer.took);
}

/// The position token of an event of Alpha.
fn token(bench: &Bench, row: &ViewEvent) -> String {
    let position =
        RecordPosition { partition: row.partition, offset: row.offset, appended_at_ms: to_millis(row.accepted_at) };
    bench.sealing.seal_stable_token("position", bench.alpha.as_uuid().as_bytes(), &position.to_bytes())
}

#[tokio::test]
async fn every_min_position_is_awaited() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(2, 3), row(5, 3)]).await;
    let both = [row(2, 20), row(5, 20)];
    let [first, second] = both.each_ref().map(|row| token(&bench, row));
    let path = format!("/v1/inbox?limit=100&min_position={first}&min_position={second}");
    let ((), page) = tokio::join!(show_while_a_read_waits(&bench, &both), bench.page(&path));
    assert_eq!(ids(&page).len(), 4);
    let shown: Vec<&str> = page["events"].as_array().unwrap().iter().map(|event| text(event, "position")).collect();
    assert!(shown.contains(&first.as_str()) && shown.contains(&second.as_str()), "the same tokens: {shown:?}");
}

#[tokio::test]
async fn min_position_in_a_recreated_log_is_compared_by_time() {
    let bench = Bench::start().await;
    let hour = time::Duration::HOUR;
    bench.show(bench.alpha, &[row(2, 30)]).await;
    let is_awaited = async |row: &ViewEvent| {
        let answer = bench.get(&format!("/v1/inbox?min_position={}", token(&bench, row))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.took >= Duration::from_millis(900)
    };
    let of_an_older_log = ViewEvent { accepted_at: START - hour, ..row(2, 1_000) };
    assert!(!is_awaited(&of_an_older_log).await, "the view never comes to an offset of an older log");
    assert!(is_awaited(&ViewEvent { accepted_at: START, ..row(2, 1_000) }).await, "this may be the same log");
    assert!(is_awaited(&row(3, 0)).await, "the view has no position in this partition yet");

    // The topic was created again, and the materializer is still at an offset of the old log.
    let of_the_new_log = ViewEvent { accepted_at: START + hour, log_epoch: 2, ..row(2, 5) };
    let path = format!("/v1/inbox?min_position={}", token(&bench, &of_the_new_log));
    let shown = show_while_a_read_waits(&bench, std::slice::from_ref(&of_the_new_log));
    let ((), page) = tokio::join!(shown, bench.page(&path));
    assert_eq!(ids(&page).last(), Some(&of_the_new_log.id), "a higher offset of the old log does not count");
}

#[tokio::test]
async fn long_poll_answers_when_its_organization_gets_an_event() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(0, 0)]).await;
    let cursor = bench.page("/v1/inbox").await["resume_cursor"].as_str().unwrap().to_owned();
    let path = format!("/v1/inbox?wait=30&cursor={cursor}");
    let arrivals = async {
        // Not for us, then not of our type, then ours on a new partition.
        let others = async {
            bench.requests_wait(2).await;
            bench.show(bench.beta, &[row(0, 1)]).await;
            bench.show(bench.alpha, &[ViewEvent { event_type: "b".to_owned(), ..row(0, 2) }]).await;
        };
        // This one takes any type: once it is answered, the other one has been notified too.
        let ((), of_any_type) = tokio::join!(others, bench.page(&path));
        assert_eq!(ids(&of_any_type).len(), 1);
        bench.show(bench.alpha, &[row(9, 40)]).await;
        Instant::now()
    };
    let narrow = format!("{path}&event_type=a");
    let (arrived, answer) = tokio::join!(arrivals, async { (bench.page(&narrow).await, Instant::now()) });
    let (page, answered) = answer;
    assert_eq!(ids(&page).len(), 1);
    assert!(answered >= arrived && answered - arrived < Duration::from_secs(2), "{:?}", answered - arrived);
    let at_once = bench.get(&path).await;
    assert_eq!(ids(&at_once.json()).len(), 2);
    assert!(at_once.took < Duration::from_secs(2), "existing events are returned at once: {:?}", at_once.took);
}

#[tokio::test]
async fn a_long_poll_by_status_notices_that_a_status_changed() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(0, 0)]).await;
    let change = async {
        bench.requests_wait(1).await;
        sqlx::query("UPDATE view.events SET delivery_status = 'failed'").execute(&bench.pool).await.unwrap();
    };
    let ((), answer) = tokio::join!(change, bench.get("/v1/inbox?wait=20&status=failed"));
    assert_eq!(ids(&answer.json()).len(), 1);
    assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
}

#[tokio::test]
async fn long_poll_ends_empty_on_timeout_or_shutdown() {
    let bench = Bench::start().await;
    let answer = bench.get("/v1/inbox?wait=1").await;
    assert_eq!((answer.status, ids(&answer.json()).len()), (StatusCode::OK, 0));
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&answer.took), "{:?}", answer.took);
    let stop = async {
        bench.requests_wait(1).await;
        bench.shutdown.cancel();
    };
    let ((), answer) = tokio::join!(stop, bench.get("/v1/inbox?wait=30"));
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
}

#[tokio::test]
async fn a_hundred_long_polls_are_all_woken_by_one_arrival_each() {
    let bench = Bench::start().await;
    bench.show(bench.alpha, &[row(0, 0)]).await;
    let cursor = bench.page("/v1/inbox").await["resume_cursor"].as_str().unwrap().to_owned();
    let path = format!("/v1/inbox?wait=30&cursor={cursor}");
    let all = futures_util::future::join_all((0..100).map(|_| bench.get(&path)));
    let one = [row(0, 1)];
    let arrival = async {
        bench.requests_wait(100).await;
        bench.show(bench.alpha, &one).await;
    };
    let (answers, ()) = tokio::join!(all, arrival);
    for answer in answers {
        assert_eq!(ids(&answer.json()).len(), 1, "{}", answer.text);
        assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
    }
}

#[tokio::test]
async fn long_polls_are_bounded_by_key_and_by_organization() {
    let settings = BudgetSettings {
        max_long_polls_per_key: 3,
        max_long_polls_per_organization: 5,
        max_reads_per_organization: 1,
        ..BudgetSettings::default()
    };
    let bench = Bench::start_within(&settings).await;
    bench.show(bench.alpha, &[row(0, 0)]).await;
    let cursor = bench.page("/v1/inbox").await["resume_cursor"].as_str().unwrap().to_owned();
    let path = format!("/v1/inbox?wait=30&cursor={cursor}");
    let second = bench.restricted_key(&["a"]).await;
    let waits_as = async |key: &str, count: usize| {
        let all = (0..count).map(|_| bench.ask(Method::GET, &path, key, ""));
        futures_util::future::join_all(all).await
    };
    let refusals = async {
        bench.requests_wait(5).await;
        let other = bench.restricted_key(&["a"]).await;
        for (key, what) in [("alpha", "this key"), (&second, "events"), (&other, "events")] {
            let refused = bench.ask(Method::GET, &path, key, "").await;
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.text);
            assert!(refused.json()["detail"].as_str().unwrap().contains(what), "{}", refused.text);
            assert!(refused.took < Duration::from_secs(5) && refused.headers.contains_key("retry-after"));
        }
        assert_eq!(bench.waiting(), 5, "who is refused does not wait");
        assert!(bench.get("/v1/inbox").await.status == StatusCode::OK, "a waiting read holds no place in the database");
        bench.show(bench.alpha, &[row(0, 1)]).await;
    };
    let (first, others, ()) = tokio::join!(waits_as("alpha", 3), waits_as(&second, 2), refusals);
    for answer in first.iter().chain(&others) {
        assert_eq!(ids(&answer.json()).len(), 1, "{}", answer.text);
    }
    let again = async {
        bench.requests_wait(3).await;
        bench.show(bench.alpha, &[row(0, 2)]).await;
    };
    let path = path.replace(&cursor, first[0].json()["resume_cursor"].as_str().unwrap());
    let all = futures_util::future::join_all((0..3).map(|_| bench.get(&path)));
    let (answers, ()) = tokio::join!(all, again);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "the places are free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_poll_returns_nothing_to_a_revoked_key() {
    let bench = Bench::start().await;
    let revoke_then_show = async {
        bench.requests_wait(1).await;
        sqlx::query("UPDATE api_keys SET revoked_at = now()").execute(&bench.pool).await.unwrap();
        // Seen by this instance: from here on a new request is refused.
        let refused = || async { (bench.get("/v1/inbox").await.status == StatusCode::UNAUTHORIZED).then_some(()) };
        devstack::testing::eventually(Duration::from_secs(10), "the key is refused", refused).await;
        bench.show(bench.alpha, &[row(0, 0)]).await;
    };
    let ((), answer) = tokio::join!(revoke_then_show, bench.get("/v1/inbox?wait=20"));
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.text);
}
