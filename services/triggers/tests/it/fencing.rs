//! Fencing of consumers that are paused past their session timeout, that join, leave and die under load, and whose
//! commits have an unknown outcome.
//!
//! Triggers in the database record which instance claimed which partition and which instance moved its position: a
//! fenced instance must not move it, whatever it had in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use kafka::partition;
use serde_json::json;
use sqlx::PgPool;
use testkit::fence_audit;
use testkit::proxy::DatabaseProxy;
use testkit::receiver::{Receiver, ReceiverBehavior};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::deliveries::{RECEIVED_WITHIN, accepted, now_ms};
use crate::process::Process;
use crate::system::{PARTITIONS, System};

const PATIENCE: Duration = Duration::from_secs(90);
/// Events that were not committed when an instance was stopped or killed are at most this old, milliseconds.
const IN_FLIGHT_MS: i64 = 5_000;

/// A system under load, with audit tables of claims and moves.
struct Bench {
    system: System,
    database: PgPool,
    _ingest: Process,
    apis: Vec<Api>,
    stop: Arc<AtomicBool>,
    load: Vec<JoinHandle<(Process, u64)>>,
}

impl Bench {
    async fn start() -> Self {
        let system = System::shared().await;
        let database = system.database().await;
        fence_audit::install(&database).await.unwrap();
        let count_inserts = "
            CREATE TABLE public.offered (event_id uuid NOT NULL);
            CREATE FUNCTION public.note_offered() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.offered VALUES (NEW.event_id); RETURN NEW; END $$;
            CREATE TRIGGER note_offered BEFORE INSERT ON view.events FOR EACH ROW
                EXECUTE FUNCTION public.note_offered();";
        sqlx::raw_sql(count_inserts).execute(&database).await.unwrap();
        let ingest =
            system.role("ingest", &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")]);
        let base_url = ingest.ready().await;
        // One organization in every partition, so that each instance has work, however partitions are assigned.
        let mut of_partition = BTreeMap::new();
        while of_partition.len() < PARTITIONS as usize {
            let api = Api::of_new_organization(&base_url, &system.operator_token, "Fenced").await;
            of_partition.entry(partition::of_key(api.org_id.as_bytes(), PARTITIONS.cast_signed())).or_insert(api);
        }
        let apis = of_partition.into_values().collect();
        Self { system, database, _ingest: ingest, apis, stop: Arc::default(), load: Vec::new() }
    }

    /// Creates an endpoint for every organization, and starts a materializer: the sent events have idempotency keys, so
    /// the dispatcher needs its duplicate decisions.
    async fn create_endpoints(&self, receiver: &Receiver) -> Process {
        for api in &self.apis {
            api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);
        }
        self.join("materializer", "view").await
    }

