//! The driver finds what it is there to find.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;

fn samples(golden: &[Vec<u8>]) -> Samples<'_> {
    Samples { golden, tokens: JSON, header: 2, large: 10_000 }
}

fn outcome(decode: impl Fn(&[u8]) -> Result<Verdict, String>) -> String {
    let golden = [b"{\"a\": 1}".to_vec(), b"0123456789".to_vec()];
    let driven = catch_unwind(AssertUnwindSafe(|| drive("test", &samples(&golden), decode)));
    driven.map_or_else(|panic| *panic.downcast::<String>().unwrap(), |()| "held".to_owned())
}

#[test]
fn a_decoder_that_panics_is_told_with_the_seed_and_the_record() {
    let reported = outcome(|bytes| {
        assert!(!bytes.ends_with(b"\x80"), "of this");
        Ok(Verdict::Read)
    });
    assert!(reported.starts_with("test: panicked. Again: DECODER_SEED=0x72199e7500001 DECODER_FIRST="), "{reported}");
}

#[test]
fn a_decoder_that_grows_with_the_square_is_told() {
    let reported = outcome(|bytes| {
        let begun = Instant::now();
        let square = Duration::from_nanos((bytes.len() * bytes.len()) as u64 * 2);
        while bytes.len() > 5000 && begun.elapsed() < square {}
        Ok(Verdict::Refused)
    });
    assert!(reported.contains("more than"), "{reported}");
}

#[test]
fn what_the_decoder_is_held_to_is_told() {
    let reported =
        outcome(|bytes| if bytes.contains(&b'\\') { Err("has a backslash".to_owned()) } else { Ok(Verdict::Refused) });
    assert!(reported.starts_with("test: has a backslash. "), "{reported}");
}

#[test]
fn one_slow_moment_of_the_machine_is_not_believed() {
    let calls = AtomicU64::new(0);
    let reported = outcome(|_| {
        if calls.fetch_add(1, Ordering::Relaxed) == 1000 {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(Verdict::Read)
    });
    assert_eq!(reported, "held");
}

#[test]
fn a_decoder_that_reads_nothing_is_told() {
    assert_eq!(outcome(|_| Ok(Verdict::Refused)), "test: nothing was read");
}

#[test]
fn a_record_is_its_seed_and_its_number() {
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
