//! Failed deliveries are retried in bulk. The rows of the view are written as the materializer would write them.

use std::time::Duration;

use devstack::testing::eventually;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, OTHER_KEY, PATIENCE, System, config};

/// Shows so many deliveries of an endpoint with their events.
async fn show_deliveries(system: &System, endpoint: &Value, count: i32, event_type: &str, status: &str) {
    sqlx::query(
        "WITH shown AS (
             SELECT gen_random_uuid() AS event_id, gen_random_uuid() AS delivery_id, n
             FROM generate_series(1, $3) AS n
         ), events AS (
             INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload)
             SELECT $1, event_id, 1, 0, n + (SELECT COALESCE(max(log_offset), 0) FROM view.events), now(), $4, '{}'
             FROM shown
         )
         INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts,
                                      last_started_at, created_at, last_appended_at, rank)
         SELECT $1, delivery_id, event_id, $2, $4, $5, 1, now(), now() - make_interval(secs => n / 100), now(), 1
         FROM shown",
    )
    .bind(system.org.as_uuid())
    .bind(endpoint["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap())
    .bind(count)
    .bind(event_type)
    .bind(status)
    .execute(&system.pool)
    .await
    .unwrap();
}

async fn shown(system: &System, id: &str) -> Value {
    system.call(Method::GET, &format!("/replays/{id}"), KEY, None).await.expect(200).body
}

#[tokio::test]
async fn failed_deliveries_are_retried_across_a_crash() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(PATIENCE * 2);
    let endpoint = system.endpoint(&receiver, json!({"max_in_flight": 100})).await;
    show_deliveries(&system, &endpoint, 1_200, "wanted", "failed").await;
    show_deliveries(&system, &endpoint, 30, "wanted", "delivered").await;
    show_deliveries(&system, &endpoint, 20, "other", "failed").await;
    let path = format!("/endpoints/{}/retry", endpoint["id"].as_str().unwrap());
    let counted = system.call(Method::POST, &path, KEY, Some(json!({"dry_run": true}))).await.expect(200).body;
    assert_eq!(counted, json!({"matched": 1_220, "matched_is_lower_bound": false}));
    let body = json!({"only": "failed", "event_types": ["wanted"], "from": "2020-01-01T00:00:00Z"});
    let id = system.call(Method::POST, &path, KEY, Some(body)).await.expect(202).text("replay_id");
    assert_eq!(shown(&system, &id).await["status"], "running");

    system.start_dispatcher(config());
    eventually(PATIENCE, "the first batch is scheduled", || async {
        (shown(&system, &id).await["scheduled"].as_i64().unwrap() >= 500).then_some(())
    })
    .await;
    system.crash().await;
    let before = shown(&system, &id).await;
    assert_eq!(before["status"], "running", "{before}");
    // As if the leases of the attempts in flight were over.
    system.make_due("state = 'pending' AND lease_id IS NOT NULL").await;
    system.start_dispatcher(config());
    let ended = eventually(PATIENCE, "the replay has finished", || async {
        Some(shown(&system, &id).await).filter(|replay| replay["status"] == "finished")
    })
    .await;
    assert_eq!((&ended["matched"], &ended["scheduled"]), (&json!(1_200), &json!(1_200)));
    assert!(ended["ended_at"].is_string());
    eventually(Duration::from_secs(90), "each event is received", || async {
        (receiver.counts().len() >= 1_200).then_some(())
    })
    .await;
    assert!(receiver.received().iter().all(|request| request.json()["type"] == "wanted"));
    let counts: (i64, i64) =
        sqlx::query_as("SELECT count(*), count(*) FILTER (WHERE round = 1) FROM delivery_schedule")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert_eq!(counts, (1_200, 1_200), "none is scheduled twice");
}

