//! The command `faults` as a user runs it. Its tests also make cargo build the binary, which `make test` runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::process::{Command, Output};

fn faults(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faults")).args(arguments).output().unwrap()
}

#[test]
fn list_shows_each_fault_with_what_it_does() {
    let output = faults(&["--list"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for id in ["ingest-kill", "broker-kill", "postgres-fast", "receiver-hangs", "disk-full", "clock-back"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(id)), "{id} is missing in: {text}");
    }
}

#[test]
fn an_unknown_fault_is_wrong_usage() {
    let output = faults(&["--only", "no-such-fault"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no-such-fault"), "{text}");
}
