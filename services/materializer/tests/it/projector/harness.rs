//! Helpers: a log and a database of one test, records on the log, and the projector that reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devstack::testing::{TestDatabase, eventually, read_topic};
use kafka::producer::{Appended, Producer, ProducerRecord, ProducerSettings};
use kafka::{KafkaConfig, partition};
use materializer::projector::{self, CONSUMER, ProjectorConfig};
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::postgres;
use schemas::codec::{encode_ack, encode_attempt, encode_event};
use schemas::ids::{EventId, OrgId};
use schemas::records::{Ack, DeliveryAttempt, Event};
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
pub(crate) use testkit::records::{event, keyed};
use testkit::setup;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const PARTITIONS: i32 = 3;
/// Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const AVRO: &[(&str, &[u8])] = &[("content-type", b"application/avro")];
pub(crate) const JSON: &[(&str, &[u8])] = &[("content-type", b"application/json")];

/// The topics and the database of one test. Clones share them.
#[derive(Clone)]
pub(crate) struct Bench {
    pub pool: PgPool,
    pub kafka: KafkaConfig,
    producer: Producer,
    /// End offsets of the partitions, as far as this test wrote them.
    ends: Arc<Mutex<BTreeMap<(String, i32), i64>>>,
    _database: Option<Arc<TestDatabase>>,
}

impl Bench {
    /// On the shared stack.
    pub(crate) async fn start() -> Self {
        let database = devstack::testing::shared().await.database().await;
        Self::on(&database.url.clone(), Some(database)).await
    }

    /// On the database at `url`.
    pub(crate) async fn on(url: &str, database: Option<TestDatabase>) -> Self {
        let pool = setup::pool(url);
        postgres::migrate(&pool).await.unwrap();
        let kafka = setup::topics(PARTITIONS).await;
        let settings = ProducerSettings { delivery_timeout: Duration::from_secs(30), ..ProducerSettings::default() };
        let producer = Producer::new(&kafka, settings).unwrap();
        Self { pool, kafka, producer, ends: Arc::default(), _database: database.map(Arc::new) }
    }

    /// The same database, and another log.
    pub(crate) fn with_log(self, kafka: KafkaConfig) -> Self {
        let producer = setup::producer(&kafka);
        Self { kafka, producer, ..self }
    }

    pub(crate) fn topics(&self) -> &TopicNames {
        &self.kafka.topics
    }

    /// An organization whose records go to this partition.
    pub(crate) async fn organization(&self, of_partition: i32) -> OrgId {
        let org = stranger(of_partition);
        sqlx::query("INSERT INTO organizations (id, name) VALUES ($1, 'One')")
            .bind(org.as_uuid())
            .execute(&self.pool)
            .await
            .unwrap();
        org
    }

    /// Appends any record.
    pub(crate) async fn append(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Appended {
        let appended = self.producer.publish(ProducerRecord { topic, key, value, headers }).await.unwrap();
        self.note(topic, appended.partition, appended.offset);
        appended
    }

    /// [`Self::all_applied`] waits for this record too.
    pub(crate) fn note(&self, topic: &str, partition: i32, offset: i64) {
        let mut ends = self.ends.lock().unwrap();
        let end = ends.entry((topic.to_owned(), partition)).or_default();
        *end = (*end).max(offset + 1);
    }

    pub(crate) async fn event(&self, event: &Event) -> Appended {
        let value = encode_event(event).unwrap();
        self.append(&self.topics().events, Some(event.org_id.to_string().as_bytes()), Some(&value), AVRO).await
    }

    /// Appends an event as a native producer does; returns its id too.
    pub(crate) async fn json_event(&self, org: OrgId, value: &str) -> (EventId, Appended) {
        let topic = &self.topics().events;
        let appended = self.append(topic, Some(org.to_string().as_bytes()), Some(value.as_bytes()), JSON).await;
        (
            EventId::derived_from_position(topic, appended.partition, appended.offset, appended.timestamp_ms.unwrap()),
            appended,
        )
    }

    pub(crate) async fn ack(&self, org: OrgId, event_id: EventId) -> Appended {
        let value = encode_ack(&Ack { org_id: org, event_id }).unwrap();
        self.append(&self.topics().acks, Some(org.to_string().as_bytes()), Some(&value), AVRO).await
    }

    pub(crate) async fn attempt(&self, attempt: &DeliveryAttempt) -> Appended {
        let value = encode_attempt(attempt).unwrap();
        self.append(&self.topics().deliveries, Some(attempt.org_id.to_string().as_bytes()), Some(&value), AVRO).await
    }

    /// Appends `count` events of `orgs` in turn, some dozens at a time, and returns their ids.
    pub(crate) async fn flow(&self, orgs: &[OrgId], count: usize) -> Vec<EventId> {
        let events: Vec<Event> = orgs.iter().cycle().take(count).map(|org| event(*org)).collect();
        for some in events.chunks(50) {
            futures_util::future::join_all(some.iter().map(|event| self.event(event))).await;
        }
        events.into_iter().map(|event| event.event_id).collect()
    }

    /// The same, in a task.
    pub(crate) fn flowing(&self, orgs: &[OrgId], count: usize) -> JoinHandle<Vec<EventId>> {
        let (bench, orgs) = (self.clone(), orgs.to_vec());
        tokio::spawn(async move { bench.flow(&orgs, count).await })
    }

    /// Position of the projector; `None` before it claimed the partition.
    pub(crate) async fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        sqlx::query_scalar(
            "SELECT next_offset FROM consumer_positions WHERE consumer = $1 AND topic = $2 AND partition = $3",
        )
        .bind(CONSUMER)
        .bind(topic)
        .bind(partition)
        .fetch_optional(&self.pool)
        .await
        .ok()
        .flatten()
    }

