//! Fuzzing of the format of API keys: clients may send any text.

use fuzz::{DecodeOutcome, Samples, drive};
use tenancy::key::{self, Environment, PREFIX_CHARACTERS};

#[test]
fn any_text_gets_a_prefix_and_only_our_keys_are_well_formed() {
    let made = [key::generate(Environment::Live), key::generate(Environment::Test)];
    let golden: Vec<Vec<u8>> =
        made.iter().map(|key| key.reveal().as_bytes().to_vec()).chain([b"dev-key".to_vec()]).collect();
    let samples = Samples {
        golden: &golden,
        tokens: &["zap_live_", "zap_test_", "_", "0", "\u{e9}", "Bearer ", ","],
        header: 9,
        large: 32_768,
    };
    drive("API key", &samples, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(DecodeOutcome::Refused) };
        if key::prefix(text).chars().count() != PREFIX_CHARACTERS {
            return Err("a prefix of another length".to_owned());
        }
        match key::is_well_formed(text) {
            true if made.iter().any(|key| key.reveal() == text) => Ok(DecodeOutcome::Read),
            // A chance hit has the probability of 62^-6 a record, and most mutated ones have another length.
            true => Err("noise was accepted as a key".to_owned()),
            false => Ok(DecodeOutcome::Refused),
        }
    });
}
