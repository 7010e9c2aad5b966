//! The driver reports bad decoders.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;

fn samples(golden: &[Vec<u8>]) -> Samples<'_> {
    Samples { golden, tokens: JSON, header: 2, large: 10_000 }
}

fn outcome(decode: impl Fn(&[u8]) -> Result<DecodeOutcome, String>) -> String {
    let golden = [b"{\"a\": 1}".to_vec(), b"0123456789".to_vec()];
    let driven = catch_unwind(AssertUnwindSafe(|| drive("test", &samples(&golden), decode)));
    driven.map_or_else(|panic| *panic.downcast::<String>().unwrap(), |()| "passed every check".to_owned())
}

#[test]
fn a_decoder_that_panics_is_reported_with_the_seed() {
    let reported = outcome(|bytes| {
        assert!(!bytes.ends_with(b"\x80"), "of this");
        Ok(DecodeOutcome::Read)
    });
    assert!(
        reported.starts_with("test: panicked. Reproduce: DECODER_SEED=0x72199e7500001 DECODER_FIRST="),
        "{reported}"
    );
}

#[test]
fn a_decoder_of_quadratic_time_is_reported() {
    let reported = outcome(|bytes| {
        let started = Instant::now();
        let square = Duration::from_nanos((bytes.len() * bytes.len()) as u64 * 2);
        while bytes.len() > 5000 && started.elapsed() < square {}
        Ok(DecodeOutcome::Refused)
    });
    assert!(reported.contains("more than"), "{reported}");
}

#[test]
fn a_failed_check_of_the_caller_is_reported() {
    let reported =
        outcome(
            |bytes| if bytes.contains(&b'\\') { Err("has a backslash".to_owned()) } else { Ok(DecodeOutcome::Refused) },
        );
    assert!(reported.starts_with("test: has a backslash. "), "{reported}");
}

#[test]
fn one_slow_moment_of_the_machine_is_ignored() {
    let calls = AtomicU64::new(0);
    let reported = outcome(|_| {
        if calls.fetch_add(1, Ordering::Relaxed) == 1000 {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(DecodeOutcome::Read)
    });
    assert_eq!(reported, "passed every check");
}

#[test]
fn a_decoder_that_reads_nothing_is_reported() {
    assert_eq!(outcome(|_| Ok(DecodeOutcome::Refused)), "test: nothing was read");
}

#[test]
fn seed_and_number_determine_a_record() {
    let golden = [b"golden".to_vec()];
    let record = |seed, number| {
        let mut bytes = Vec::new();
        record::make(&mut Rng::of(seed, number), &samples(&golden), &mut bytes);
        bytes
    };
    let all = |seed| (0..2000).map(|number| record(seed, number)).collect::<Vec<_>>();
    assert_eq!(all(1), all(1));
    assert_ne!(all(1), all(2));
    let mut distinct = all(1);
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 1000, "{}", distinct.len());
}
