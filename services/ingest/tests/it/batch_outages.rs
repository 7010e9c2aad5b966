//! Batches while Kafka is overloaded or away: what was accepted stays accepted, and each other item says so.

use std::time::{Duration, Instant};

use devstack::testing::eventually;
use kafka::producer::ProducerSettings;
use serde_json::Value;

use crate::batch::{JSON, NDJSON, counts, event, lines, object, statuses};
use crate::batch_lines::Upload;
use crate::bench::{Bench, send};
use crate::outages::{BUDGET, SLACK, on_mock, on_mock_with, settings, without_kafka};

fn message(result: &Value) -> &str {
    result["message"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_503s_is_503_with_all_results() {
    let bench = Bench::start().await;
    let instance = without_kafka(&bench, settings()).await;
    let events = [event(0), event(1), event(2)];
    for (content_type, body) in [(JSON, object(&events)), (NDJSON, lines(&events))] {
        let started = Instant::now();
        let answer = send(instance.batch("/v1/events/batch", content_type, body)).await.expect(503);
        assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
        let retry_after: u32 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!(retry_after >= 1);
        assert_eq!((statuses(&answer), counts(&answer)), (vec![503; 3], [0, 0, 3]));
        let detail = answer.text("detail");
        assert!(detail.contains("may have been stored") && detail.contains("dedup_id"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overload_in_the_middle_refuses_only_the_rest() {
    let bench = Bench::start().await;
    let (mock, instance) = on_mock_with(&bench, ProducerSettings { max_in_flight: 5, ..settings() }).await;
    // Nothing is reported while the batch is submitted.
    mock.broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
    let events: Vec<Value> = (0..8).map(event).collect();
    let answer = send(instance.batch("/v1/events/batch", JSON, object(&events))).await.expect(207);
    assert_eq!((statuses(&answer), counts(&answer)), ([vec![201; 5], vec![503; 3]].concat(), [5, 0, 3]));
    for result in &answer.body["results"].as_array().unwrap()[5..] {
        assert_eq!(result["error_code"], "unavailable");
        assert!(message(result).contains("was not stored"), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_away_in_the_middle_leaves_the_accepted_ones_accepted() {
    let bench = Bench::start().await;
    let (mock, instance) = on_mock(&bench).await;
    let next_offset = || instance.written.last(bench.org.as_uuid(), Instant::now())[0].1;
    let before = next_offset();
    let mut upload = Upload::start(&instance).await;
    upload.send(lines(&[event(0), event(1)]).as_bytes()).await;
    eventually(Duration::from_secs(30), "the first lines are accepted", || async {
        (next_offset() == before + 2).then_some(())
    })
    .await;
    mock.broker_down(-1).unwrap();
    let started = Instant::now();
    // More than may be in flight: the events that come after the first 503 are refused at once.
    let large = event(2).to_string() + &" ".repeat(500 * 1024);
    for _ in 0..6 {
        upload.send(format!("{large}\n").as_bytes()).await;
    }
    let answer = upload.finish().await.expect(207);
    assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
    assert_eq!((statuses(&answer), counts(&answer)), ([vec![201; 2], vec![503; 6]].concat(), [2, 0, 6]));
    assert!(message(&answer.body["results"][2]).contains("may have been stored"), "{answer:?}");
    assert!(message(&answer.body["results"][7]).contains("was not stored"), "{answer:?}");

    mock.broker_up(-1).unwrap();
    eventually(Duration::from_secs(30), "a batch is accepted again", || async {
        let answer = send(instance.batch("/v1/events/batch", JSON, object(&[event(0)]))).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_of_a_failed_item_fails_with_it() {
    let bench = Bench::start().await;
    let instance = without_kafka(&bench, settings()).await;
    let keyed = serde_json::json!({"type": "a", "data": 1, "dedup_id": "d"});
    let started = Instant::now();
    let body = object(&[keyed.clone(), keyed, event(1)]);
    let answer = send(instance.batch("/v1/events/batch", JSON, body)).await.expect(503);
    assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
    assert_eq!((statuses(&answer), counts(&answer)), (vec![503; 3], [0, 0, 3]));
}
