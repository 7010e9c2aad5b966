//! What only producers other than ours write: names of headers that are no UTF-8, and batches in each codec.

use std::ffi::{c_char, c_void};
use std::ptr;

use platform::kafka::KafkaConfig;
use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_produceva, rd_kafka_vtype_t, rd_kafka_vu_s, rd_kafka_vu_s__bindgen_ty_1,
    rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1,
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
        let expected = [("a".to_owned(), b"1".to_vec()), ("\u{fffd}b\u{fffd}".to_owned(), b"2".to_vec()), ("c".to_owned(), Vec::new())];
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
    // SAFETY: librdkafka copies names, values and the payload (RD_KAFKA_MSG_F_COPY), and owns the headers once they were sent.
    unsafe {
        let headers = rd_kafka_headers_new(3);
        for (name, value) in [(b"a".as_slice(), Some(b"1".as_slice())), (b"\xffb\xfe", Some(b"2")), (b"c", None)] {
            let (start, size) = value.map_or((ptr::null(), -1), |value| (value.as_ptr().cast::<c_void>(), value.len() as isize));
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
