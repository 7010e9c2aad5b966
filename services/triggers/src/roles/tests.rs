//! Every background task of every role is supervised: a task that stops unexpectedly ends the role, with an error that
//! names the task.

use std::time::Duration;

use clap::Parser;
use devstack::testing::TestDatabase;
use dispatcher::{DispatcherConfig, EndpointSettings};
use materializer::projector::ProjectorConfig;
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use testkit::setup;
use tokio_util::sync::CancellationToken;

use super::dispatcher::DeliverySettings;
use super::ingest::{ApiServer, TuningArgs};
use super::{Connections, HttpArgs, bind, dispatcher as dispatching, materializer as materializing};

const PARTITIONS: i32 = 2;
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Tuning {
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    http: HttpArgs,
}

/// A new database and new topics.
async fn connections() -> (TestDatabase, Connections) {
    let (database, pool) = setup::database().await;
    (database, Connections { kafka: setup::topics(PARTITIONS).await, pool })
}

/// For each task: starts the role, aborts the task, and checks that the role ends with an error that names it.
async fn assert_each_task_ends_the_role(expected: &[&str], start: impl AsyncFn(&mut Supervisor)) {
    for task in expected {
        let health = Health::new();
        let mut supervisor = Supervisor::new(health.clone(), CancellationToken::new());
        start(&mut supervisor).await;
        let tasks = supervisor.tasks();
        assert_eq!(tasks.keys().collect::<Vec<_>>(), expected, "the tasks of the role");
        let running = tokio::spawn(supervisor.run(DEADLINE));
        tasks[*task].abort();
        let ended = tokio::time::timeout(DEADLINE, running)
            .await
            .expect("the role must not run without one of its tasks")
            .unwrap();
        let reason = format!("{:#}", ended.unwrap_err());
        assert!(reason.starts_with(&format!("{task} failed")), "{reason}");
        assert!(health.components().contains(&((*task).to_owned(), false)), "{task} is not reported as unhealthy");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingest_ends_when_one_of_its_tasks_ends() {
    let (_database, connections) = connections().await;
    let expected = [
        "audit sweep",
        "dedup lookup",
        "http",
        "kafka probe",
        "key lookups",
        "key watch",
        "postgres probe",
        "rate limits",
        "system events",
    ];
    assert_each_task_ends_the_role(&expected, async |supervisor| {
        let api = ApiServer {
            connections: connections.clone(),
            sealing: SealingKey::from_bytes([1; 32]),
            operator_token: None,
            dev_api_keys: None,
            open_signup: false,
            signups_per_hour: tenancy::SIGNUPS_PER_HOUR,
            tuning: Tuning::parse_from(["triggers"]).tuning,
            endpoints: EndpointSettings::new(DispatcherConfig::default().egress),
            http: Tuning::parse_from(["triggers"]).http.options().unwrap(),
            with_metrics: false,
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        api.start(supervisor, listener).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materializer_ends_when_one_of_its_tasks_ends() {
    let (_database, connections) = connections().await;
    let expected = ["kafka probe", "materializer", "reconcile", "view erasure", "view retention", "view sweep"];
    assert_each_task_ends_the_role(&expected, async |supervisor| {
        materializing::start(supervisor, connections.clone(), ProjectorConfig::default()).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatcher_ends_when_one_of_its_tasks_ends() {
    let (_database, connections) = connections().await;
    let expected = [
        "acknowledgements",
        "dispatcher",
        "endpoint conditions",
        "endpoint purge",
        "endpoint watch",
        "kafka probe",
        "replays",
        "retries",
        "schedule erasure",
    ];
    assert_each_task_ends_the_role(&expected, async |supervisor| {
        // reqwest is built without a crypto provider. A second call in one process is harmless.
        drop(rustls::crypto::ring::default_provider().install_default());
        let delivery = DeliverySettings::local(SealingKey::from_bytes([1; 32]), DEADLINE);
        dispatching::start(supervisor, connections.clone(), delivery).unwrap();
    })
    .await;
}
