//! Tasks that live and stop together.

use std::future::pending;
use std::time::{Duration, Instant};

use platform::lifecycle::Supervisor;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn tasks_that_end_after_the_shutdown_end_well() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new();
    for name in ["a", "b"] {
        let shutdown = shutdown.clone();
        supervisor.spawn(name, async move {
            shutdown.cancelled().await;
            Ok(())
        });
    }
    let run = tokio::spawn(supervisor.run(shutdown.clone(), DEADLINE));
    shutdown.cancel();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_task_that_ends_on_its_own_takes_the_others_along_and_is_named() {
    for (outcome, expected) in [(Ok(()), "worker ended on its own"), (Err(anyhow::anyhow!("no disk")), "worker failed: no disk")] {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new();
        let other = shutdown.clone();
        supervisor.spawn("other", async move {
            other.cancelled().await;
            Ok(())
        });
        supervisor.spawn("worker", async move { outcome });
        let error = supervisor.run(shutdown.clone(), DEADLINE).await.unwrap_err();
        assert_eq!(format!("{error:#}"), expected);
        assert!(shutdown.is_cancelled());
    }
}

#[tokio::test]
async fn a_task_that_panics_is_named() {
    let mut supervisor = Supervisor::new();
    supervisor.spawn("worker", async { panic!("on purpose") });
    let error = supervisor.run(CancellationToken::new(), DEADLINE).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("worker failed"), "{error:#}");
}

#[tokio::test]
async fn a_failure_during_the_shutdown_is_reported() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new();
    let token = shutdown.clone();
    supervisor.spawn("worker", async move {
        token.cancelled().await;
        anyhow::bail!("could not flush")
    });
    shutdown.cancel();
    let error = supervisor.run(shutdown, DEADLINE).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "worker failed while shutting down: could not flush");
}

#[tokio::test]
async fn tasks_that_do_not_end_are_cut_off_at_the_deadline_and_named() {
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new();
    supervisor.spawn("stuck", pending());
    let token = shutdown.clone();
    supervisor.spawn("fine", async move {
        token.cancelled().await;
        Ok(())
    });
    shutdown.cancel();
    let begun = Instant::now();
    let error = supervisor.run(shutdown, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "not ended by the deadline: stuck");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
