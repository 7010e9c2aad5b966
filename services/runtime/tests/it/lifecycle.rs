//! Tasks that live and stop together.

use std::future::pending;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::health::Health;
use runtime::lifecycle::{Supervisor, exit_within};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn tasks_that_end_after_the_shutdown_end_well() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
    for name in ["a", "b"] {
        let shutdown = shutdown.clone();
        supervisor.spawn(name, async move {
            shutdown.cancelled().await;
            Ok(())
        });
    }
    let run = tokio::spawn(supervisor.run(DEADLINE));
    shutdown.cancel();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_task_that_ends_on_its_own_takes_the_others_along_and_is_named() {
    for (outcome, expected) in
        [(Ok(()), "worker ended on its own"), (Err(anyhow::anyhow!("no disk")), "worker failed: no disk")]
    {
        let (shutdown, health) = (CancellationToken::new(), Health::new());
        let mut supervisor = Supervisor::new(health.clone(), shutdown.clone());
        let other = shutdown.clone();
        supervisor.spawn("other", async move {
            other.cancelled().await;
            Ok(())
        });
        supervisor.spawn("worker", async move { outcome });
        let error = supervisor.run(DEADLINE).await.unwrap_err();
        assert_eq!(format!("{error:#}"), expected);
        assert!(shutdown.is_cancelled());
        assert_eq!(health.components(), [("worker".to_owned(), false)], "it is reported under its name");
    }
}

#[tokio::test]
async fn a_task_that_panics_is_named() {
    let health = Health::new();
    let mut supervisor = Supervisor::new(health.clone(), CancellationToken::new());
    supervisor.spawn("worker", async { panic!("on purpose") });
    let error = supervisor.run(DEADLINE).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("worker failed"), "{error:#}");
    assert_eq!(health.components(), [("worker".to_owned(), false)]);
}

#[tokio::test]
async fn a_failure_during_the_shutdown_is_reported() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
    let token = shutdown.clone();
    supervisor.spawn("worker", async move {
        token.cancelled().await;
        anyhow::bail!("could not flush")
    });
    shutdown.cancel();
    let error = supervisor.run(DEADLINE).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "worker failed while shutting down: could not flush");
}

#[tokio::test]
async fn tasks_that_do_not_end_are_cut_off_at_the_deadline_and_named() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
    supervisor.spawn("stuck", pending());
    let token = shutdown.clone();
    supervisor.spawn("fine", async move {
        token.cancelled().await;
        Ok(())
    });
    shutdown.cancel();
    let begun = Instant::now();
    let error = supervisor.run(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "not ended by the deadline: stuck");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Set for the process that the test below starts: this very test, which then hangs.
const HANGS: &str = "LIFECYCLE_TEST_HANGS";

#[test]
fn a_process_that_hangs_after_its_shutdown_is_ended() {
    if std::env::var_os(HANGS).is_some() {
        return hang();
    }
    let name = "lifecycle::a_process_that_hangs_after_its_shutdown_is_ended";
    let mut process = Command::new(std::env::current_exe().unwrap());
    let ended =
        process.args(["--exact", name]).env(HANGS, "1").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    // Neither 0 nor 101, with which tests end by themselves.
    assert_eq!(ended.code(), Some(1));
}

/// Everything was done, and something that cannot be cut off does not return.
fn hang() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        exit_within(shutdown.clone(), Duration::from_millis(100));
        shutdown.cancel();
    });
    std::thread::sleep(DEADLINE);
}
