//! Thousands of scheduled retries, and a dispatcher that is killed and restarted beside them, under load.
//!
//! `RETRIES=100000` sets how many are scheduled, as `make retries` does. Everything is real: the events are posted and
//! fail once, the dispatcher schedules them, and their retries arrive at a receiver that records when. The database
//! notes the time that each was scheduled for; its clock is the receiver's.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::receiver::{Receiver, ReceiverBehavior};
use tokio::io::AsyncWriteExt as _;

use crate::api::Api;
use crate::deliveries::{accepted, now_ms};
use crate::process::Process;
use crate::system::System;

/// Endpoints that the retries go to.
const ENDPOINTS: usize = 10;
/// One event in so many succeeds at once: failures only would open the circuit of the endpoint.
const SUCCEEDS: usize = 10;
const BATCH: usize = 500;
/// Of retries; the requests in flight at a kill are bounded by them.
const SLOTS: usize = 100;
/// A claim starts while fewer than twice the slots are in flight or wait for their report, and takes at most all slots.
const IN_FLIGHT: usize = 3 * SLOTS;
/// A request whose outcome was not written when the dispatcher was killed is at most this old, milliseconds.
const IN_FLIGHT_MS: i64 = 4_000;
/// Timeout of the endpoints, seconds. The lease of an attempt is 25 s longer, and starts a moment before the request.
const TIMEOUT_SECONDS: u64 = 5;
const SHORTEST_LEASE_MS: i64 = 24_000;
/// The shares of the retries after which the dispatcher is killed.
const KILLS: [f64; 3] = [0.2, 0.4, 0.6];
/// The share after which it is restarted in order.
const RESTART: f64 = 0.8;
/// The log of the due times. A postponed row is due later; the first time counts.
const NOTE_DUE_TIMES: &str = "
    CREATE TABLE public.due_times (event_id uuid NOT NULL, due_at timestamptz NOT NULL);
    CREATE FUNCTION public.note_due() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.due_times VALUES (NEW.event_id, NEW.due_at); RETURN NULL; END $$;
    CREATE TRIGGER note_due AFTER INSERT OR UPDATE ON delivery_schedule FOR EACH ROW
        WHEN (NEW.state = 'pending' AND NEW.attempts = 1 AND NEW.lease_id IS NULL)
        EXECUTE FUNCTION public.note_due();";

fn retries() -> usize {
    std::env::var("RETRIES").ok().map_or(2_000, |count| count.parse().expect("RETRIES is a number"))
}

/// The delay of the retries, seconds. With its jitter of a fifth, 100,000 are due within 84 s.
fn delay_seconds() -> usize {
    10 + retries() / 500
}

/// How long a step may take.
fn patience() -> Duration {
    Duration::from_secs(90 + retries() as u64 / 150)
}

struct Bench {
    system: System,
    database: PgPool,
    api: Api,
    /// Gets the scheduled events.
    retried: Receiver,
    /// Gets the events of the load.
    fresh: Receiver,
    _roles: (Process, Process),
}

