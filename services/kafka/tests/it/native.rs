//! What only producers other than ours write: names of headers that are no UTF-8, batches in each codec, and batches
//! that librdkafka cannot decode.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::time::Duration;

use kafka::KafkaConfig;
use kafka::consumer::{ConsumerEvent, ConsumerSettings, FencedConsumer};
use kafka::log_reader::{self, OffsetRange, OnTruncation, ReadError};
use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_produceva, rd_kafka_vtype_t, rd_kafka_vu_s,
    rd_kafka_vu_s__bindgen_ty_1, rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::sync::mpsc;

use crate::consumer::{Owner, PATIENCE, cluster, start};
use crate::database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_names_of_invalid_utf8_or_with_nul_are_read() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topics = [kafka.topics.events.clone(), kafka.topics.acks.clone()];
    let (consumer, mut received) = start(&kafka, &pool);
    for topic in &topics {
        send_with_odd_header(&producer(&kafka, "none"), topic);
        send(&producer(&kafka, "none"), topic, "after");
    }
    let mut owner = Owner::default();
    while owner.records.len() < 4 {
        owner.take(&mut received).await;
    }
    for topic in &topics {
        let of_topic: Vec<_> = owner.records.iter().filter(|record| *record.topic == **topic).collect();
        let expected = [
            ("a".to_owned(), b"1".to_vec()),
            ("\u{fffd}b\u{fffd}".to_owned(), b"2".to_vec()),
            ("content-type\u{fffd}".to_owned(), b"4".to_vec()),
            ("\u{fffd}".to_owned(), b"5".to_vec()),
            ("empty".to_owned(), Vec::new()),
        ];
        assert_eq!(of_topic[0].headers, expected, "a header without a value is absent");
        assert_eq!(of_topic[1].value.as_deref(), Some(b"after".as_slice()));
    }
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_every_codec_of_kafka_are_read() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    // With the manifest's setting the brokers would store each batch as zstd.
    let stored_as_sent = [("message.timestamp.type", "LogAppendTime"), ("compression.type", "producer")];
    crate::topics::set_up(&kafka, &kafka.topics.events, &stored_as_sent).await;
    let (consumer, mut received) = start(&kafka, &pool);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    // A batch that does not get smaller is sent as it is.
    let values: Vec<String> = codecs.iter().map(|codec| format!("{codec}{}", "x".repeat(10_000))).collect();
    for (codec, value) in codecs.iter().zip(&values) {
        send(&producer(&kafka, codec), &kafka.topics.events, value);
    }
    let mut owner = Owner::default();
    while owner.records.len() < codecs.len() {
        owner.take(&mut received).await;
    }
    assert_eq!(owner.values(&kafka.topics.events), values);
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_batch_stops_its_partition_alone() {
    let (database, pool) = database().await;
    let mut kafka = cluster(2).await;
    let (events, acks) = (kafka.topics.events.clone(), kafka.topics.acks.clone());
    for topic in [&events, &acks] {
        send_to(&kafka, (topic, 0), "first");
        send_larger_than_is_decoded(&kafka, (topic, 0), 3);
        send_to(&kafka, (topic, 0), "behind");
        send_to(&kafka, (topic, 1), "other");
    }
    decode_less(&mut kafka);
    let mut settings = ConsumerSettings::new("test", &kafka.topics.group_materializer, &events);
    (settings.companion_topics, settings.stall_after) = (vec![acks.clone()], Duration::from_secs(2));
    let (consumer, mut received) = FencedConsumer::start(&kafka, pool.clone(), settings).unwrap();
    let (mut stopped, mut values) = (BTreeMap::new(), Vec::new());
    let take =
        async |received: &mut mpsc::Receiver<ConsumerEvent>, stopped: &mut BTreeMap<_, _>, values: &mut Vec<_>| {
            match tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap() {
                ConsumerEvent::Records(records) => {
                    values.extend(records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()));
                }
                ConsumerEvent::Stopped { topic, partition, reason } => {
                    assert_eq!(stopped.insert((topic.to_string(), partition), reason), None, "it is reported once");
                }
                ConsumerEvent::Failed(reason) => panic!("{reason}"),
                ConsumerEvent::Assigned(_) | ConsumerEvent::Revoked(_) => {}
            }
        };
    while stopped.len() < 2 {
        take(&mut received, &mut stopped, &mut values).await;
    }
    for topic in [&events, &acks] {
        let reason = &stopped[&(topic.clone(), 0)];
        let command = format!("triggers positions skip --topic {topic} --partition 0 --to OFFSET");
        assert!(reason.contains("the batch at offset 1 cannot be decoded"), "{reason}");
        assert!(reason.contains("Decompression") && reason.contains(&command), "{reason}");
        send_to(&kafka, (topic, 1), "later");
    }
    while values.len() < 6 {
        take(&mut received, &mut stopped, &mut values).await;
    }
    values.sort();
    assert_eq!(values, ["first", "first", "later", "later", "other", "other"]);
    // Longer than a stall takes: what is stopped does not restart the consumer.
    let quiet = tokio::time::timeout(Duration::from_secs(4), received.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_reader_stops_at_an_undecodable_batch_or_skips_it() {
    let mut kafka = cluster(1).await;
    let topic = kafka.topics.events.clone();
    send_to(&kafka, (&topic, 0), "first");
    send_larger_than_is_decoded(&kafka, (&topic, 0), 3);
    send_to(&kafka, (&topic, 0), "behind");
    decode_less(&mut kafka);
    let range = |from, to| OffsetRange { topic: topic.as_str().into(), partition: 0, from, to };
    // Each as (offset, is marker).
    let read = async |part: OffsetRange, skips: &[OffsetRange]| {
        let mut received = log_reader::read(&kafka, vec![part], skips, OnTruncation::Fail).unwrap();
        let mut read: Vec<(i64, bool)> = Vec::new();
        while let Some(records) = received.recv().await {
            match records {
                Ok(records) => read.extend(records.iter().map(|record| (record.offset, record.is_marker))),
                Err(error) => return (read, Some(error)),
            }
        }
        (read, None)
    };
    let (before, error) = read(range(0, 5), &[]).await;
    assert_eq!(before, [(0, false)]);
    assert!(matches!(&error, Some(ReadError::Undecodable { partition: 0, offset: 1, .. })), "{error:?}");
    for (part, skips, expected) in [
        (range(0, 5), vec![range(1, 4)], vec![(0, false), (4, false)]),
        (range(0, 4), vec![range(2, 9), range(1, 3)], vec![(0, false), (3, true)]),
        (range(1, 4), vec![range(1, 4)], vec![(3, true)]),
    ] {
        let (read, error) = read(part, &skips).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read, expected, "without {skips:?}");
    }
    let text = log_reader::undecodable_at(&kafka, &topic, 0, 2).await.unwrap();
    assert!(text.is_some_and(|text| text.contains("Decompression")), "an offset inside of the batch");
    assert_eq!(log_reader::undecodable_at(&kafka, &topic, 0, 4).await.unwrap(), None);
}

