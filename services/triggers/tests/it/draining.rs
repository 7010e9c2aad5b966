//! SIGTERM to a role: it drains, still answers requests, and then exits.

use std::time::{Duration, Instant};

use devstack::Signal;
use devstack::testing::eventually;
use serde_json::{Value, json};

use crate::api::{Api, http};
use crate::system::System;

const GRACE: Duration = Duration::from_secs(5);
const SETTINGS: [(&str, &str); 1] = [("SHUTDOWN_GRACE_MS", "5000")];
/// How long the test observes the draining roles: less than the grace, even on a busy machine.
const OBSERVED_FOR: Duration = Duration::from_secs(2);

/// HTTP status, and `status` in the body, on a new connection.
async fn readiness(base_url: &str) -> (u16, Value) {
    let answer = http().get(format!("{base_url}/health/ready")).send().await.unwrap();
    (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["status"].take())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_role_is_not_ready_and_still_answers() {
    let system = System::shared().await;
    let mut roles = vec![system.role("ingest", &SETTINGS)];
    let base_url = roles[0].ready().await;
    // The dispatcher needs the sealing key that ingest creates.
    roles.extend(["materializer", "dispatcher"].map(|role| system.role(role, &SETTINGS)));
    let urls = [base_url, roles[1].ready().await, roles[2].ready().await];
    let api = Api::of_new_organization(&urls[0], &system.operator_token, "Drained").await;

    let signalled = Instant::now();
    for role in &roles {
        role.signal(Signal::TERM);
    }
    for url in &urls {
        eventually(GRACE, "readiness turns 503", || async { (readiness(url).await.0 == 503).then_some(()) }).await;
    }
    let mut accepted = 0;
    while accepted == 0 || signalled.elapsed() < OBSERVED_FOR {
        for url in &urls {
            assert_eq!(readiness(url).await, (503, json!("draining")), "{url}");
            assert_eq!(http().get(format!("{url}/health/live")).send().await.unwrap().status(), 200, "{url}");
        }
        Api::new(&urls[0], &api.key).await.accept("order.created", &json!(accepted)).await;
        accepted += 1;
    }
    for mut role in roles {
        assert_eq!(role.ended().await.code(), Some(0), "{}", role.log());
        assert!(signalled.elapsed() >= GRACE, "it exited before its grace was over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_draining_role_at_once() {
    let system = System::shared().await;
    let mut ingest = system.role("ingest", &[("SHUTDOWN_GRACE_MS", "300000")]);
    let url = ingest.ready().await;
    ingest.signal(Signal::TERM);
    eventually(GRACE, "readiness turns 503", || async { (readiness(&url).await.0 == 503).then_some(()) }).await;
    ingest.signal(Signal::TERM);
    assert_eq!(ingest.ended().await.code(), Some(130), "{}", ingest.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_does_not_finish_in_time_ends_with_exit_code_1() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let system = System::shared().await;
    let (_ingest, materializer, api) = system.inbox_roles(&[]).await;
    drop(materializer);
    let settings = [("SHUTDOWN_DEADLINE_MS", "3000")];
    let mut roles = ["materializer", "dispatcher"].map(|role| system.role(role, &settings));
    tokio::join!(roles[0].ready(), roles[1].ready());
    let pool = system.database().await;
    // The first record of a partition has its leader epoch stored before it is applied. Only the transactions of the
    // second one wait for the lock.
    api.accept("order.created", &json!(0)).await;
    let moved = "SELECT count(*) FROM consumer_positions WHERE topic LIKE '%events%' AND next_offset > 0";
    eventually(Duration::from_secs(20), "both roles have applied an event", || async {
        let positions: i64 = sqlx::query_scalar(moved).fetch_one(&pool).await.unwrap();
        (positions == 2).then_some(())
    })
    .await;
    let mut lock = runtime::postgres::begin(&pool).await.unwrap();
    sqlx::query("LOCK consumer_positions IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    api.accept("order.created", &json!(1)).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%UPDATE%'";
    eventually(Duration::from_secs(20), "both roles wait for the lock with their transactions", || async {
        let transactions: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
        (transactions >= 2).then_some(())
    })
    .await;
    let signalled = Instant::now();
    roles.iter().for_each(|role| role.signal(Signal::TERM));
    for role in &mut roles {
        assert_eq!(role.ended().await.code(), Some(1), "{}", role.log());
        assert!(signalled.elapsed() >= DEADLINE, "it exited before the deadline: {}", role.log());
        assert!(role.log().contains("_ms\":3000"), "the log has the deadline: {}", role.log());
    }
}