    /// Every organization sends, until stopped.
    fn put_under_load(&mut self) {
        for api in &self.apis {
            let mut sender = self.system.start_send(api, "-", 4);
            let (mut pipe, stop) = (sender.stdin(), self.stop.clone());
            self.load.push(tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let lines: String =
                        (0..10).map(|n| format!("{}\n", json!({"event_type": "n", "payload": sent + n}))).collect();
                    pipe.write_all(lines.as_bytes()).await.unwrap();
                    sent += 10;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                (sender, sent)
            }));
        }
    }

    /// Stops the load; returns the number of accepted events.
    async fn end_load(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for load in self.load.drain(..) {
            // Its standard input is closed now.
            let (mut sender, sent) = load.await.unwrap();
            assert_eq!(sender.ended().await.code(), Some(0), "{}", sender.log());
            assert_eq!(sender.output().trim(), format!("{sent} accepted, 0 duplicates, 0 refused"));
            total += sent;
        }
        total
    }

    /// A consumer whose connections carry its instance name.
    fn consumer(&self, role: &str, name: &str, database_url: &str) -> Process {
        let url = format!("{database_url}&options=-c%20triggers.instance%3D{name}");
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("CONSUMER_SESSION_TIMEOUT_MS", "3000"),
            ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("WEBHOOK_ALLOW_HTTP", "true"),
        ];
        self.system.role(role, &settings)
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database).await.unwrap()
    }

    async fn claims_of(&self, name: &str) -> usize {
        fence_audit::claims(&self.database).await.unwrap().iter().filter(|claim| claim.holder == name).count()
    }

    async fn moves_of(&self, name: &str) -> usize {
        fence_audit::moves(&self.database).await.unwrap().iter().filter(|change| change.holder == name).count()
    }

    /// Starts a consumer and waits until it has claimed partitions.
    async fn join(&self, role: &str, name: &str) -> Process {
        let process = self.consumer(role, name, &self.system.database_url);
        self.claims(name, 0).await;
        process
    }

    /// Waits until an instance has more than `before` claims.
    async fn claims(&self, name: &str, before: usize) {
        eventually(PATIENCE, &format!("{name} claims"), || async {
            (self.claims_of(name).await > before).then_some(())
        })
        .await;
    }

    /// Waits until this instance has the latest claim of every partition of the events topic.
    async fn owns_all(&self, role: &str, name: &str) {
        eventually(PATIENCE, &format!("{name} has all partitions"), || async {
            let owners = fence_audit::current_owners(&self.database, role).await.unwrap();
            let mut owners = owners.iter().filter(|(topic, _)| topic.contains("events"));
            owners.all(|(_, holder)| holder.as_deref() == Some(name)).then_some(())
        })
        .await;
    }

    /// Asserts that only the holder of an epoch moved a position under it, and only forward.
    async fn assert_fenced(&self) {
        let moves = fence_audit::moves(&self.database).await.unwrap();
        let claims = fence_audit::claims(&self.database).await.unwrap();
        assert!(!moves.is_empty(), "the audit records moves");
        assert_eq!(fence_audit::violations(&claims, &moves), [""; 0]);
    }

    /// Waits until the view has `total` events, and asserts that each was written once.
    async fn assert_shown_once(&self, total: u64) {
        let total = i64::try_from(total).unwrap();
        let rows = "SELECT count(*) FROM contract.events";
        eventually(PATIENCE, "there are as many rows as events", || async {
            (self.number(rows).await >= total).then_some(())
        })
        .await;
        assert_eq!(self.number(rows).await, total, "one row for each event");
        assert_eq!(self.number("SELECT count(*) FROM public.offered").await, total, "each event was written once");
    }
}

