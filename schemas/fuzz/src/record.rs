//! Makes one record: arbitrary bytes, a mutated golden record, random tokens, or a very large record.

use crate::mutate::mutate;
use crate::rng::Rng;

/// One in this many records is large. A large one costs as much as thousands of others.
const LARGE_ONE_IN: usize = 20_000;
/// The longest of the other records, bytes.
const MAX_BYTES: usize = 8 * 1024;

/// The input from which the records for one decoder are made.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Valid records.
    pub golden: &'a [Vec<u8>],
    /// Pieces of text that have a meaning for the decoder.
    pub tokens: &'a [&'a str],
    /// Length of the header of a golden record, bytes. Some arbitrary records keep the header.
    pub header: usize,
    /// Size of the few large records, bytes. Larger than the decoder's own limit, if it has one.
    pub large: usize,
}

/// Tokens for decoders of short texts.
pub const ANY_TEXT: &[&str] = &[
    "",
    " ",
    "0",
    "-",
    "+",
    ":",
    ".",
    ",",
    ";",
    "/",
    "T",
    "Z",
    "%",
    "%00",
    "%ff",
    "%c3%28",
    "..",
    "//",
    "\u{0}",
    "\u{e9}",
    "\u{1f600}",
    "\u{661}",
    "\u{ff10}",
    "\u{2212}",
    "0x",
    "1e9",
    "GMT",
    "{",
    "}",
    "urn:uuid:",
];

/// Tokens for decoders of JSON.
pub const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\"\"",
    "{}",
    "[]",
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5e-7",
    "\"a\"",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\ud83d\\ude00",
    "\\n",
    "\\x",
    "\u{feff}",
    "\u{2028}",
    "\n",
    "\t",
    "/*",
    "//",
    "'",
    "{\"a\":",
    "[[[[[[[[",
    "]]]]]]]]",
    "\"type\":\"b\",",
    "\"\\u0074ype\":\"b\",",
    "\"data\":2,",
    "\"event_type\":\"c\",",
    "\"payload\":3,",
    "\"dedup_id\":\"d\",",
    "\"timestamp\":\"2026-11-21T09:00:00Z\",",
    "\"source\":\"s\",",
    "\"ordering_key\":\"o\",",
    "\"metadata\":{\"k\":\"v\"},",
    "\"metadata\":{\"k\":\"v\",\"k\":\"w\"},",
    "\"specversion\":\"1.0\",",
    "\"id\":\"1\",",
    "\"time\":\"2026-11-21T09:00:00Z\",",
    "\"data_base64\":\"AA==\",",
    "\"partitionkey\":\"p\",",
    "\"event_id\":",
    "\"event_ids\":[",
    "\"0192f0c1-2345-7abc-8def-0123456789ac\"",
    "\"type\":\"triggers.x\",",
    "\u{e9}\u{301}",
];

/// Makes the next record of the generator in `bytes`.
pub(crate) fn make(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    bytes.clear();
    if rng.one_in(LARGE_ONE_IN) {
        return large(rng, samples, bytes);
    }
    match rng.below(16) {
        0 => {
            let count = if rng.one_in(16) { rng.below(2048) } else { rng.below(64) };
            rng.fill(bytes, count);
        }
        1 => {
            golden(rng, samples, bytes);
            bytes.truncate(samples.header);
            let count = rng.below(300);
            rng.fill(bytes, count);
        }
        2 | 3 => random_tokens(rng, samples, bytes),
        // Unchanged, so that the decoder also gets valid records.
        4 => golden(rng, samples, bytes),
        _ => {
            golden(rng, samples, bytes);
            let most = *rng.choose(&[1, 1, 2, 12]).unwrap_or(&1);
            for _ in 0..1 + rng.below(most) {
                mutate(rng, bytes, samples.tokens, samples.golden);
                bytes.truncate(MAX_BYTES);
            }
        }
    }
}

fn golden(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    if let Some(record) = rng.choose(samples.golden) {
        bytes.extend_from_slice(record);
    }
}

/// Random tokens.
fn random_tokens(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(24) {
        if let Some(token) = rng.choose(samples.tokens) {
            bytes.extend_from_slice(token.as_bytes());
        }
    }
}

/// One piece repeated many times: alone, anywhere in a golden record, or as the value of a member.
fn large(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    const PIECES: [(&str, &str); 14] = [
        ("[", "]"),
        ("{\"a\":", "}"),
        ("{\"a\":[", "]}"),
        ("\"a\",", ""),
        ("\"k\":1,", ""),
        ("\\", ""),
        ("\\\\", ""),
        ("\\ud83d\\ude00", ""),
        ("\u{0}", ""),
        ("9", ""),
        (" ", ""),
        ("\u{e9}", ""),
        ("%c3", ""),
        ("x", ""),
    ];
    const MEMBERS: [&str; 9] =
        ["zzz", "payload", "data", "metadata", "dedup_id", "event_ids", "type", "timestamp", "data_base64"];
    let (opening, closing) = *rng.choose(&PIECES).unwrap_or(&("[", "]"));
    // Half of them are a little smaller than the limit of the decoders.
    let size = if rng.one_in(2) { samples.large } else { samples.large * 9 / 20 };
    let times = size / (opening.len() + closing.len());
    let middle = [opening.repeat(times), closing.repeat(times)].concat();
    golden(rng, samples, bytes);
    let brace = bytes.iter().position(|byte| *byte == b'{');
    let (at, text) = match (rng.below(4), brace) {
        (0, _) | (1, None) => {
            bytes.clear();
            (0, middle)
        }
        (1 | 2, Some(brace)) => {
            let member = *rng.choose(&MEMBERS).unwrap_or(&"zzz");
            let value = match (rng.below(3), closing) {
                (0, _) => many_members(rng, size),
                (_, "") => format!("\"{middle}\""),
                _ => middle,
            };
            (brace + 1, format!("\"{member}\":{value},"))
        }
        _ => (rng.below(bytes.len() + 1), middle),
    };
    drop(bytes.splice(at..at, text.bytes()));
}

/// An object of about `size` bytes with as many different members as fit.
fn many_members(rng: &mut Rng, size: usize) -> String {
    let mut object = String::with_capacity(size);
    let salt = rng.bits();
    let mut number = 0_u64;
    while object.len() + 32 < size {
        object.push_str(if number == 0 { "{\"" } else { ",\"" });
        object.push_str(&(salt ^ number).to_string());
        object.push_str("\":\"\"");
        number += 1;
    }
    object.push('}');
    object
}
