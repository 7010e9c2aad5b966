//! The number of statements of a flush, counted in the PostgreSQL client.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use devstack::testing::TestDatabase;
use kafka::Record;
use runtime::health::Health;
use schemas::codec::encode_event;
use schemas::headers;
use schemas::ids::OrgId;
use schemas::records::{Dedup, Event};
use schemas::unix_time::to_millis;
use testkit::{records, setup};
use time::OffsetDateTime;
use tracing::callsite::rebuild_interest_cache;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::subscriber::set_default;
use tracing::{Dispatch, Metadata, Subscriber};

use super::*;
use crate::projector::batch::Collector;

/// Every statement that sqlx sends on this thread. It reports all but BEGIN.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<Vec<String>>>);

impl Statements {
    /// Those since the last call, without COMMIT and without the query for organizations that precedes a transaction
    /// when the last one was seconds ago.
    fn take(&self) -> Vec<String> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap());
        all.retain(|text| !text.contains("COMMIT") && !text.contains("contract.organizations WHERE id = ANY"));
        all
    }
}

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Values<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if ["summary", "db.statement"].contains(&field.name()) {
            self.0 += &format!("{value:?} ");
        }
    }
}

struct Bench {
    flusher: Flusher,
    collector: Collector,
    topic: Arc<str>,
    org: OrgId,
    next_offset: i64,
    pool: PgPool,
    _database: TestDatabase,
}

impl Bench {
    async fn start() -> Self {
        let (database, pool) = setup::database().await;
        Self::with(database, pool).await
    }

    async fn with(database: TestDatabase, pool: PgPool) -> Self {
        let org = OrgId::generate();
        let insert = sqlx::query("INSERT INTO organizations (id, name) VALUES ($1, 'One')").bind(org.as_uuid());
        insert.execute(&pool).await.unwrap();
        let kafka = setup::kafka().await;
        let producer = setup::producer(&kafka);
        let topic: Arc<str> = kafka.topics.events.as_str().into();
        let mut collector = Collector::default();
        collector.assign(fence::claim(&pool, CONSUMER, &topic, None, &[(0, 0)]).await.unwrap());
        let flusher = Flusher::live(pool.clone(), producer, kafka.topics, Health::new().component(CONSUMER), 30);
        Self { flusher, collector, topic, org, next_offset: 0, pool, _database: database }
    }

    fn event(&self, dedup: Option<Dedup>) -> Event {
        Event { dedup, ..records::event(self.org) }
    }

    /// Flushes these events as one batch: from ingest, or from a producer that chose their ids.
    async fn flush(&mut self, events: &[(&Event, bool)]) {
        let records = events.iter().zip(self.next_offset..).map(|((event, is_native), offset)| Record {
            topic: self.topic.clone(),
            partition: 0,
            offset,
            timestamp_ms: to_millis(OffsetDateTime::now_utc()),
            key: Some(self.org.to_string().into_bytes()),
            value: Some(encode_event(event).unwrap()),
            headers: if *is_native { Vec::new() } else { vec![(headers::KEY_ID.to_owned(), b"k".to_vec())] },
            is_marker: false,
            has_producers_time: false,
        });
        let records: Vec<Record> = records.collect();
        self.next_offset += i64::try_from(events.len()).unwrap();
        self.collector.collect(records, |_| false);
        let outcome = self.flusher.flush(self.collector.take_batch(1000, 1 << 20).unwrap()).await.unwrap();
        assert_eq!((outcome.fenced.len(), outcome.written.len()), (0, 1));
        for (key, written) in &outcome.written {
            self.collector.mark_committed(key, written);
        }
    }

