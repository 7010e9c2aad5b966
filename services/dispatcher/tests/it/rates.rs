//! Rate limits of endpoints, and what the receiver's answers do to them.

use std::time::Duration;

use devstack::testing::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

/// Any ten seconds have at most 110 % of the rate.
fn assert_rate(received: &[Received], rate: usize) {
    for (nth, first) in received.iter().enumerate() {
        let until = first.at + Duration::from_secs(10);
        let count = received[nth..].iter().take_while(|one| one.at < until).count();
        assert!(count * 100 <= rate * 10 * 110, "{count} in ten seconds at {rate} per second");
    }
    let first = received[0].at;
    let mut by_second = Vec::new();
    for one in received {
        let second = (one.at - first).as_secs() as usize;
        by_second.resize(by_second.len().max(second + 1), 0);
        by_second[second] += 1;
    }
    println!("arrivals per second at {rate}: {by_second:?}");
}

pub(crate) async fn stats(system: &System, endpoint: &Value) -> Value {
    let path = format!("/endpoints/{}/stats", endpoint["id"].as_str().unwrap());
    system.call(Method::GET, &path, KEY, None).await.expect(200).body
}

pub(crate) async fn wait_for_stats(
    system: &System,
    endpoint: &Value,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    eventually(PATIENCE, what, || async { Some(stats(system, endpoint).await).filter(|stats| wanted(stats)) }).await
}

#[tokio::test]
async fn two_dispatchers_hold_one_rate_for_first_attempts() {
    let mut system = System::start().await;
    system.start_dispatcher(config());
    let limited = Receiver::start(ReceiverBehavior::Status(200)).await;
    let other = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&limited, json!({"rate_limit_per_second": 20})).await;
    system.endpoint(&other, json!({})).await;
    let ids = system.publish_many(240).await;
    other.wait_for_ids(&ids).await;
    assert!(limited.received().len() < 200, "what waits for its rate does not delay others");
    limited.wait_for_ids(&ids).await;
    let received = limited.received();
    assert_eq!(received.len(), 240, "nothing was sent twice");
    assert_rate(&received, 20);
    for id in ids {
        let reports = system.wait_for_reports(id.parse().unwrap(), 2).await;
        assert!(reports.iter().all(|report| report.attempt == 1), "waiting for the rate is no attempt");
    }
}

#[tokio::test]
async fn retries_hold_the_rate_too() {
    let mut system = System::start().await;
    system.start_dispatcher(config());
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let ids = system.publish_many(90).await;
    receiver.wait_for_ids(&ids).await;
    system.wait_for_schedule("all are scheduled", |rows| rows.iter().filter(|row| row.1 == 1).count() == 90).await;
    system.change_endpoint(&endpoint["id"], json!({"rate_limit_per_second": 10})).await;
    receiver.change(ReceiverBehavior::Status(200));
    receiver.take();
    system.make_all_due().await;
    let received = receiver.wait_for(90).await;
    assert_rate(&received, 10);
    let span = received[89].at - received[0].at;
    assert!(span >= Duration::from_millis(7900), "89 places are 8.9 s; the first is at most 0.9 s late: {span:?}");
    system.wait_for_schedule("all are finished", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 90);
}

#[tokio::test]
async fn the_rate_falls_with_429_and_comes_back() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(429)).await;
    let settings = json!({"rate_limit_per_second": 20, "retry_schedule": [3600]});
    let endpoint = system.endpoint(&receiver, settings).await;
    let shown = stats(&system, &endpoint).await;
    assert_eq!((&shown["rate_limit_per_second"], &shown["current_rate_per_second"]), (&json!(20), &json!(20.0)));
    let rate_after = async |what: &str, wanted: &(dyn Fn(f64) -> bool + Sync)| {
        eventually(PATIENCE, what, || async {
            system.publish_many(3).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let rate = stats(&system, &endpoint).await["current_rate_per_second"].as_f64().unwrap();
            wanted(rate).then_some(rate)
        })
        .await
    };
    let lowered = rate_after("the rate is halved", &|rate| rate <= 10.0).await;
    receiver.change(ReceiverBehavior::Status(200));
    rate_after("the rate rises", &|rate| rate > lowered).await;
    wait_for_stats(&system, &endpoint, "the window is shown", |stats| stats["max_in_flight"].as_i64().is_some()).await;
}

#[tokio::test]
async fn retry_after_of_a_429_stops_the_whole_endpoint() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Header(429, "retry-after", "3".to_owned())).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": [1]})).await;
    system.publish(&system.event("a")).await;
    let first = receiver.wait_for(1).await.remove(0);
    let shown =
        wait_for_stats(&system, &endpoint, "the pause is shown", |stats| !stats["circuit_retry_at"].is_null()).await;
    assert_eq!(shown["circuit"], "closed");
    receiver.change(ReceiverBehavior::Status(200));
    let later = system.event("a");
    system.publish(&later).await;
    let received = receiver.wait_for(3).await;
    assert!(received[1].at - first.at >= Duration::from_millis(2900), "{:?}", received[1].at - first.at);
    let report = system.wait_for_reports(later.event_id, 1).await.remove(0);
    assert_eq!((report.attempt, report.status_code), (1, Some(200)), "waiting is no attempt");
}

#[tokio::test]
async fn a_dispatcher_that_starts_adopts_an_open_circuit() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Hang).await;
    let endpoint = system.endpoint(&receiver, json!({"timeout_seconds": 1, "retry_schedule": [3600]})).await;
    assert_eq!(stats(&system, &endpoint).await["circuit"], "closed");
    system.publish_many(3).await;
    let open = wait_for_stats(&system, &endpoint, "the circuit opens", |stats| stats["circuit"] == "open").await;
    let retry_at = open["circuit_retry_at"].as_str().unwrap();
    let retry_at = time::OffsetDateTime::parse(retry_at, &time::format_description::well_known::Rfc3339).unwrap();
    system.shut_down().await;
    receiver.change(ReceiverBehavior::Status(200));
    receiver.take();
    system.start_dispatcher(config());
    system.publish(&system.event("a")).await;
    let probe = receiver.wait_for(1).await.remove(0);
    let retry_at_ms = i64::try_from(retry_at.unix_timestamp_nanos() / 1_000_000).unwrap();
    assert!(probe.at_ms >= retry_at_ms - 100, "sent {} ms before the circuit allowed it", retry_at_ms - probe.at_ms);
    wait_for_stats(&system, &endpoint, "the circuit closes", |stats| stats["circuit"] == "closed").await;
}
