//! Commands that start a system of their own: every role is measured, every event is counted, and nothing is left.

use std::path::Path;
use std::process::Output;

use crate::{assert_code, bench};

/// The binary of the product, which is built with the workspace.
fn triggers() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("triggers");
    assert!(program.is_file(), "{} is missing: build the whole workspace first", program.display());
    program.to_str().unwrap().to_owned()
}

/// A command without a report.
async fn command(arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).output().await.unwrap()
}

#[tokio::test]
async fn the_cost_of_an_event_has_every_component_of_both_sides() {
    let data = tempfile::tempdir().unwrap();
    let load = ["--rates", "200", "--rounds", "1", "--ramp", "0", "--duration", "2s", "--orgs", "3"];
    let own = ["cost", "--warm-up", "1s", "--triggers", &triggers()];
    let (output, report) = bench(&[&own[..], &load[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    let rate = &report["rates"][0];
    for (side, components) in [
        ("product", &["ingest", "materializer", "dispatcher", "kafka", "postgres"][..]),
        ("bare", &["server", "writer", "kafka", "postgres"][..]),
    ] {
        for component in components {
            let micros = rate[side]["cpu_us"][component]["median"].as_f64();
            assert!(micros.is_some_and(|micros| micros > 0.0), "{side} {component}: {report:#}");
        }
        let run = &rate[side]["runs"][0];
        assert_eq!(run["outcomes"]["accepted"], 400, "{side}");
        // Written to the view, by the product and by the bare pipeline.
        assert!(run["applied_after_ms"].is_f64(), "{side}");
        assert_eq!(run["visibility"]["never_visible"], 0, "{side}");
    }
    assert_eq!(rate["product"]["runs"][0]["inbox"]["stored"], 400);
}

#[tokio::test]
async fn figures_are_kept_compared_and_written_as_a_document() {
    let data = tempfile::tempdir().unwrap();
    let (results, program) = (data.path().join("results"), triggers());
    let steps = ["--steps", "s1,s11,s12,s14,s16", "--idle-connections", "100"];
    let own = ["all", "--warm-up", "1s", "--triggers", &program, "--rounds", "1"];
    let load = ["--ramp", "0", "--duration", "1s", "--orgs", "3", "--results", results.to_str().unwrap()];
    let (output, report) = bench(&[&own[..], &steps, &load].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    let figures = report["figures"].as_array().unwrap();
    let ids: Vec<&str> = figures.iter().map(|figure| figure["id"].as_str().unwrap()).collect();
    let connections = ["S12", "S12", "S12", "S12", "S12", "S18"];
    let expected =
        [&["S1", "S11"], &connections[..], &["S14", "S14", "S14", "S16", "S15", "S16", "S4", "S15"]].concat();
    assert_eq!(ids, expected);
    let median = |figure: &serde_json::Value| figure["product"]["median"].as_f64().unwrap();
    let is_growth = |figure: &serde_json::Value| figure["what"].as_str().unwrap().starts_with("memory");
    assert!(figures.iter().all(|figure| is_growth(figure) || median(figure) > 0.0), "{report:#}");
    // Bounds so wide that only a stall exceeds them: this machine may be busy.
    assert!(median(&figures[1]) < 20_000.0, "webhooks: {report:#}");
    let answered: Vec<f64> = figures[2..5].iter().map(median).collect();
    assert_eq!(answered, [10.0, 10.0, 100.0], "requests, long polls and idle connections");
    // A run has its page.
    assert!(data.path().join("report/s16-500-product-1/report.html").is_file());
    let kept = std::fs::read_dir(&results).unwrap().next().unwrap().unwrap().path();

    let mut slower: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    // A latency, of which more is worse.
    let quiet = slower["figures"].as_array_mut().unwrap().iter_mut().find(|figure| figure["id"] == "S16").unwrap();
    for end in ["median", "lowest", "highest"] {
        quiet["product"][end] = (quiet["product"][end].as_f64().unwrap() * 2.0).into();
    }
    let changed = data.path().join("slower.json");
    std::fs::write(&changed, slower.to_string()).unwrap();
    let paths = [kept.to_str().unwrap(), changed.to_str().unwrap()];
    assert_eq!(command(&["compare", paths[0], paths[0]]).await.status.code(), Some(0));
    let worse = command(&["compare", paths[0], paths[1]]).await;
    assert_eq!(worse.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&worse.stdout).contains("worse: "), "{worse:?}");
    assert_eq!(command(&["compare", paths[1], paths[0]]).await.status.code(), Some(0), "better is no failure");

    let document = data.path().join("baseline.md");
    let written = command(&["report", paths[0], "--document", document.to_str().unwrap()]).await;
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    let text = std::fs::read_to_string(document).unwrap();
    assert!(text.contains("| S16 | p95 at 500/s |") && text.contains("<= 3 ms"), "{text}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let data = tempfile::tempdir().unwrap();
    let (output, _) = bench(&["cost", "--triggers", "no/such/program"], &data.path().join("report")).await;
    assert_code(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/program does not exist"));
}
