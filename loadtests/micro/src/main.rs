//! Counts the instructions of the paths of [`Path`] under callgrind, and compares them with the recorded counts.
//!
//! A count is the difference of two runs of this program, divided by the difference of their repetitions: what is done
//! once cancels out.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use micro::counts::{BOUND_PERCENT, Counts, Verdict, change_percent, collected, compare};
use micro::path::Path;

/// Repetitions that are counted, times those of the warm-up.
const COUNTED: usize = 5;

const HEADER: &str = "\
# Instructions of one run of each path (loadtests/micro), by callgrind, x86-64, release build.
# `make instructions` compares; `make instructions ARGS=--renew` writes this file again. Renew it with the commit that
# changes a count on purpose, or with another compiler.
";

/// Count instructions, and fail if a path takes more than 3 % more than recorded
#[derive(Parser)]
#[command(name = "instructions")]
struct Options {
    /// File with the recorded counts
    #[arg(long, default_value = "loadtests/micro/instructions.txt")]
    file: PathBuf,
    /// Write the counts into the file instead of comparing
    #[arg(long)]
    renew: bool,
    /// Only run this path, under callgrind or a profiler
    #[arg(long, value_name = "PATH", requires = "times")]
    run: Option<Path>,
    /// How often
    #[arg(long)]
    times: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let (Some(path), Some(times)) = (options.run, options.times) {
        path.run(times)?;
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) || env::consts::ARCH != "x86_64" {
        bail!("the recorded counts are of a release build for x86-64; this is another build: run make instructions");
    }
    let mut counts = Counts::default();
    for path in Path::value_variants() {
        counts.set(path.name(), count(*path)?);
    }
    if options.renew {
        fs::write(&options.file, counts.to_text(HEADER))?;
        println!("{} written", options.file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let shown = options.file.display();
    let recorded = Counts::parse(&fs::read_to_string(&options.file).with_context(|| format!("{shown} is not read"))?)?;
    let rises = Path::value_variants().iter().filter(|path| !report(path.name(), &recorded, &counts)).count();
    Ok(if rises == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the comparison of one path. `false`: the check fails.
fn report(name: &str, recorded: &Counts, counts: &Counts) -> bool {
    let (before, now) = (recorded.get(name), counts.get(name).unwrap_or_default());
    let change = before.map_or_else(|| "new".to_owned(), |before| format!("{:+.2} %", change_percent(before, now)));
    println!("{name:<12} {now:>10} instructions, recorded {:>10}: {change}", before.unwrap_or_default());
    let renew = "make instructions ARGS=--renew";
    match compare(before, now) {
        Verdict::Same => true,
        Verdict::Fell => {
            println!("  It fell by more than {BOUND_PERCENT} %. To keep the gain, record it: {renew}");
            true
        }
        Verdict::Rose => {
            println!("  FAILED: it rose by more than {BOUND_PERCENT} %. If that is worth it, record it: {renew}");
            false
        }
        Verdict::New => {
            println!("  FAILED: it has no recorded count. Record it: {renew}");
            false
        }
    }
}

/// Instructions of one repetition of a warm path.
fn count(path: Path) -> anyhow::Result<u64> {
    let few = path.warm_up();
    let more = few * COUNTED;
    let (warm_up, all) = (callgrind(path, few)?, callgrind(path, few + more)?);
    Ok(all.saturating_sub(warm_up) / more as u64)
}

fn callgrind(path: Path, times: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--run", path.name(), "--times", &times.to_string()])
        .output()
        .context("valgrind is not run; install it: deploy/install-tools.sh")?;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "callgrind failed:\n{printed}");
    collected(&printed).with_context(|| format!("callgrind printed no count:\n{printed}"))
}