/// What [`send_larger_than_is_decoded`] sends is too large from now on.
fn decode_less(kafka: &mut KafkaConfig) {
    for (name, value) in [("fetch.max.bytes", "1000000"), ("receive.message.max.bytes", "1001000")] {
        kafka.properties.push((name.to_owned(), value.to_owned()));
    }
}

/// One batch of so many records.
fn send_larger_than_is_decoded(kafka: &KafkaConfig, (topic, partition): (&str, i32), count: usize) {
    let mut config = kafka.client("test");
    config
        .set("compression.type", "zstd")
        .set("message.max.bytes", "10000000")
        .set("batch.size", "10000000")
        .set("linger.ms", "1000");
    let producer: BaseProducer = config.create().unwrap();
    let value = "x".repeat(1_200_000);
    for _ in 0..count {
        let record = BaseRecord::to(topic).partition(partition).key("k").payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

fn send_to(kafka: &KafkaConfig, (topic, partition): (&str, i32), value: &str) {
    let producer = producer(kafka, "none");
    let record = BaseRecord::to(topic).partition(partition).key("k").payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
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
        let headers = rd_kafka_headers_new(6);
        for (name, value) in [
            (b"a".as_slice(), Some(b"1".as_slice())),
            (b"\xffb\xfe", Some(b"2")),
            (b"c", None),
            (b"content-type\0x", Some(b"4")),
            (b"\0", Some(b"5")),
            (b"empty", Some(b"")),
        ] {
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