impl Bench {
    async fn start() -> Self {
        let system = System::shared().await;
        let database = system.database().await;
        sqlx::raw_sql(NOTE_DUE_TIMES).execute(&database).await.unwrap();
        let (ingest, materializer, api) =
            system.inbox_roles(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")]).await;
        let brief = Duration::from_millis(20);
        let retried =
            Receiver::start(ReceiverBehavior::Failures(brief)).await.with_patience(patience()).without_bodies();
        let fresh = Receiver::start(ReceiverBehavior::Slow(brief)).await.with_patience(patience()).without_bodies();
        for nth in 0..ENDPOINTS {
            let endpoint = json!({"url": retried.url(), "event_types": [format!("scheduled.{nth}")],
                                  "retry_schedule": [delay_seconds(), 5], "timeout_seconds": TIMEOUT_SECONDS});
            api.post("/v1/endpoints", &endpoint).await.expect(201);
        }
        let endpoint = json!({"url": fresh.url(), "event_types": ["fresh"], "timeout_seconds": TIMEOUT_SECONDS});
        api.post("/v1/endpoints", &endpoint).await.expect(201);
        Self { system, database, api, retried, fresh, _roles: (ingest, materializer) }
    }

    fn dispatcher(&self) -> Process {
        let slots = SLOTS.to_string();
        let settings = [
            ("CONSUMER_SESSION_TIMEOUT_MS", "3000"),
            ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("WEBHOOK_ALLOW_HTTP", "true"),
            ("WEBHOOK_MAX_RETRIES_IN_FLIGHT", slots.as_str()),
        ];
        self.system.role("dispatcher", &settings)
    }

    /// Posts events until so many will fail once. Returns these and those that succeed at once.
    async fn post(&self, failing: usize) -> (Vec<String>, Vec<String>) {
        let (mut scheduled, mut others, mut nth) = (Vec::new(), Vec::new(), 0);
        while scheduled.len() < failing {
            let count = BATCH.min((failing - scheduled.len()) * 2);
            let numbers: Vec<usize> = (nth..nth + count).collect();
            nth += count;
            let failures = |nth: usize| usize::from(!nth.is_multiple_of(SUCCEEDS));
            let event = |nth: usize| {
                let event_type = format!("scheduled.{}", nth / SUCCEEDS % ENDPOINTS);
                json!({"event_type": event_type, "payload": {"failures": failures(nth), "n": nth}})
            };
            let events: Vec<Value> = numbers.iter().map(|nth| event(*nth)).collect();
            let reply = self.api.post("/v1/events/batch", &json!({"events": events})).await.expect(200).json();
            for (nth, result) in numbers.into_iter().zip(reply["results"].as_array().unwrap()) {
                let id = result["event_id"].as_str().unwrap().to_owned();
                if failures(nth) == 1 { scheduled.push(id) } else { others.push(id) }
            }
        }
        (scheduled, others)
    }

    /// Waits for a count of the database.
    async fn wait_for_count(&self, sql: &'static str, what: &str, wanted: usize) {
        let wanted = i64::try_from(wanted).unwrap();
        eventually(patience(), &format!("{what}: {wanted}"), || async {
            // Counting is a load of its own.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.database).await.unwrap();
            (count == wanted).then_some(())
        })
        .await;
    }

    /// Waits until the receiver has had so many requests.
    async fn wait_for_requests(&self, count: usize) {
        eventually(patience(), &format!("{count} requests"), || async {
            (self.retried.requests() >= count).then_some(())
        })
        .await;
    }

    /// When each event was due for the first time, milliseconds since the Unix epoch.
    async fn due_times(&self) -> HashMap<String, i64> {
        let due: Vec<(String, i64)> = sqlx::query_as(
            "SELECT event_id::text, floor(extract(epoch FROM min(due_at)) * 1000)::bigint
             FROM public.due_times GROUP BY event_id",
        )
        .fetch_all(&self.database)
        .await
        .unwrap();
        due.into_iter().collect()
    }
}

/// Sends events until it is stopped.
struct Load {
    stop: tokio::sync::oneshot::Sender<()>,
    sending: tokio::task::JoinHandle<(Process, u64)>,
}

impl Load {
    fn start(bench: &Bench) -> Self {
        let mut sender = bench.system.start_send(&bench.api, "-", 4);
        let (mut pipe, (stop, mut stopped)) = (sender.stdin(), tokio::sync::oneshot::channel());
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                let line = |n: u64| format!("{}\n", json!({"event_type": "fresh", "payload": n}));
                let lines: String = (sent..sent + 20).map(line).collect();
                pipe.write_all(lines.as_bytes()).await.unwrap();
                sent += 20;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (sender, sent)
        });
        Self { stop, sending }
    }

    /// Returns how many events were accepted.
    async fn stop(self) -> u64 {
        self.stop.send(()).unwrap();
        // Its standard input is closed then.
        let (mut sender, sent) = self.sending.await.unwrap();
        assert_eq!(sender.ended().await.code(), Some(0), "{}", sender.log());
        assert_eq!(sender.output().trim(), format!("{sent} accepted, 0 duplicates, 0 refused"));
        sent
    }
}

/// The times between which requests were in doubt, one for each kill.
struct Kills(Vec<(i64, i64)>);

impl Kills {
    fn were_in_doubt(&self, at: i64) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }
}

/// What is wrong, and how many came twice.
#[derive(Default)]
struct Findings {
    lost: Vec<String>,
    early: Vec<String>,
    wrongly_repeated: Vec<String>,
    repeated: usize,
    /// The latest retry after its time, milliseconds.
    latest_ms: i64,
}

/// Looks at the requests of the events that failed once.
fn check(ids: &[String], times: &BTreeMap<String, Vec<i64>>, due: &HashMap<String, i64>, kills: &Kills) -> Findings {
    let mut findings = Findings::default();
    for id in ids {
        let (times, due) = (&times[id], due[id]);
        let Some(retry) = times.get(1) else {
            findings.lost.push(id.clone());
            continue;
        };
        findings.latest_ms = findings.latest_ms.max(retry - due);
        if *retry < due {
            findings.early.push(format!("{id}: due at {due}, sent at {times:?}"));
        }
        for pair in times[1..].windows(2) {
            findings.repeated += 1;
            if !kills.were_in_doubt(pair[0]) || pair[1] - pair[0] < SHORTEST_LEASE_MS {
                findings.wrongly_repeated.push(format!("{id}: {times:?}"));
            }
        }
    }
    findings
}

