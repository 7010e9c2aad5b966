//! What only producers other than ours write: names of headers that are no UTF-8, batches in each codec, and such as
//! cannot be unpacked.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::time::Duration;

use platform::kafka::consumer::{ConsumerSettings, FencedConsumer};
use platform::kafka::range::{self, Span};
use platform::kafka::{KafkaConfig, Record};
use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_produceva, rd_kafka_vtype_t, rd_kafka_vu_s,
    rd_kafka_vu_s__bindgen_ty_1, rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::consumer::{Owner, PATIENCE, cluster, start};
use crate::database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_whose_name_is_no_utf8_is_read_and_so_is_what_comes_after_it() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topics = [kafka.topics.events.clone(), kafka.topics.acks.clone()];
    let (consumer, mut inflow) = start(&kafka, &pool);
    for topic in &topics {
        send_with_odd_header(&producer(&kafka, "none"), topic);
        send(&producer(&kafka, "none"), topic, "after");
    }
    let mut owner = Owner::default();
    while owner.records.len() < 4 {
        owner.take(&mut inflow).await;
    }
    for topic in &topics {
        let of_topic: Vec<_> = owner.records.iter().filter(|record| *record.topic == **topic).collect();
        let expected = [
            ("a".to_owned(), b"1".to_vec()),
            ("\u{fffd}b\u{fffd}".to_owned(), b"2".to_vec()),
            ("c".to_owned(), Vec::new()),
        ];
        assert_eq!(of_topic[0].headers, expected);
        assert_eq!(of_topic[1].value.as_deref(), Some(b"after".as_slice()));
    }
    drop(inflow);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_every_codec_of_kafka_are_read() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (consumer, mut inflow) = start(&kafka, &pool);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    // A batch that does not get smaller is sent as it is.
    let values: Vec<String> = codecs.iter().map(|codec| format!("{codec}{}", "x".repeat(10_000))).collect();
    for (codec, value) in codecs.iter().zip(&values) {
        send(&producer(&kafka, codec), &kafka.topics.events, value);
    }
    let mut owner = Owner::default();
    while owner.records.len() < codecs.len() {
        owner.take(&mut inflow).await;
    }
    assert_eq!(owner.values(&kafka.topics.events), values);
    drop(inflow);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_cannot_be_unpacked_are_told_and_passed_and_nothing_else_is() {
    let (database, pool) = database().await;
    let mut kafka = cluster(1).await;
    let (events, acks) = (kafka.topics.events.clone(), kafka.topics.acks.clone());
    // Two such batches that follow each other, what can be read on both sides and in between, and one at the end of the
    // log.
    for topic in [&events, &acks] {
        let small = producer(&kafka, "none");
        send(&small, topic, "first");
        send_larger_than_is_unpacked(&kafka, topic, 3);
        send_larger_than_is_unpacked(&kafka, topic, 1);
        send(&small, topic, "between");
        send_larger_than_is_unpacked(&kafka, topic, 2);
    }
    for (name, value) in [("fetch.max.bytes", "1000000"), ("receive.message.max.bytes", "1001000")] {
        kafka.properties.push((name.to_owned(), value.to_owned()));
    }
    let expected = [(0, false), (3, true), (4, true), (5, false), (7, true)];
    let mut settings = ConsumerSettings::new("test", &kafka.topics.group_materializer, &events);
    (settings.followed, settings.stall_after) = (vec![acks.clone()], Duration::from_secs(2));
    let (consumer, mut inflow) = FencedConsumer::start(&kafka, pool.clone(), settings).unwrap();
    let mut owner = Owner::default();
    while owner.records.len() < 2 * expected.len() {
        owner.take(&mut inflow).await;
    }
    let seen = |records: &[Record], topic: &str| -> Vec<(i64, bool)> {
        let of_topic = records.iter().filter(|record| *record.topic == *topic);
        of_topic.map(|record| (record.offset, record.unpackable.is_some())).collect()
    };
    assert_eq!((seen(&owner.records, &events), seen(&owner.records, &acks)), (expected.to_vec(), expected.to_vec()));
    // Read on as ever.
    send(&producer(&kafka, "none"), &events, "last");
    while owner.values(&events).last().is_none_or(|value| value != "last") {
        owner.take(&mut inflow).await;
    }
    assert_eq!(owner.records.len(), 2 * expected.len() + 1, "none was told twice");
    drop(inflow);
    consumer.stop(PATIENCE).await;
    let spans = vec![Span { topic: events.as_str().into(), partition: 0, from: 0, to: 8 }];
    let (mut reading, mut read) = (range::read(&kafka, spans).unwrap(), Vec::new());
    while let Some(records) = reading.recv().await {
        read.extend(records.unwrap());
    }
    assert_eq!(seen(&read, &events), expected);
    drop((pool, database));
}

/// One batch of so many records.
fn send_larger_than_is_unpacked(kafka: &KafkaConfig, topic: &str, count: usize) {
    let mut config = kafka.client("test");
    config
        .set("compression.type", "zstd")
        .set("message.max.bytes", "10000000")
        .set("batch.size", "10000000")
        .set("linger.ms", "1000");
    let producer: BaseProducer = config.create().unwrap();
    let value = "x".repeat(1_200_000);
    for _ in 0..count {
        producer.send(BaseRecord::to(topic).key("k").payload(&value)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

fn producer(kafka: &KafkaConfig, codec: &str) -> BaseProducer {
    kafka.client("test").set("compression.type", codec).create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, value: &str) {
    producer.send(BaseRecord::to(topic).key("k").payload(value)).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
}

/// rdkafka takes names as `&str`; librdkafka takes bytes.
#[allow(unsafe_code)]
fn send_with_odd_header(producer: &BaseProducer, topic: &str) {
    let topic = std::ffi::CString::new(topic).unwrap();
    let mut value = b"odd".to_vec();
    let field = |vtype, u| rd_kafka_vu_s { vtype, u };
    // SAFETY: librdkafka copies names, values and the payload (RD_KAFKA_MSG_F_COPY), and owns the headers once they
    // were sent.
    unsafe {
        let headers = rd_kafka_headers_new(3);
        for (name, value) in [(b"a".as_slice(), Some(b"1".as_slice())), (b"\xffb\xfe", Some(b"2")), (b"c", None)] {
            let (start, size) =
                value.map_or((ptr::null(), -1), |value| (value.as_ptr().cast::<c_void>(), value.len() as isize));
            let _added = rd_kafka_header_add(headers, name.as_ptr().cast::<c_char>(), name.len() as isize, start, size);
        }
        let payload = rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: value.as_mut_ptr().cast(), size: value.len() };
        let fields = [
            field(rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC, rd_kafka_vu_s__bindgen_ty_1 { cstr: topic.as_ptr() }),
            field(rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION, rd_kafka_vu_s__bindgen_ty_1 { i32_: 0 }),
            field(rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, rd_kafka_vu_s__bindgen_ty_1 { i: 2 }),
            field(rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, rd_kafka_vu_s__bindgen_ty_1 { mem: payload }),
            field(rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS, rd_kafka_vu_s__bindgen_ty_1 { headers }),
        ];
        let refused = rd_kafka_produceva(producer.client().native_ptr(), fields.as_ptr(), fields.len());
        assert!(refused.is_null(), "the record was refused");
    }
    producer.flush(PATIENCE).unwrap();
}
