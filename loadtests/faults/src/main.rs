//! The fault suite: injects faults into a real system under load, one after the other, and compares after each what was
//! accepted, acknowledged and delivered.
//!
//! A run is a plan (`plan`) of faults (`fault`). Each runs in a round (`round`, `waiting`) on one running system
//! (`system`, `fleet`, `receiver`) under load (`load`). The outcomes are recorded (`ledger`) and compared (`check`)
//! with the API (`inbox`), the log (`log_reader`) and the stored positions (`offsets`, `audit`). At the end the view is
//! rebuilt (`rebuild_check`) and checked again, and the system must still work (`smoke_after`). An interrupted run can
//! be resumed (`run_state`); `report` prints and writes the results.
//!
//! Exit codes: 0 everything was run and held, 1 a violation, a failure or an incomplete run, 2 wrong usage.

mod args;
mod audit;
mod check;
mod client;
mod fault;
mod fleet;
mod inbox;
mod ledger;
mod load;
mod log_reader;
mod offsets;
mod plan;
mod rebuild_check;
mod receiver;
mod report;
mod round;
mod run;
mod run_state;
mod smoke_after;
mod system;
mod waiting;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use loadkit::Failure;

use crate::args::Args;

fn main() -> ExitCode {
    match execute(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            failure.print("faults");
            ExitCode::from(failure.code())
        }
    }
}

fn execute(args: &Args) -> Result<bool, Failure> {
    if args.list {
        fault::all().iter().for_each(|fault| println!("{:20} {}", fault.id(), fault.info().description));
        return Ok(true);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(run::run(args))
}