/// Kills the dispatcher several times and restarts it once in order, while the retries are sent. Returns the dispatcher
/// that runs then.
async fn kill_and_restart(bench: &Bench, mut dispatcher: Process, first_requests: usize) -> (Process, Kills) {
    let mut kills = Vec::new();
    let requests_at = |share: f64| first_requests + (share * retries() as f64) as usize;
    for share in KILLS {
        bench.wait_for_requests(requests_at(share)).await;
        let killed_at = now_ms();
        dispatcher.signal(Signal::KILL);
        dispatcher.ended().await;
        kills.push((killed_at - IN_FLIGHT_MS, now_ms() + 500));
        dispatcher = bench.dispatcher();
    }
    bench.wait_for_requests(requests_at(RESTART)).await;
    dispatcher.signal(Signal::TERM);
    assert_eq!(dispatcher.ended().await.code(), Some(0), "{}", dispatcher.log());
    (bench.dispatcher(), Kills(kills))
}

/// Every event of the load came, and came once unless it was in doubt at a kill. Returns how many came twice.
async fn check_load(bench: &Bench, others: &HashMap<String, i64>, sent: u64, kills: &Kills) -> usize {
    let log = accepted(&bench.system).await;
    let fresh: Vec<String> = log.keys().filter(|id| !others.contains_key(*id)).cloned().collect();
    assert_eq!(fresh.len() as u64, sent);
    bench.fresh.wait_for_ids(&fresh).await;
    let mut repeated = 0;
    for (id, times) in bench.fresh.times() {
        let may_repeat = kills.were_in_doubt(log[&id]) || kills.were_in_doubt(times[0]);
        assert!(times.len() == 1 || may_repeat, "{id}, accepted at {}, was received at {times:?}", log[&id]);
        repeated += times.len() - 1;
    }
    repeated
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_retries_survive_kills_under_load() {
    let bench = Bench::start().await;
    let dispatcher = bench.dispatcher();
    let (scheduled, others) = bench.post(retries()).await;
    let first_requests = scheduled.len() + others.len();
    let waiting = "SELECT count(DISTINCT event_id) FROM public.due_times";
    bench.wait_for_count(waiting, "deliveries wait for their retry", scheduled.len()).await;

    let load = Load::start(&bench);
    let (dispatcher, kills) = kill_and_restart(&bench, dispatcher, first_requests).await;
    let delivered = "SELECT count(*) FROM contract.deliveries WHERE status = 'delivered' AND attempts > 1";
    bench.wait_for_count(delivered, "deliveries are delivered after their first attempt", scheduled.len()).await;
    let sent = load.stop().await;
    let open = "SELECT (SELECT count(*) FROM delivery_schedule WHERE finished_at IS NULL)
                        + (SELECT count(*) FROM deliveries_awaiting_dedup)";
    let posted = scheduled.iter().chain(&others).map(|id| (id.clone(), 0)).collect();
    let repeated_load = check_load(&bench, &posted, sent, &kills).await;
    bench.wait_for_count(open, "open deliveries", 0).await;

    let times = bench.retried.times();
    let findings = check(&scheduled, &times, &bench.due_times().await, &kills);
    assert!(others.iter().all(|id| times[id].len() == 1), "what succeeded at once is not sent again");
    eprintln!(
        "{} retries, {} kills, 1 restart: {} lost, {} early, {} repeated, {} of them not in flight at a kill; the last \
         came {} ms after its time; load: {sent} events, {repeated_load} repeated",
        scheduled.len(),
        kills.0.len(),
        findings.lost.len(),
        findings.early.len(),
        findings.repeated,
        findings.wrongly_repeated.len(),
        findings.latest_ms,
    );
    let some = |found: &[String]| found.iter().take(5).cloned().collect::<Vec<_>>();
    assert_eq!(some(&findings.lost), [""; 0], "no retry is lost");
    assert_eq!(some(&findings.early), [""; 0], "no retry comes before its time");
    assert_eq!(some(&findings.wrongly_repeated), [""; 0], "only what was in flight at a kill comes twice");
    assert!(findings.repeated <= kills.0.len() * IN_FLIGHT, "no more than {IN_FLIGHT} are in flight at a kill");
    drop(dispatcher);
}