    /// Inserts pending effects of both kinds.
    async fn insert_pending(&self, event: &Event) {
        sqlx::query(
            "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
             SELECT $1, $2, effect, 2, 0, now() FROM UNNEST('{ack,attempt}'::text[]) AS effect",
        )
        .bind(self.org.as_uuid())
        .bind(event.event_id.as_uuid())
        .execute(&self.pool)
        .await
        .unwrap();
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

// On one thread, so that no other test is counted.
#[tokio::test]
async fn a_keyed_batch_takes_at_most_six_statements() {
    let mut bench = Bench::start().await;
    let statements = Statements::default();
    // With a single dispatcher, tracing asks the first thread that meets a log line whether it is enabled, and caches
    // the answer for all threads. With two dispatchers it asks both.
    let _second = Dispatch::new(statements.clone());
    let _counting = set_default(statements.clone());
    rebuild_interest_cache();
    let by_ingest = bench.event(None);
    // Fills the cache of time partitions.
    bench.flush(&[(&by_ingest, false)]).await;
    drop(statements.take());
    let plain = [bench.event(None), bench.event(None)];
    bench.flush(&[(&plain[0], false), (&plain[1], false)]).await;
    let taken = statements.take();
    assert_eq!(taken.len(), 2, "without keys: the positions and the events: {taken:#?}");
    assert_eq!(bench.count("SELECT count(*) FROM event_ids").await, 0, "ids that ingest makes need no row");

    let key = || Some(Dedup::dedup_id("k", b""));
    let [original, duplicate, native, later] = [key(), key(), None, key()].map(|dedup| bench.event(dedup));
    drop(statements.take());
    bench.flush(&[(&original, false), (&duplicate, false), (&native, true)]).await;
    let taken = statements.take();
    assert_eq!(taken.len(), 4, "with keys: reading and storing decisions too: {taken:#?}");

    // All of these at once: new keys, duplicates, an id for the second time, a copy of an event that ingest made, and
    // pending effects of both kinds.
    let [other, attempted] = [Some(Dedup::dedup_id("other", b"")), None].map(|dedup| bench.event(dedup));
    for event in [&other, &attempted, &later] {
        bench.insert_pending(event).await;
    }
    drop(statements.take());
    let batch = [(&other, false), (&attempted, false), (&later, false), (&native, true), (&by_ingest, true)];
    bench.flush(&batch).await;
    let taken = statements.take();
    assert_eq!(taken.len(), 6, "with effects: taking them and computing statuses too: {taken:#?}");
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 7);
    assert_eq!(bench.count("SELECT count(*) FROM contract.duplicates").await, 2);
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 0);
    let acknowledged = "SELECT count(*) FROM view.events WHERE acknowledged_at IS NOT NULL";
    assert_eq!(bench.count(acknowledged).await, 3, "two by their own ids, the original by that of its duplicate");
}

/// Ingest writes one record per id. A second record that looks like one of ingest is only found by the insert.
#[tokio::test]
async fn a_second_record_of_an_id_of_ingest_is_found_on_insert() {
    let mut bench = Bench::start().await;
    let event = bench.event(None);
    bench.flush(&[(&event, false)]).await;
    let next = bench.event(None);
    bench.flush(&[(&event, false), (&next, false)]).await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 2);
    let owners = "SELECT sum(log_offset)::bigint FROM event_ids";
    assert_eq!(bench.count("SELECT count(*) FROM event_ids").await, 1, "the id has two records now");
    assert_eq!(bench.count(owners).await, 0, "the first record owns it");
}

/// Each event takes 20 ms, so that a batch of 40 exceeds the statement timeout, and so does its half.
#[tokio::test]
async fn a_batch_that_exceeds_the_statement_timeout_is_halved() {
    let (database, pool) = setup::database().await;
    for statement in [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON view.events FOR EACH ROW EXECUTE FUNCTION slow()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let impatient = runtime::postgres::with_settings(&pool, &[("statement_timeout", "350ms")]);
    let mut bench = Bench::with(database, impatient).await;
    let events: Vec<Event> = (0..40).map(|_| bench.event(None)).collect();
    let batch: Vec<(&Event, bool)> = events.iter().map(|event| (event, false)).collect();
    bench.flush(&batch).await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 40);
    assert_eq!(bench.count("SELECT next_offset FROM consumer_positions").await, 40);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM view.events";
    assert!(bench.count(transactions).await >= 4, "a quarter of the batch fits");
}
