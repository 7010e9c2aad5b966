//! One record: arbitrary, mutated, of the decoder's own words, or far too large.

use crate::mutate::mutate;
use crate::rng::Rng;

/// One in so many is large: it costs as much as thousands of others.
const LARGE_ONE_IN: usize = 20_000;
/// The longest of the others; mutations do not add up beyond it.
const LONGEST: usize = 8 * 1024;

/// What the records of one decoder are made from.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub golden: &'a [Vec<u8>],
    /// Pieces that mean something to the decoder.
    pub tokens: &'a [&'a str],
    /// Bytes at the beginning of a golden record that tell what it is: some arbitrary records keep them.
    pub header: usize,
    /// The size of the few large records, bytes. Above the decoder's own limit, if it has one.
    pub large: usize,
}

/// For decoders of short texts.
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

/// For decoders of JSON.
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

/// Makes the record of this generator in `bytes`.
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
        2 | 3 => words(rng, samples, bytes),
        // As it is: what must be read is among what is not.
        4 => golden(rng, samples, bytes),
        _ => {
            golden(rng, samples, bytes);
            let most = *rng.choose(&[1, 1, 2, 12]).unwrap_or(&1);
            for _ in 0..1 + rng.below(most) {
                mutate(rng, bytes, samples.tokens, samples.golden);
                bytes.truncate(LONGEST);
            }
        }
    }
}

fn golden(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    if let Some(record) = rng.choose(samples.golden) {
        bytes.extend_from_slice(record);
    }
}

/// The decoder's words in any order.
fn words(rng: &mut Rng, samples: &Samples<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(24) {
        if let Some(token) = rng.choose(samples.tokens) {
            bytes.extend_from_slice(token.as_bytes());
        }
    }
}

/// One piece over and over: alone, anywhere in a good record, or as the value of a member.
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
    // Half of them close to, but below what decoders take.
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

/// An object of as many different members as fit.
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