#[tokio::test]
async fn a_replay_counts_how_its_deliveries_end() {
    let mut system = System::without_dispatcher().await;
    let (good, bad) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(500)).await);
    let mut replays = Vec::new();
    for (receiver, count) in [(&good, 40), (&bad, 30)] {
        let endpoint = system.endpoint(receiver, json!({"retry_schedule": [60]})).await;
        show_deliveries(&system, &endpoint, count, "wanted", "failed").await;
        let path = format!("/endpoints/{}/retry", endpoint["id"].as_str().unwrap());
        replays.push(system.call(Method::POST, &path, KEY, None).await.expect(202).text("replay_id"));
    }
    let ends = |replay: Value| {
        let numbers = ["scheduled", "delivered", "failed"].map(|name| replay[name].as_i64().unwrap());
        (numbers, replay["progress"].as_f64().unwrap())
    };
    let reach = async |system: &System, id: &str, expected: ([i64; 3], f64)| {
        eventually(PATIENCE, &format!("the replay shows {expected:?}"), || async {
            (ends(shown(system, id).await) == expected).then_some(())
        })
        .await;
    };
    assert_eq!(ends(shown(&system, &replays[0]).await), ([0, 0, 0], 0.0));
    system.start_dispatcher(config());
    reach(&system, &replays[0], ([40, 40, 0], 1.0)).await;
    reach(&system, &replays[1], ([30, 0, 0], 0.0)).await;
    // The first attempts have failed; the last ones do now.
    let waits = |(state, attempts, _): &&(String, i32, bool)| state == "pending" && *attempts == 2;
    system.wait_for_schedule("the second attempts wait", |rows| rows.iter().filter(waits).count() == 30).await;
    system.make_due("state = 'pending'").await;
    reach(&system, &replays[1], ([30, 0, 30], 1.0)).await;
    // A dispatcher that starts adds them up.
    system.crash().await;
    system.start_dispatcher(config());
    eventually(PATIENCE, "the outcomes are added up", || async {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM replay_outcomes").fetch_one(&system.pool).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(ends(shown(&system, &replays[0]).await), ([40, 40, 0], 1.0));
    assert_eq!(ends(shown(&system, &replays[1]).await), ([30, 0, 30], 1.0));
}

#[tokio::test]
async fn a_replay_is_bounded_own_and_can_be_cancelled() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = system.endpoint(&receiver, json!({})).await;
    let path = format!("/endpoints/{}/retry", endpoint["id"].as_str().unwrap());
    system.call(Method::POST, &path, OTHER_KEY, None).await.expect(404);
    for (member, wrong) in
        [("only", json!("all")), ("from", json!("x")), ("to", json!("x")), ("event_types", json!([""]))]
    {
        let refused = system.call(Method::POST, &path, KEY, Some(json!({member: wrong}))).await.expect(400);
        assert_eq!(refused.body["details"][0]["field"], member, "{}", refused.body);
    }
    let id = system.call(Method::POST, &path, KEY, None).await.expect(202).text("replay_id");
    let refused = system.call(Method::POST, &path, KEY, None).await.expect(409);
    assert_eq!(refused.body["error_code"], "too_many_replays", "one of an endpoint");
    let replay = format!("/replays/{id}");
    for method in [Method::GET, Method::DELETE] {
        system.call(method, &replay, OTHER_KEY, None).await.expect(404);
    }
    for _ in 0..2 {
        system.call(Method::DELETE, &replay, KEY, None).await.expect(204);
        assert_eq!(shown(&system, &id).await["status"], "cancelled");
    }
    let mut paths = Vec::new();
    for _ in 0..8 {
        let more = system.endpoint(&receiver, json!({})).await;
        paths.push(format!("/endpoints/{}/retry", more["id"].as_str().unwrap()));
    }
    let answers = join_all(paths.iter().map(|path| system.call(Method::POST, path, KEY, None))).await;
    let started = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(started, 3, "three of an organization, also of those that come at once");
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body.to_string();
    assert!(page.contains("replay.started") && page.contains("replay.cancelled"));
}

#[tokio::test]
async fn a_replay_waits_while_too_much_is_open() {
    let mut limited = config();
    limited.open_limits.rows = 5;
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    show_deliveries(&system, &endpoint, 7, "wanted", "failed").await;
    let path = format!("/endpoints/{}/retry", endpoint["id"].as_str().unwrap());
    let id = system.call(Method::POST, &path, KEY, None).await.expect(202).text("replay_id");
    system.start_dispatcher(limited);
    system.wait_for_schedule("five are open", |rows| rows.len() == 5 && rows.iter().all(|row| row.1 == 2)).await;
    sqlx::query("UPDATE replays SET next_at = now()").execute(&system.pool).await.unwrap();
    eventually(PATIENCE, "the replay is looked at", || async {
        let sql = "SELECT next_at > now() FROM replays";
        sqlx::query_scalar::<_, bool>(sql).fetch_one(&system.pool).await.unwrap().then_some(())
    })
    .await;
    let waiting = shown(&system, &id).await;
    assert_eq!((&waiting["status"], &waiting["scheduled"]), (&json!("running"), &json!(5)));
    let delete = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    system.call(Method::DELETE, &delete, KEY, None).await.expect(204);
    sqlx::query("UPDATE replays SET next_at = now()").execute(&system.pool).await.unwrap();
    eventually(PATIENCE, "the replay ends with its endpoint", || async {
        (shown(&system, &id).await["status"] == "cancelled").then_some(())
    })
    .await;
}
