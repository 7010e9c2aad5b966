//! What one organization's bad endpoints cost another one.

use devstack::testing::eventually;
use reqwest::Method;
use schemas::ids::OrgId;
use schemas::records::Event;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{OTHER_KEY, PATIENCE, System};

#[tokio::test]
async fn hanging_endpoints_of_one_organization_delay_no_other() {
    let system = System::start().await;
    let (hanging, fine) =
        (Receiver::start(ReceiverBehavior::Hang).await, Receiver::start(ReceiverBehavior::Status(200)).await);
    for nth in 0..100 {
        system.endpoint(&hanging, json!({"url": hanging.url_of(&nth.to_string()), "timeout_seconds": 30})).await;
    }
    let made = system.call(Method::POST, "/endpoints", OTHER_KEY, Some(json!({"url": fine.url()}))).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let others = system.call(Method::GET, "/keys", OTHER_KEY, None).await;
    let others: OrgId = others.body["organization_id"].as_str().unwrap().parse().unwrap();

    let hostile = system.publish_many(20).await;
    eventually(PATIENCE, "the hanging endpoints have all attempts that they may", || async {
        (hanging.received().len() >= 100).then_some(())
    })
    .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let event = Event { org_id: others, ..system.event("fine") };
        ids.push(event.event_id);
        system.publish(&event).await;
        fine.wait_for_ids(&[event.event_id.to_string()]).await;
    }
    for id in &ids {
        let reports = system.wait_for_reports(*id, 1).await;
        assert_eq!((reports.len(), reports[0].attempt), (1, 1));
    }
    let ended = hostile.iter().filter(|id| !system.reports_of(id.parse().unwrap()).is_empty()).count();
    assert_eq!(ended, 0, "the attempts of the hanging endpoints went on all the time");
    assert!(hanging.received().len() <= 600, "they have three quarters of the fast lane at most");
}
