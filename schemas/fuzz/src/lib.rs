//! Drives a decoder with arbitrary and mutated records, from a seed: no panic, no record that takes long, no memory
//! that stays, and whatever else the caller holds each record to. For tests; every crate with a decoder drives its own.
//!
//! Lives here: the driver. What a record is made of is in `record`, how one is mutated in `mutate`. Does not live here:
//! any decoder, and what its answers must be.
//!
//! | variable | means |
//! | --- | --- |
//! | `DECODER_RECORDS` | records for each decoder; 200,000 by default |
//! | `DECODER_SEED` | another run; the default is fixed |
//! | `DECODER_FIRST` | the number of the first record: with `DECODER_RECORDS=1` a failure is repeated |

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
/// What a record may take, whatever its size: far above what any needs.
const LEAST_BOUND: Duration = Duration::from_millis(50);
/// And per byte. Linear, so that a large record shows what grows faster.
const BOUND_PER_BYTE: Duration = Duration::from_nanos(1000);
/// A slow record is tried again this often before it is believed.
const TRIES: u32 = 6;
/// What the process may have needed at its worst over the whole drive, bytes.
const MEMORY_BOUND: u64 = 1024 * 1024 * 1024;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Read,
    /// It says nothing, and the decoder said why.
    Refused,
}

/// What a drive saw.
#[derive(Debug, Default)]
struct Seen {
    read: u64,
    refused: u64,
    /// The longest time that one record took, at the best of several tries.
    slowest: Duration,
    /// The largest record, bytes.
    largest: usize,
}

struct Plan {
    seed: u64,
    first: u64,
    records: u64,
}

/// Gives `decode` as many records as the environment asks for, made from `samples`, and prints what it saw. `decode`
/// answers a sentence where something does not hold that must.
///
/// # Panics
/// When `decode` panics, takes too long or answers a sentence, with the seed and the number of the record; when nothing
/// at all was read, since that shows little; when the environment cannot be read.
pub fn drive(name: &str, samples: &Samples<'_>, decode: impl Fn(&[u8]) -> Result<Verdict, String>) {
    let plan = plan();
    let stream = plan.seed ^ hash(name);
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut bytes = Vec::new();
    for number in plan.first..plan.first.saturating_add(plan.records) {
        record::make(&mut Rng::of(stream, number), samples, &mut bytes);
        let (mut taken, outcome) = timed(&decode, &bytes);
        match outcome {
            Ok(Verdict::Read) => seen.read += 1,
            Ok(Verdict::Refused) => seen.refused += 1,
            Err(sentence) => fail(name, &plan, number, &bytes, &sentence),
        }
        let bound = LEAST_BOUND + BOUND_PER_BYTE * u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Once more whatever is slower than all before: a busy machine is not the decoder's fault.
        for _ in 0..TRIES {
            if taken > seen.slowest {
                let (begun, again) = (on_processor(), timed(&decode, &bytes).0);
                // What this thread itself used, to a tick or two: where the machine has much else to do, the clock on
                // the wall tells of that.
                let used = on_processor().zip(begun).map(|(end, begun)| end.saturating_sub(begun));
                taken = taken.min(again).min(used.filter(|_| again > bound).unwrap_or(again));
            }
        }
        if taken > bound {
            fail(name, &plan, number, &bytes, &format!("took {taken:?} at best, more than {bound:?}"));
        }
        seen.slowest = seen.slowest.max(taken);
        seen.largest = seen.largest.max(bytes.len());
    }
    let peak = peak_memory();
    println!(
        "{name}: {} records from seed {:#x}, {} read, {} refused, slowest {:?}, largest {} bytes, {:.1} s, peak {} MiB",
        plan.records,
        plan.seed,
        seen.read,
        seen.refused,
        seen.slowest,
        seen.largest,
        begun.elapsed().as_secs_f64(),
        peak / (1024 * 1024),
    );
    assert!(peak < MEMORY_BOUND, "{name}: the process needed {peak} bytes");
    assert!(seen.read > 0 || plan.records < 1000, "{name}: nothing was read");
}

/// The first `count` records that [`drive`] would give a decoder of that name: to be brought in by another way.
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

fn timed(decode: &impl Fn(&[u8]) -> Result<Verdict, String>, bytes: &[u8]) -> (Duration, Result<Verdict, String>) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| decode(bytes)));
    (begun.elapsed(), outcome.unwrap_or_else(|_| Err("panicked".to_owned())))
}

fn fail(name: &str, plan: &Plan, number: u64, bytes: &[u8], sentence: &str) -> ! {
    let mut hex = String::new();
    for byte in bytes.iter().take(512) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    panic!(
        "{name}: {sentence}. Again: DECODER_SEED={:#x} DECODER_FIRST={number} DECODER_RECORDS=1. {} bytes, beginning {hex} = {}",
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

/// Each decoder gets records of its own.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What this thread has used of the processor, to a few milliseconds; `None` where the system does not say.
fn on_processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The most that this process ever had resident, bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
