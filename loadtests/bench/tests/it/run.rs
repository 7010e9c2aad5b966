//! `bench run`: the count notices lost and doubled events, latency counts from the intended time, and organizations are
//! created once.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::stub::{STORE_DELAY, Stub, StubFault};
use crate::{assert_code, bench};

/// One second at 200/s for one organization.
async fn run(stub: &Stub, data: &Path, more: &[&str]) -> (Output, Value) {
    let mut arguments =
        vec!["run", "--url", &stub.url, "--operator-token", "operator", "--data-dir", data.to_str().unwrap()];
    // A short wait for missing events.
    arguments.extend(["--rate", "200", "--duration", "1s", "--orgs", "1", "--settle", "200ms"]);
    // These tests count requests. How fast this machine answers is not their subject.
    arguments.extend(["--p95-ms", "10000", "--p99-ms", "10000"]);
    arguments.extend(more);
    bench(&arguments, &data.join("report")).await
}

#[tokio::test]
async fn a_correct_system_passes_and_every_request_is_counted() {
    let (stub, data) = (Stub::start(StubFault::None, None).await, tempfile::tempdir().unwrap());
    let (output, report) = run(&stub, data.path(), &["--orgs", "3", "--keyed"]).await;
    assert_code(&output, 0);
    assert_eq!(report["figures"]["requests"], 200);
    assert_eq!(report["figures"]["inbox"]["stored"], 200);
    assert_eq!(report["passed"], true);
    let series = std::fs::read_to_string(data.path().join("report/series.csv")).unwrap();
    let sent: u64 = series.lines().skip(1).map(|line| line.split(',').nth(3).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sent, 200, "{series}");
    let read = |name: &str| std::fs::read_to_string(data.path().join("report").join(name)).unwrap();
    let page = read("report.html");
    assert!(page.contains("<polyline") && page.contains("What limits: "), "{page}");
    let stats = read("stats.csv");
    assert!(stats.contains("\nrequests,200.000,requests\n"), "{stats}");
    assert_eq!(read("failures.csv"), "at_seconds,outcome,count\n");
    // The second run finds the organizations of the first, and does not count its events.
    let (output, report) = run(&stub, data.path(), &["--orgs", "3"]).await;
    assert_code(&output, 0);
    assert_eq!(report["figures"]["inbox"]["stored"], 200);
    assert_eq!(stub.organizations(), 3);
}

#[tokio::test]
async fn lost_doubled_misplaced_and_invented_events_are_noticed() {
    for (fault, field, count) in [
        (StubFault::Lost, "missing", 1),
        (StubFault::Doubled, "duplicates", 1),
        (StubFault::Misplaced, "misordered", 1),
        (StubFault::Invented, "unexpected", 2),
    ] {
        let (stub, data) = (Stub::start(fault, None).await, tempfile::tempdir().unwrap());
        let (output, report) = run(&stub, data.path(), &[]).await;
        assert_code(&output, 1);
        assert_eq!(report["figures"]["inbox"][field], count, "{report:#}");
        assert_eq!(report["passed"], false);
    }
}

