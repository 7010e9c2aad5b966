//! Commands that start a system of their own: every role is measured, every event is counted, and nothing is left.

use std::path::Path;

use crate::{assert_code, bench};

/// The binary of the product, which is built with the workspace.
fn triggers() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("triggers");
    assert!(program.is_file(), "{} is missing: build the whole workspace first", program.display());
    program.to_str().unwrap().to_owned()
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
async fn a_missing_program_is_named() {
    let data = tempfile::tempdir().unwrap();
    let (output, _) = bench(&["cost", "--triggers", "no/such/program"], &data.path().join("report")).await;
    assert_code(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/program does not exist"));
}
