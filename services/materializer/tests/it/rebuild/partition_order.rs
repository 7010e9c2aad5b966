//! Records of one event or delivery in several partitions, as after a topic got more partitions: a rebuild reads the
//! partitions in another order than the projector did.

use devstack::testing::eventually;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::codec::{encode_ack, encode_attempt};
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{Ack, DeliveryAttempt, DeliveryOutcome, Event};
use schemas::unix_time::to_millis;
use testkit::records::attempt;
use time::OffsetDateTime;

use crate::projector::harness::{Bench, PATIENCE, event};

use super::harness::assert_rereading_changes_nothing;

/// Appends to a given partition, and waits until the record is applied, and until the next one has another append time.
async fn append(bench: &Bench, topic: &str, partition: i32, org: OrgId, value: &[u8]) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let key = org.to_string();
    let record = FutureRecord::to(topic).partition(partition).key(&key).payload(value);
    let appended = producer.send(record, PATIENCE).await.unwrap();
    bench.note(topic, appended.partition, appended.offset);
    bench.all_applied().await;
    let appended_at = appended.timestamp.to_millis().unwrap();
    let is_later = || async { (to_millis(OffsetDateTime::now_utc()) > appended_at).then_some(()) };
    eventually(PATIENCE, "the clock advances", is_later).await;
}

async fn append_attempt(bench: &Bench, partition: i32, report: &DeliveryAttempt) {
    append(bench, &bench.topics().deliveries, partition, report.org_id, &encode_attempt(report).unwrap()).await;
}

async fn append_ack(bench: &Bench, partition: i32, org: OrgId, id: EventId) {
    let value = encode_ack(&Ack { org_id: org, event_id: id }).unwrap();
    append(bench, &bench.topics().acks, partition, org, &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_in_which_partitions_are_read_changes_no_row() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    // Whichever of two partitions is read first, one of these pairs is read in the other order.
    for partitions in [[0, 1], [1, 0]] {
        let (sent, endpoint, unknown) = (event(org), EndpointId::generate(), EventId::generate());
        bench.event(&sent).await;
        let of = |number| attempt(org, sent.event_id, endpoint, number, DeliveryOutcome::Retrying);
        append_attempt(&bench, partitions[0], &of(1)).await;
        append_attempt(&bench, partitions[1], &of(2)).await;
        // One attempt that was reported twice: its dispatcher was killed before it stored the outcome.
        let repeated = attempt(org, sent.event_id, EndpointId::generate(), 1, DeliveryOutcome::Retrying);
        append_attempt(&bench, partitions[0], &repeated).await;
        let again = DeliveryAttempt { started_at: repeated.started_at + 1_000, latency_ms: 99, ..repeated };
        append_attempt(&bench, partitions[1], &again).await;
        for id in [sent.event_id, unknown] {
            append_ack(&bench, partitions[0], org, id).await;
            append_ack(&bench, partitions[1], org, id).await;
        }
        bench.event(&Event { event_id: unknown, ..event(org) }).await;
        bench.all_applied().await;
    }
    assert_rereading_changes_nothing(&bench).await;
    projecting.stop().await;
}
