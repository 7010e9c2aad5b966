//! Time of one operation, and operations per second: `make micro`.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Context;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use dispatcher::bench::{self, Deliveries, Webhook};
use ingest::bench::Handler;
use materializer::inbox_bench::Cursor;
use materializer::projector::bench::Batches;
use micro::path::see;
use micro::request::{self, BATCH_EVENTS, EVENT_TYPE};
use runtime::seal::SealingKey;
use schemas::position::{RecordPosition, TOKEN_PURPOSE};
use schemas::records::Event;
use schemas::{codec, event_json, ids};

const RECORDS: i64 = 1_000;
const PARTITIONS: i32 = 12;

fn main() -> anyhow::Result<()> {
    let criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    encoding(&mut criterion)?;
    accepting(&mut criterion);
    tokens(&mut criterion);
    webhooks(&mut criterion);
    rows(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn group<'a>(criterion: &'a mut Criterion, name: &str, elements: u64) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(elements));
    group
}

/// An event as it is admitted, and its organization.
fn event(number: u64) -> anyhow::Result<Event> {
    let new = event_json::parse(&request::event(number, false)).ok().context("the event is refused")?;
    Ok(new.into_event(ids::OrgId::generate(), ids::EventId::generate(), None, None))
}

fn encoding(criterion: &mut Criterion) -> anyhow::Result<()> {
    let event = event(1)?;
    let value = codec::encode_event(&event)?;
    let mut group = group(criterion, "codec", 1);
    group.bench_function("encode an event", |b| b.iter(|| codec::encode_event(black_box(&event))));
    group.bench_function("decode an event", |b| b.iter(|| codec::decode_event(black_box(&value))));
    group.finish();
    Ok(())
}

fn accepting(criterion: &mut Criterion) {
    let (plain, keyed, batch) = (request::event(1, false), request::event(1, true), request::batch());
    let mut handler = Handler::new();
    let mut one = group(criterion, "ingest", 1);
    one.bench_function("parse a body", |b| b.iter(|| event_json::parse(black_box(&plain))));
    one.bench_function("event", |b| b.iter(|| handler.event(black_box(&plain), see)));
    one.bench_function("event with a dedup id", |b| b.iter(|| handler.event(black_box(&keyed), see)));
    one.finish();
    let mut many = group(criterion, "ingest", BATCH_EVENTS as u64);
    many.bench_function("batch of 100", |b| b.iter(|| handler.batch(black_box(&batch), see)));
    many.finish();
}

fn tokens(criterion: &mut Criterion) {
    let key = SealingKey::from_bytes([7; 32]);
    let position = RecordPosition { partition: 3, offset: 1_000_000, appended_at_ms: 1_795_000_000_123 }.to_bytes();
    let token = key.seal_stable_token(TOKEN_PURPOSE, b"organization", &position);
    let mut many = key.stable_tokens(TOKEN_PURPOSE, b"organization");
    let cursor = Cursor::new(PARTITIONS);
    let text = cursor.seal();
    let mut group = group(criterion, "token", 1);
    group.bench_function("seal a position", |b| {
        b.iter(|| key.seal_stable_token(TOKEN_PURPOSE, b"organization", black_box(&position)))
    });
    group.bench_function("seal one more position of a request", |b| b.iter(|| many.seal(black_box(&position))));
    group.bench_function("open a position", |b| {
        b.iter(|| key.open_stable_token(TOKEN_PURPOSE, b"organization", black_box(&token)))
    });
    group.bench_function("seal a cursor of 12 partitions", |b| b.iter(|| cursor.seal()));
    group.bench_function("open a cursor of 12 partitions", |b| b.iter(|| cursor.opens(black_box(&text))));
    group.finish();
}

fn webhooks(criterion: &mut Criterion) {
    let webhook = Webhook::new(EVENT_TYPE, &request::payload(1));
    let body = webhook.body();
    let mut one = group(criterion, "webhook", 1);
    one.bench_function("body", |b| b.iter(|| webhook.body()));
    one.bench_function("signature", |b| b.iter(|| webhook.signature(black_box(&body))));
    one.finish();
    let deliveries = Deliveries::new(RECORDS, EVENT_TYPE, &request::payload(1));
    let mut many = group(criterion, "deliveries", RECORDS.unsigned_abs());
    many.bench_function("ledger, 1,000 records", |b| b.iter(|| bench::ledger(black_box(RECORDS))));
    many.bench_function("tracker, 1,000 records", |b| b.iter(|| deliveries.track()));
    many.finish();
}

fn rows(criterion: &mut Criterion) -> anyhow::Result<()> {
    let batches = Batches::new();
    let mut records = Vec::new();
    for offset in 0..RECORDS {
        let event = event(u64::try_from(offset)?)?;
        records.push(batches.record(offset, &event.org_id.to_string(), codec::encode_event(&event)?));
    }
    anyhow::ensure!(batches.rows(records.clone()) == records.len(), "not every record became a row");
    let mut group = group(criterion, "materializer", RECORDS.unsigned_abs());
    group.bench_function("rows of 1,000 records", |b| {
        b.iter_batched(|| records.clone(), |records| batches.rows(records), BatchSize::LargeInput);
    });
    group.finish();
    Ok(())
}