#[tokio::test]
async fn reads_beside_writes_are_counted_by_kind() {
    let (stub, data) = (Stub::start(StubFault::None, None).await, tempfile::tempdir().unwrap());
    let varied =
        ["--reads", "100", "--orgs", "6", "--shares", "weighted", "--event-types", "3", "--payload-bytes", "100-2000"];
    let (output, report) = run(&stub, data.path(), &varied).await;
    assert_code(&output, 0);
    let reads = report["figures"]["reads"].as_array().unwrap();
    let found: Vec<(&str, u64, u64)> = reads
        .iter()
        .map(|read| {
            (
                read["kind"].as_str().unwrap(),
                read["latency"]["count"].as_u64().unwrap(),
                read["errors"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, [("page 1", 50, 0), ("page 1, one type", 50, 0)], "an empty inbox has no page 10");
    assert_eq!(report["figures"]["inbox"]["stored"], 200);
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let (stub, data) = (Stub::start(StubFault::None, None).await, tempfile::tempdir().unwrap());
    let (output, report) = run(&stub, data.path(), &["--dry-run"]).await;
    assert_code(&output, 0);
    assert!(String::from_utf8_lossy(&output.stdout).contains("events: 200, in 200 requests"), "{output:?}");
    assert_eq!((report, stub.organizations()), (Value::Null, 0));
}

#[tokio::test]
async fn an_unreadable_inbox_fails_the_run_but_keeps_its_figures() {
    let (stub, data) = (Stub::start(StubFault::Unreadable, None).await, tempfile::tempdir().unwrap());
    let (output, report) = run(&stub, data.path(), &[]).await;
    assert_code(&output, 1);
    assert_eq!(report["figures"]["requests"], 200);
    assert!(report["figures"]["measurement_errors"][0].as_str().unwrap().contains("500"), "{report:#}");
}

#[tokio::test]
async fn a_refused_request_is_an_error_and_may_be_stored() {
    for (fault, unexpected) in [(StubFault::Refused, 0), (StubFault::RefusedAndStored, 1)] {
        let (stub, data) = (Stub::start(fault, None).await, tempfile::tempdir().unwrap());
        let (output, report) = run(&stub, data.path(), &["--max-error-percent", "1"]).await;
        assert_code(&output, 0);
        assert_eq!(report["figures"]["outcomes"], json!({"accepted": 199, "status_503": 1}));
        assert_eq!(report["figures"]["inbox"]["unexpected"], unexpected);
        let failures = std::fs::read_to_string(data.path().join("report/failures.csv")).unwrap();
        assert_eq!(failures.lines().filter(|line| line.ends_with(",status_503,1")).count(), 1, "{failures}");
        let (output, _) = run(&Stub::start(fault, None).await, data.path(), &[]).await;
        assert_code(&output, 1);
    }
}

#[tokio::test]
async fn a_stall_delays_every_request_that_is_due_meanwhile() {
    let (stub, data) = (Stub::start(StubFault::Stalled, None).await, tempfile::tempdir().unwrap());
    let (output, report) = run(&stub, data.path(), &["--connections", "1"]).await;
    assert_code(&output, 0);
    // 300 ms at 200/s: 60 of 200 requests were due during the stall. From the time of sending only one would be slow.
    let latency = &report["figures"]["latency"];
    assert!(latency["max_ms"].as_f64().unwrap() >= 300.0, "{latency}");
    assert!(latency["p95_ms"].as_f64().unwrap() >= 200.0, "{latency}");
}

#[tokio::test]
async fn a_closed_run_sends_as_fast_as_it_is_answered() {
    let (stub, data) = (Stub::start(StubFault::None, None).await, tempfile::tempdir().unwrap());
    let data_dir = data.path().to_str().unwrap();
    let arguments = ["run", "--url", &stub.url, "--operator-token", "operator", "--data-dir", data_dir, "--orgs", "2"];
    let closed = ["--closed", "--concurrency", "2", "--ramp", "0", "--duration", "500ms"];
    let (output, report) = bench(&[&arguments[..], &closed[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    assert_eq!(report["figures"]["load"]["model"], "closed");
    assert_eq!(report["figures"]["inbox"]["stored"], report["figures"]["requests"]);
    assert!(report["figures"]["accepted_per_second"].as_f64().unwrap() > 10.0);
}

#[tokio::test]
async fn the_time_to_visible_is_measured_in_the_database() {
    let database = devstack::testing::shared().await.database().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    for migration in schemas::postgres::MIGRATIONS {
        sqlx::raw_sql(migration.sql).execute(&pool).await.unwrap();
    }
    let (stub, data) = (Stub::start(StubFault::None, Some(pool.clone())).await, tempfile::tempdir().unwrap());
    let dev = json!({"base_url": stub.url, "operator_token": "operator", "database_url": database.url});
    std::fs::write(data.path().join("dev.json"), dev.to_string()).unwrap();
    let arguments =
        ["run", "--data-dir", data.path().to_str().unwrap(), "--rate", "100", "--duration", "1s", "--orgs", "2"];
    let (output, report) =
        bench(&[&arguments[..], &["--visible-p95-ms", "5000"]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    let visibility = &report["figures"]["visibility"];
    assert_eq!(visibility["never_visible"], 0, "{visibility}");
    assert_eq!(visibility["latency"]["count"], 100, "{visibility}");
    assert!(
        visibility["latency"]["p50_ms"].as_f64().unwrap() >= STORE_DELAY.as_secs_f64() * 1000.0 - 10.0,
        "{visibility}"
    );
    // The same figures miss a lower threshold.
    let (output, _) = bench(&[&arguments[..], &["--visible-p95-ms", "20"]].concat(), &data.path().join("report")).await;
    assert_code(&output, 1);
    drop(stub);
    pool.close().await;
}

#[tokio::test]
async fn wrong_usage_and_failure_have_different_exit_codes() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().to_str().unwrap();
    for arguments in [
        &["run", "--url", "http://192.0.2.1:80", "--key", "k"][..],
        &["run", "--url", "http://127.0.0.1:80"][..],
        &["run", "--data-dir", data_dir][..],
        &["run", "--scenario", "unheard-of"][..],
    ] {
        assert_code(&bench(arguments, &data.path().join("report")).await.0, 2);
    }
    // A free port: no server answers.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    assert_code(&bench(&["run", "--url", &url, "--key", "k"], &data.path().join("report")).await.0, 1);
}