    /// Waits until the positions are past all records that the test appended.
    pub(crate) async fn all_applied(&self) {
        let ends = self.ends.lock().unwrap().clone();
        for ((topic, partition), end) in ends {
            let what = format!("{topic}[{partition}] is read up to {end}");
            let position = eventually(PATIENCE, &what, || async {
                self.position(&topic, partition).await.filter(|position| *position >= end)
            })
            .await;
            assert_eq!(position, end, "{topic}[{partition}] is not read past its end");
        }
    }

    /// Waits until the view has at least `count` events.
    pub(crate) async fn shown(&self, count: i64) {
        let what = format!("{count} events are in the view");
        eventually(PATIENCE, &what, || async {
            (self.count("SELECT count(*) FROM view.events").await >= count).then_some(())
        })
        .await;
    }

    /// The result of a count, or -1 while PostgreSQL is unavailable.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap_or(-1)
    }

    pub(crate) async fn row(&self, org: OrgId, id: EventId) -> Option<ShownEvent> {
        sqlx::query_as(
            "SELECT acknowledged_at, delivery_status, attempts, accepted_at FROM view.events
             WHERE org_id = $1 AND event_id = $2",
        )
        .bind(org.as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(&self.pool)
        .await
        .unwrap()
        .map(|(acknowledged_at, delivery_status, attempts, accepted_at)| ShownEvent {
            acknowledged_at,
            delivery_status,
            attempts,
            accepted_at,
        })
    }

    /// Rows of the view in the order of the log: partition, offset, id.
    pub(crate) async fn in_log_order(&self) -> Vec<(i32, i64, EventId)> {
        let rows: Vec<(i32, i64, Uuid)> = sqlx::query_as(
            "SELECT log_partition, log_offset, event_id FROM view.events ORDER BY log_partition, log_epoch, log_offset",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.into_iter().map(|(partition, offset, id)| (partition, offset, EventId::from_uuid(id))).collect()
    }

    /// Creates triggers that record each insert into `view.events` of a committed transaction, even if the row exists,
    /// and each move of a position. So a second write is seen although it changes nothing.
    pub(crate) async fn watch_writes(&self) {
        let statements = "
            CREATE TABLE public.offered (event_id uuid NOT NULL);
            CREATE FUNCTION public.note_offered() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.offered VALUES (NEW.event_id); RETURN NEW; END $$;
            CREATE TRIGGER note_offered BEFORE INSERT ON view.events FOR EACH ROW
                EXECUTE FUNCTION public.note_offered();
            CREATE TABLE public.moved (at bigserial, topic text, partition integer, epoch bigint, from_offset bigint,
                                       to_offset bigint);
            CREATE FUNCTION public.note_moved() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.moved (topic, partition, epoch, from_offset, to_offset)
                         VALUES (NEW.topic, NEW.partition, NEW.epoch, OLD.next_offset, NEW.next_offset);
                         RETURN NEW; END $$;
            CREATE TRIGGER note_moved BEFORE UPDATE ON consumer_positions FOR EACH ROW
                WHEN (OLD.next_offset <> NEW.next_offset) EXECUTE FUNCTION public.note_moved();";
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// Asserts that the view has exactly these events, and that each was written exactly once.
    pub(crate) async fn assert_each_once(&self, mut ids: Vec<EventId>) {
        let mut shown: Vec<EventId> = self.in_log_order().await.into_iter().map(|(.., id)| id).collect();
        shown.sort();
        ids.sort();
        assert_eq!(shown.len(), ids.len(), "rows");
        assert!(shown == ids, "the view has the events of the log");
        let offered = self.count("SELECT count(*) FROM public.offered").await;
        assert_eq!(offered, i64::try_from(ids.len()).unwrap(), "each event was written once");
    }

    /// All records on the topic of dead letters.
    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        read_topic(&self.kafka.brokers, &self.topics().dead_letters).await.iter().map(DeadLetter::of).collect()
    }

    pub(crate) fn project(&self) -> Projecting {
        self.project_as(ProjectorConfig::default())
    }

    pub(crate) fn project_as(&self, config: ProjectorConfig) -> Projecting {
        Projecting::start(config, self.pool.clone(), self.producer.clone(), self.kafka.clone())
    }
}

/// An id whose records go to this partition; no such organization exists.
pub(crate) fn stranger(of_partition: i32) -> OrgId {
    let is_of_partition = |org: &OrgId| partition::of_key(org.to_string().as_bytes(), PARTITIONS) == of_partition;
    std::iter::repeat_with(OrgId::generate).find(is_of_partition).unwrap()
}

/// Columns of an event that tests check.
#[derive(Debug, PartialEq)]
pub(crate) struct ShownEvent {
    pub acknowledged_at: Option<OffsetDateTime>,
    pub delivery_status: String,
    pub attempts: i32,
    pub accepted_at: OffsetDateTime,
}

pub(crate) struct Projecting {
    stop: CancellationToken,
    pub health: Health,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Projecting {
    pub(crate) fn start(config: ProjectorConfig, pool: PgPool, producer: Producer, kafka: KafkaConfig) -> Self {
        let (stop, health) = (CancellationToken::new(), Health::new());
        let mut supervisor = Supervisor::new(health.clone(), stop.clone());
        projector::start(&mut supervisor, config, pool, producer, kafka);
        Self { ended: tokio::spawn(supervisor.run(PATIENCE)), health, stop }
    }

    /// Stops the projector; returns how long that took.
    pub(crate) async fn stop(self) -> Duration {
        let started = Instant::now();
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
        started.elapsed()
    }

    /// Stops the projector, which does not finish in time; returns how long that took, and its error.
    pub(crate) async fn stop_late(self) -> (Duration, String) {
        let started = Instant::now();
        self.stop.cancel();
        let error = self.ended.await.unwrap().unwrap_err();
        (started.elapsed(), format!("{error:#}"))
    }

    /// Waits until readiness is `ready`.
    pub(crate) async fn is_ready(&self, ready: bool) {
        let what = format!("readiness is {ready}");
        eventually(PATIENCE, &what, || async { (self.health.is_ready() == ready).then_some(()) }).await;
    }
}

/// The append time as a column has it.
pub(crate) fn time_of(appended: &Appended) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(appended.timestamp_ms.unwrap()) * 1_000_000).unwrap()
}

/// A dead letter on its topic.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, Vec<u8>>,
}

impl DeadLetter {
    fn of(record: &OwnedMessage) -> Self {
        let headers = record.headers().unwrap().iter();
        Self {
            key: record.key().map(<[u8]>::to_vec),
            value: record.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        std::str::from_utf8(&self.headers[name]).unwrap()
    }

    /// Topic, partition and offset of the record.
    pub(crate) fn position(&self) -> (String, i32, i64) {
        let number = |name| self.header(name).parse::<i64>().unwrap();
        let partition = i32::try_from(number("triggers-dlq-partition")).unwrap();
        (self.header("triggers-dlq-topic").to_owned(), partition, number("triggers-dlq-offset"))
    }
}