/// Every accepted event came, and came once unless it was in hand at one of these times (milliseconds): accepted then,
/// or sent for the first time then, as an older delivery from the schedule may be.
async fn assert_received(bench: &Bench, receiver: &Receiver, total: u64, in_doubt: &[(i64, i64)]) {
    let log = accepted(&bench.system).await;
    assert_eq!(log.len() as u64, total);
    receiver.wait_for_ids(&log.keys().cloned().collect::<Vec<_>>()).await;
    // Deliveries that are repeated are repeated soon.
    let open = "SELECT (SELECT count(*) FROM delivery_schedule WHERE finished_at IS NULL)
                        + (SELECT count(*) FROM deliveries_awaiting_dedup)";
    eventually(PATIENCE, "no delivery is pending", || async { (bench.number(open).await == 0).then_some(()) }).await;
    let mut twice = 0;
    for (id, times) in receiver.times() {
        let accepted_at = log[&id];
        let was_in_flight = |at: i64| in_doubt.iter().any(|(from, to)| (*from..=*to).contains(&at));
        let may_repeat = was_in_flight(accepted_at) || times.first().is_some_and(|first| was_in_flight(*first));
        assert!(
            times.len() == 1 || (may_repeat && times.len() == 2),
            "{id}, accepted at {accepted_at}, was received at {times:?}; in doubt: {in_doubt:?}"
        );
        twice += times.len() - 1;
    }
    eprintln!("{twice} of {total} webhooks were received twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_materializer_changes_nothing_and_recovers() {
    let mut bench = Bench::start().await;
    let first = bench.join("materializer", "first").await;
    let second = bench.join("materializer", "second").await;
    bench.put_under_load();
    let rows = "SELECT count(*) FROM contract.events";
    eventually(PATIENCE, "the view has rows", || async { (bench.number(rows).await > 100).then_some(()) }).await;
    // Both flushes wait for this lock, in transactions that have moved their positions.
    let mut lock = runtime::postgres::begin(&bench.database).await.unwrap();
    sqlx::query("LOCK TABLE view.events IN SHARE MODE").execute(&mut *lock).await.unwrap();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(PATIENCE, "both flushes wait", || async { (bench.number(waiting).await >= 2).then_some(()) }).await;
    first.signal(Signal::STOP);
    lock.rollback().await.unwrap();
    bench.owns_all("materializer", "second").await;
    let before = bench.claims_of("first").await;
    first.signal(Signal::CONT);
    bench.claims("first", before).await;
    first.ready().await;
    let moves = bench.moves_of("first").await;
    eventually(PATIENCE, "the resumed instance moves positions again", || async {
        (bench.moves_of("first").await > moves).then_some(())
    })
    .await;
    let total = bench.end_load().await;
    bench.assert_shown_once(total).await;
    bench.assert_fenced().await;
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_dispatcher_loses_nothing_and_recovers() {
    let mut bench = Bench::start().await;
    let receiver =
        Receiver::start(ReceiverBehavior::Slow(Duration::from_millis(20))).await.with_patience(RECEIVED_WITHIN);
    let view = bench.create_endpoints(&receiver).await;
    let first = bench.join("dispatcher", "first").await;
    let second = bench.join("dispatcher", "second").await;
    bench.put_under_load();
    eventually(PATIENCE, "webhooks are received", || async { (receiver.times().len() > 100).then_some(()) }).await;
    let paused_at = now_ms();
    first.signal(Signal::STOP);
    bench.owns_all("dispatcher", "second").await;
    let before = bench.claims_of("first").await;
    first.signal(Signal::CONT);
    let resumed_at = now_ms();
    bench.claims("first", before).await;
    first.ready().await;
    let moves = bench.moves_of("first").await;
    eventually(PATIENCE, "the resumed instance moves positions again", || async {
        (bench.moves_of("first").await > moves).then_some(())
    })
    .await;
    let total = bench.end_load().await;
    // The resumed instance still reads until it learns that its partitions were revoked.
    assert_received(&bench, &receiver, total, &[(paused_at - IN_FLIGHT_MS, resumed_at + IN_FLIGHT_MS)]).await;
    bench.assert_fenced().await;
    drop((view, first, second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatchers_that_join_leave_and_die_send_every_event() {
    let mut bench = Bench::start().await;
    let receiver =
        Receiver::start(ReceiverBehavior::Slow(Duration::from_millis(20))).await.with_patience(RECEIVED_WITHIN);
    let view = bench.create_endpoints(&receiver).await;
    bench.put_under_load();
    let mut first = bench.join("dispatcher", "first").await;
    let second = bench.join("dispatcher", "second").await;
    first.signal(Signal::TERM);
    assert_eq!(first.ended().await.code(), Some(0), "{}", first.log());
    bench.owns_all("dispatcher", "second").await;
    let third = bench.join("dispatcher", "third").await;
    let received = receiver.times().len();
    eventually(PATIENCE, "webhooks are received", || async { (receiver.times().len() > received + 100).then_some(()) })
        .await;
    let killed_at = now_ms();
    second.signal(Signal::KILL);
    drop(second);
    bench.owns_all("dispatcher", "third").await;
    let fourth = bench.join("dispatcher", "fourth").await;
    let total = bench.end_load().await;
    assert_received(&bench, &receiver, total, &[(killed_at - IN_FLIGHT_MS, killed_at + 1_000)]).await;
    bench.assert_fenced().await;
    drop((view, third, fourth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materializer_resolves_commits_with_unknown_outcome() {
    let mut bench = Bench::start().await;
    let proxy = DatabaseProxy::start(&bench.system.database_url).await;
    proxy.cut_commits();
    let materializer = bench.consumer("materializer", "only", &proxy.url);
    bench.put_under_load();
    let enough = || async { (proxy.cuts().0 >= 5 && proxy.cuts().1 >= 5).then_some(()) };
    eventually(PATIENCE, "commits are cut before and after", enough).await;
    let total = bench.end_load().await;
    bench.assert_shown_once(total).await;
    bench.assert_fenced().await;
    drop(materializer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatcher_resolves_commits_with_unknown_outcome() {
    let mut bench = Bench::start().await;
    let receiver =
        Receiver::start(ReceiverBehavior::Slow(Duration::from_millis(20))).await.with_patience(RECEIVED_WITHIN);
    let view = bench.create_endpoints(&receiver).await;
    let proxy = DatabaseProxy::start(&bench.system.database_url).await;
    proxy.cut_commits();
    let dispatcher = bench.consumer("dispatcher", "only", &proxy.url);
    bench.put_under_load();
    let enough = || async { (proxy.cuts().0 >= 5 && proxy.cuts().1 >= 5).then_some(()) };
    eventually(PATIENCE, "commits are cut before and after", enough).await;
    let total = bench.end_load().await;
    assert_received(&bench, &receiver, total, &[]).await;
    bench.assert_fenced().await;
    drop((view, dispatcher));
}
