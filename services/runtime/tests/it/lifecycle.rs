//! Supervision of tasks, and exit on a hanging shutdown.

use std::future::pending;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::health::Health;
use runtime::lifecycle::{Supervisor, exit_within};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn tasks_that_stop_after_the_shutdown_succeed() {
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
async fn a_task_that_stops_early_is_named_and_stops_the_others() {
    for (outcome, expected) in
        [(Ok(()), "worker stopped unexpectedly"), (Err(anyhow::anyhow!("no disk")), "worker failed: no disk")]
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
        assert_eq!(health.components(), [("worker".to_owned(), false)], "the task is reported under its name");
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
    assert_eq!(format!("{error:#}"), "worker failed during the shutdown: could not flush");
}

#[tokio::test]
async fn tasks_that_do_not_stop_are_aborted_and_named() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
    supervisor.spawn("stuck", pending());
    let token = shutdown.clone();
    supervisor.spawn("fine", async move {
        token.cancelled().await;
        Ok(())
    });
    shutdown.cancel();
    let started = Instant::now();
    let error = supervisor.run(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "still running at the shutdown deadline: stuck");
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Set for the process that the test below starts: it runs the same test, which then hangs.
const HANGS: &str = "LIFECYCLE_TEST_HANGS";

#[test]
fn a_process_that_hangs_after_its_shutdown_exits() {
    if std::env::var_os(HANGS).is_some() {
        return hang();
    }
    let name = "lifecycle::a_process_that_hangs_after_its_shutdown_exits";
    let mut process = Command::new(std::env::current_exe().unwrap());
    let exit =
        process.args(["--exact", name]).env(HANGS, "1").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    // A test binary itself exits with 0 or 101.
    assert_eq!(exit.code(), Some(1));
}

/// Finishes its shutdown, and then blocks a thread.
fn hang() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        exit_within(shutdown.clone(), Duration::from_millis(100));
        shutdown.cancel();
    });
    std::thread::sleep(DEADLINE);
}
