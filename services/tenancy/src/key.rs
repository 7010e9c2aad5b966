//! An API key as text: format, generation, checksum, prefix and hash. Pure.
//!
//! Rights are in `role` and `grant`; the table of keys is in `keys`.

use std::fmt;

use rand::RngExt;
use rand::distr::Alphanumeric;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

/// Characters of a key: the prefix of its environment, random base62, checksum.
pub const KEY_CHARACTERS: usize = 64;
/// Characters stored in clear text: the lookup finds rows by them, and people recognize a key by them.
pub const PREFIX_CHARACTERS: usize = 17;

const CHECKSUM_CHARACTERS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Which of the two prefixes a key has. It is a label for people; the rights are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// `zap_live_…`
    #[default]
    Live,
    /// `zap_test_…`
    Test,
}

impl Environment {
    /// The name in JSON and in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    /// `None` for any other name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Live, Self::Test].into_iter().find(|environment| environment.name() == name)
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Live => "zap_live_",
            Self::Test => "zap_test_",
        }
    }
}

/// SHA-256 of a key, in the table and as the key of the cache. Compares in constant time.
#[derive(Clone, Copy, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes any text that a client sent as a key.
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// Takes a stored hash; `None` if it has not 32 bytes.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes, for binding to SQL.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::hash::Hash for KeyHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// A new key: shown once, never stored. `Debug` hides it.
pub struct NewKey(String);

impl NewKey {
    /// The key in clear text, for the only response that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(..)")
    }
}

/// Generates a key with a cryptographic random generator: 49 random base62 characters, about 291 bits.
pub fn generate(environment: Environment) -> NewKey {
    let random_characters = KEY_CHARACTERS - environment.label().len() - CHECKSUM_CHARACTERS;
    let mut text = String::with_capacity(KEY_CHARACTERS);
    text.push_str(environment.label());
    text.extend(rand::rng().sample_iter(Alphanumeric).take(random_characters).map(char::from));
    let checksum = checksum(&text);
    text.extend(checksum.map(char::from));
    NewKey(text)
}

/// Whether `presented` has the format and checksum of a key. Other text is refused without a query.
pub fn is_well_formed(presented: &str) -> bool {
    let labelled = presented.starts_with(Environment::Live.label()) || presented.starts_with(Environment::Test.label());
    if presented.len() != KEY_CHARACTERS
        || !labelled
        || !presented.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return false;
    }
    let (body, given) = presented.split_at(KEY_CHARACTERS - CHECKSUM_CHARACTERS);
    given.as_bytes() == checksum(body)
}

/// The prefix under which a key is stored. A well-formed key gives its first characters; any other text (a
/// development key may be short) gives characters of its hash, so that its text stays hidden.
pub fn prefix(presented: &str) -> String {
    if is_well_formed(presented) {
        return presented.chars().take(PREFIX_CHARACTERS).collect();
    }
    let mut prefix = String::from("dev_");
    for byte in KeyHash::of(presented).0 {
        prefix.push_str(&format!("{byte:02x}"));
    }
    prefix.truncate(PREFIX_CHARACTERS);
    prefix
}

/// Six base62 digits over the text before them. They detect typing errors and noise; only the lookup detects forgery.
fn checksum(body: &str) -> [u8; CHECKSUM_CHARACTERS] {
    let digest = Sha256::new().chain_update(b"triggers api key checksum\0").chain_update(body.as_bytes()).finalize();
    let mut rest = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in &mut digits {
        // The remainder is below 62.
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_key_has_64_characters_is_well_formed_and_unique() {
        for (environment, label) in [(Environment::Live, "zap_live_"), (Environment::Test, "zap_test_")] {
            let key = generate(environment);
            assert_eq!(key.reveal().len(), KEY_CHARACTERS);
            assert!(key.reveal().starts_with(label));
            assert!(is_well_formed(key.reveal()));
            assert_eq!(prefix(key.reveal()), key.reveal()[..PREFIX_CHARACTERS]);
            assert_ne!(key.reveal(), generate(environment).reveal());
        }
    }

    #[test]
    fn the_format_of_keys_does_not_change() {
        // If this fails, all existing keys are refused.
        assert!(is_well_formed(GOLDEN), "{}", String::from_utf8_lossy(&checksum(&GOLDEN[..58])));
    }
    const GOLDEN: &str = "zap_live_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMjUoBPB";

    #[test]
    fn the_prefix_of_a_malformed_key_shows_none_of_its_text() {
        let shown = prefix("dev-key");
        assert_eq!(shown.len(), PREFIX_CHARACTERS);
        assert!(shown.starts_with("dev_") && !shown.contains("dev-key"));
        assert_ne!(shown, prefix("dev-kez"));
    }

    #[test]
    fn debug_hides_keys_and_hashes() {
        let key = generate(Environment::Live);
        let printed = format!("{key:?} {:?}", KeyHash::of(key.reveal()));
        assert_eq!(printed, "NewKey(..) KeyHash(..)");
    }

    proptest! {
        #[test]
        fn one_changed_character_makes_a_key_malformed(index in 0_usize..KEY_CHARACTERS, to in "[0-9A-Za-z]") {
            let key = generate(Environment::Live);
            let mut changed = key.reveal().to_owned();
            changed.replace_range(index..=index, &to);
            // 62^6 checksums: a chance hit does not happen in a test's lifetime.
            prop_assert_eq!(is_well_formed(&changed), changed == key.reveal());
        }

        #[test]
        fn any_text_gives_a_prefix(text in ".{0,80}") {
            prop_assert!(!is_well_formed(&text));
            prop_assert_eq!(prefix(&text).len(), PREFIX_CHARACTERS);
        }
    }
}
