//! Servers that are stopped and started, and servers that die alone.

use std::time::Duration;

use devstack::testing::eventually;
use devstack::testing::processes::gone;
use devstack::{Options, Signal, Stack};

use crate::traffic;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn kafka_keeps_its_port_and_its_records_over_a_stop_and_over_a_kill() {
    let stack = Stack::start(Options { postgres: false, ..Options::test() }).await.unwrap();
    let brokers = stack.kafka_brokers().to_owned();
    traffic::create_topic(&brokers, "kept").await;
    traffic::produce(&brokers, "kept", "a record").await;

    stack.kafka_stop().await.unwrap();
    assert_eq!(stack.kafka_pid(), None);
    assert!(tokio::net::TcpStream::connect(&brokers).await.is_err(), "it still listens");
    stack.kafka_start().await.unwrap();
    assert_eq!(stack.kafka_brokers(), brokers);
    assert_eq!(traffic::consume(&brokers, "kept").await, "a record");

    stack.kafka_kill().await.unwrap();
    assert_eq!(stack.kafka_pid(), None);
    stack.kafka_start().await.unwrap();
    assert_eq!(traffic::consume(&brokers, "kept").await, "a record");
    stack.stop().await;
}

#[tokio::test]
async fn postgres_keeps_its_port_and_its_rows_over_a_stop_and_over_a_kill() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let url = stack.database_url();
    traffic::insert_row(&url, "a row").await;

    stack.postgres_stop().await.unwrap();
    assert_eq!(stack.postgres_pid(), None);
    stack.postgres_start().await.unwrap();
    assert_eq!(stack.database_url(), url);
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);

    stack.postgres_kill().await.unwrap();
    assert_eq!(stack.postgres_pid(), None);
    stack.postgres_start().await.unwrap();
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_halted_server_answers_nobody_until_it_goes_on() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let url = stack.database_url();
    traffic::insert_row(&url, "a row").await;
    stack.postgres_signal(Signal::STOP).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), traffic::read_rows(&url)).await.is_err());
    stack.postgres_signal(Signal::CONT).unwrap();
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn both_servers_are_started_again_when_they_die_alone() {
    let stack = Stack::start(Options::test()).await.unwrap();
    let (kafka, postgres) = (stack.kafka_pid().unwrap(), stack.postgres_pid().unwrap());
    traffic::insert_row(&stack.database_url(), "a row").await;
    stack.kafka_signal(Signal::KILL).unwrap();
    stack.postgres_signal(Signal::KILL).unwrap();
    let other = |pid: Option<u32>, old: u32| pid.filter(|&new| new != old);
    eventually(DEADLINE, "Kafka runs again", || async { other(stack.kafka_pid(), kafka) }).await;
    eventually(DEADLINE, "PostgreSQL runs again", || async { other(stack.postgres_pid(), postgres) }).await;
    // `start` waits for a restart under way.
    stack.kafka_start().await.unwrap();
    stack.postgres_start().await.unwrap();
    traffic::create_topic(stack.kafka_brokers(), "after").await;
    assert_eq!(traffic::read_rows(&stack.database_url()).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_server_that_keeps_dying_is_given_up_after_five_restarts() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let mut last = 0;
    for _ in 0..=5 {
        let pid =
            eventually(DEADLINE, "it runs again", || async { stack.postgres_pid().filter(|&pid| pid != last) }).await;
        last = pid;
        stack.postgres_start().await.unwrap();
        stack.postgres_signal(Signal::KILL).unwrap();
    }
    let reason = tokio::time::timeout(DEADLINE, stack.failed()).await.expect("it was not given up");
    assert!(reason.starts_with("PostgreSQL was started again 5 times within 10 minutes"), "{reason}");
    stack.stop().await;
}

#[tokio::test]
async fn dropping_a_stack_ends_its_servers_and_removes_its_folder() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let (pid, folder) = (stack.postgres_pid().unwrap(), stack.data_dir().to_path_buf());
    drop(stack);
    gone(&[(pid, "postgres".into())]).await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_pid_file_that_names_a_living_stranger_does_not_keep_postgres_down() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    stack.postgres_kill().await.unwrap();
    let path = stack.data_dir().join("postgres/data/postmaster.pid");
    let file = std::fs::read_to_string(&path).unwrap();
    // A process of the same user that is not PostgreSQL: what a number used again looks like.
    let mut stranger = sleeper_of_the_owner(&path);
    let (_, rest) = file.split_once('\n').unwrap();
    std::fs::write(&path, format!("{}\n{rest}", stranger.id())).unwrap();
    stack.postgres_start().await.unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    stack.stop().await;
}

fn sleeper_of_the_owner(path: &std::path::Path) -> std::process::Child {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    let owner = std::fs::metadata(path).unwrap();
    let mut command = std::process::Command::new("sleep");
    command.arg("60");
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.spawn().unwrap()
}
