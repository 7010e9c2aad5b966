//! Servers that are stopped and started, and servers that exit unexpectedly.

use std::time::Duration;

use devstack::testing::eventually;
use devstack::testing::processes::gone;
use devstack::{Options, Signal, Stack};

use crate::traffic;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn kafka_keeps_port_and_records_over_a_stop_and_a_kill() {
    let stack = Stack::start(Options { postgres: false, ..Options::test() }).await.unwrap();
    let brokers = stack.kafka_brokers().to_owned();
    traffic::create_topic(&brokers, "kept").await;
    traffic::produce(&brokers, "kept", "a record").await;

    stack.kafka().unwrap().stop().await;
    assert_eq!(stack.kafka().unwrap().pid(), None);
    assert!(tokio::net::TcpStream::connect(&brokers).await.is_err(), "it still listens");
    stack.kafka().unwrap().start().await.unwrap();
    assert_eq!(stack.kafka_brokers(), brokers);
    assert_eq!(traffic::consume(&brokers, "kept").await, "a record");

    stack.kafka().unwrap().kill().await;
    assert_eq!(stack.kafka().unwrap().pid(), None);
    stack.kafka().unwrap().start().await.unwrap();
    assert_eq!(traffic::consume(&brokers, "kept").await, "a record");
    stack.stop().await;
}

#[tokio::test]
async fn postgres_keeps_port_and_rows_over_a_stop_and_a_kill() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let url = stack.database_url();
    traffic::insert_row(&url, "a row").await;

    stack.postgres().unwrap().stop().await;
    assert_eq!(stack.postgres().unwrap().pid(), None);
    stack.postgres().unwrap().start().await.unwrap();
    assert_eq!(stack.database_url(), url);
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);

    stack.postgres().unwrap().kill().await;
    assert_eq!(stack.postgres().unwrap().pid(), None);
    stack.postgres().unwrap().start().await.unwrap();
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_halted_server_does_not_answer_until_it_is_continued() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let url = stack.database_url();
    traffic::insert_row(&url, "a row").await;
    stack.postgres().unwrap().signal(Signal::STOP);
    assert!(tokio::time::timeout(Duration::from_millis(300), traffic::read_rows(&url)).await.is_err());
    stack.postgres().unwrap().signal(Signal::CONT);
    assert_eq!(traffic::read_rows(&url).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn both_servers_are_restarted_when_they_are_killed() {
    let stack = Stack::start(Options::test()).await.unwrap();
    let (kafka, postgres) = (stack.kafka().unwrap().pid().unwrap(), stack.postgres().unwrap().pid().unwrap());
    traffic::insert_row(&stack.database_url(), "a row").await;
    stack.kafka().unwrap().signal(Signal::KILL);
    stack.postgres().unwrap().signal(Signal::KILL);
    let other = |pid: Option<u32>, old: u32| pid.filter(|&new| new != old);
    eventually(DEADLINE, "Kafka runs again", || async { other(stack.kafka().unwrap().pid(), kafka) }).await;
    eventually(DEADLINE, "PostgreSQL runs again", || async { other(stack.postgres().unwrap().pid(), postgres) }).await;
    // `start` waits for a restart in progress.
    stack.kafka().unwrap().start().await.unwrap();
    stack.postgres().unwrap().start().await.unwrap();
    traffic::create_topic(stack.kafka_brokers(), "after").await;
    assert_eq!(traffic::read_rows(&stack.database_url()).await, ["a row"]);
    stack.stop().await;
}

#[tokio::test]
async fn a_server_is_not_restarted_more_than_five_times() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let mut last = 0;
    for _ in 0..=5 {
        let pid = eventually(DEADLINE, "it runs again", || async {
            stack.postgres().unwrap().pid().filter(|&pid| pid != last)
        })
        .await;
        last = pid;
        stack.postgres().unwrap().start().await.unwrap();
        stack.postgres().unwrap().signal(Signal::KILL);
    }
    let reason = tokio::time::timeout(DEADLINE, stack.failed()).await.expect("it is still restarted");
    assert!(reason.starts_with("PostgreSQL was restarted 5 times within 10 minutes"), "{reason}");
    stack.stop().await;
}

#[tokio::test]
async fn dropping_a_stack_stops_its_servers_and_removes_its_folder() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let (pid, folder) = (stack.postgres().unwrap().pid().unwrap(), stack.data_dir().to_path_buf());
    drop(stack);
    gone(&[(pid, "postgres".into())]).await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn postgres_starts_despite_a_pid_file_with_a_reused_pid() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    stack.postgres().unwrap().kill().await;
    let path = stack.data_dir().join("postgres/data/postmaster.pid");
    let file = std::fs::read_to_string(&path).unwrap();
    // A process of the same user that is not PostgreSQL, like one with a reused process id.
    let mut sleeper = spawn_sleeper_as_owner(&path);
    let (_, rest) = file.split_once('\n').unwrap();
    std::fs::write(&path, format!("{}\n{rest}", sleeper.id())).unwrap();
    stack.postgres().unwrap().start().await.unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    stack.stop().await;
}

fn spawn_sleeper_as_owner(path: &std::path::Path) -> std::process::Child {
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
