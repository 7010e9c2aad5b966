//! Fuzz tests of decoders with arbitrary and mutated records from a seed. The driver checks for panics, slow records
//! and memory use; the caller checks the result of each record. Each crate with a decoder has its own fuzz test.
//!
//! `record` makes a record, `mutate` mutates one.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DECODER_RECORDS` | records for each decoder; 200,000 by default |
//! | `DECODER_SEED` | the seed; the default is fixed |
//! | `DECODER_FIRST` | number of the first record; `DECODER_RECORDS=1` then reproduces a failure |

mod mutate;
mod record;
mod rng;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use record::{ANY_TEXT, JSON, Samples};
pub use rng::Rng;

const DEFAULT_RECORDS: u64 = 200_000;
const DEFAULT_SEED: u64 = 0x0007_2199_e750_0001;
/// Time limit of a small record, far more than any needs.
const BASE_TIME_LIMIT: Duration = Duration::from_millis(50);
/// Additional time limit per byte. It is linear, so that large records show superlinear decoders.
const TIME_LIMIT_PER_BYTE: Duration = Duration::from_nanos(1000);
/// How often a slow record is repeated before the test fails.
const SLOW_RETRIES: u32 = 6;
/// Limit of the process's peak memory, bytes.
const MEMORY_LIMIT: u64 = 1024 * 1024 * 1024;

/// The result of decoding one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeOutcome {
    Read,
    /// The decoder refused the record, with a reason.
    Refused,
}

/// Statistics of a fuzz test.
#[derive(Debug, Default)]
struct Stats {
    read: u64,
    refused: u64,
    /// The longest time of one record, as the minimum of several tries.
    slowest: Duration,
    /// The largest record, bytes.
    largest: usize,
}

struct Plan {
    seed: u64,
    first: u64,
    records: u64,
}

/// Calls `decode` with the configured number of records, made from `samples`, and prints statistics. `decode` returns
/// an error sentence if a check of the caller fails.
///
/// # Panics
/// When `decode` panics, is too slow or returns an error, with seed and number of the record; when no record was read,
/// because then the test shows little; when an environment variable is invalid.
pub fn drive(name: &str, samples: &Samples<'_>, decode: impl Fn(&[u8]) -> Result<DecodeOutcome, String>) {
    let plan = plan();
    let stream = plan.seed ^ hash(name);
    let started = Instant::now();
    let mut stats = Stats::default();
    let mut bytes = Vec::new();
    for number in plan.first..plan.first.saturating_add(plan.records) {
        record::make(&mut Rng::of(stream, number), samples, &mut bytes);
        let (mut elapsed, outcome) = timed(&decode, &bytes);
        match outcome {
            Ok(DecodeOutcome::Read) => stats.read += 1,
            Ok(DecodeOutcome::Refused) => stats.refused += 1,
            Err(sentence) => fail(name, &plan, number, &bytes, &sentence),
        }
        let limit = BASE_TIME_LIMIT + TIME_LIMIT_PER_BYTE * u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Repeat a record that is slower than all before: the machine may be busy.
        for _ in 0..SLOW_RETRIES {
            if elapsed > stats.slowest {
                let (started, again) = (cpu_time(), timed(&decode, &bytes).0);
                // CPU time of this thread, to a tick or two. On a busy machine the elapsed time is longer.
                let used = cpu_time().zip(started).map(|(end, start)| end.saturating_sub(start));
                elapsed = elapsed.min(again).min(used.filter(|_| again > limit).unwrap_or(again));
            }
        }
        if elapsed > limit {
            fail(name, &plan, number, &bytes, &format!("took {elapsed:?} at best, more than {limit:?}"));
        }
        stats.slowest = stats.slowest.max(elapsed);
        stats.largest = stats.largest.max(bytes.len());
    }
    let peak = peak_memory();
    println!(
        "{name}: {} records from seed {:#x}, {} read, {} refused, slowest {:?}, largest {} bytes, {:.1} s, peak {} MiB",
        plan.records,
        plan.seed,
        stats.read,
        stats.refused,
        stats.slowest,
        stats.largest,
        started.elapsed().as_secs_f64(),
        peak / (1024 * 1024),
    );
    assert!(peak < MEMORY_LIMIT, "{name}: the process needed {peak} bytes");
    assert!(stats.read > 0 || plan.records < 1000, "{name}: nothing was read");
}

/// The first `count` records of [`drive`] for a decoder of that name, for tests that use them in another way.
///
/// # Panics
/// When the environment cannot be read.
pub fn records(name: &str, samples: &Samples<'_>, count: u64) -> Vec<Vec<u8>> {
    let stream = plan().seed ^ hash(name);
    let one = |number| {
        let mut bytes = Vec::new();
        record::make(&mut Rng::of(stream, number), samples, &mut bytes);
        bytes
    };
    (0..count).map(one).collect()
}

fn timed(
    decode: &impl Fn(&[u8]) -> Result<DecodeOutcome, String>,
    bytes: &[u8],
) -> (Duration, Result<DecodeOutcome, String>) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| decode(bytes)));
    (started.elapsed(), outcome.unwrap_or_else(|_| Err("panicked".to_owned())))
}

fn fail(name: &str, plan: &Plan, number: u64, bytes: &[u8], sentence: &str) -> ! {
    let mut hex = String::new();
    for byte in bytes.iter().take(512) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    panic!(
        "{name}: {sentence}. Reproduce: DECODER_SEED={:#x} DECODER_FIRST={number} DECODER_RECORDS=1. {} bytes, \
         starting with {hex} = {}",
        plan.seed,
        bytes.len(),
        String::from_utf8_lossy(bytes).chars().take(300).collect::<String>(),
    );
}

fn plan() -> Plan {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    };
    Plan {
        seed: number("DECODER_SEED", DEFAULT_SEED),
        first: number("DECODER_FIRST", 0),
        records: number("DECODER_RECORDS", DEFAULT_RECORDS),
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Each decoder gets different records.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// CPU time of this thread, to a few milliseconds; `None` if the system does not report it.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Peak resident memory of this process, bytes; 0 if the system does not report it.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
