//! Which partition a key belongs to, by the rule that librdkafka's `murmur2_random` and Java's default partitioner
//! share.
//!
//! Producing leaves the choice to librdkafka; this copy of the rule exists to bound what is in flight per partition
//! before producing.

use std::sync::Arc;

/// A topic, by its full name, and a partition of it.
pub type TopicPartition = (Arc<str>, i32);

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// The partition of `key` among `partitions` (at least 1).
pub fn of_key(key: &[u8], partitions: i32) -> i32 {
    // The sign bit is cleared, not negated: that is the rule.
    let positive = i32::from_ne_bytes((murmur2(key) & 0x7fff_ffff).to_ne_bytes());
    positive % partitions.max(1)
}

/// The 32-bit MurmurHash2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    let mix = |k: u32| {
        let k = k.wrapping_mul(M);
        (k ^ (k >> R)).wrapping_mul(M)
    };
    // The rule is defined on 32-bit lengths; keys are far shorter.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        hash = hash.wrapping_mul(M) ^ mix(k);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_hashes_that_kafka_publishes_in_its_own_tests() {
        // Values of Kafka's `UtilsTest.testMurmur2`.
        let known: [(&[u8], i32); 5] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (data, hash) in known {
            assert_eq!(murmur2(data), u32::from_ne_bytes(hash.to_ne_bytes()), "{}", String::from_utf8_lossy(data));
        }
    }
}
