//! Mutations of a record: flipped bits, truncation, copies, splices, and difficult texts and numbers.

use crate::rng::Rng;

/// Lengths and values at the edges of variable-length integers (zigzag and plain).
const VARINTS: [&[u8]; 8] = [
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xfe, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x02],
    &[0x01],
];

/// Bytes that are invalid UTF-8, or difficult UTF-8.
const BYTES: [&[u8]; 14] = [
    b"\xff",
    b"\xc3",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xc2\xa0",
    b"\x00",
    b"\x7f",
    b"\r\n",
    b"\xcc\x81\xcc\x81\xcc\x81",
];

/// Numbers as text.
const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "-1",
    "00",
    "1e400",
    "-1e-400",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "1.7976931348623159e308",
    "99999999999999999999999999999999999999999",
    "0.1",
    "1e",
    "NaN",
    "4294967296",
];

pub(crate) fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, tokens: &[&str], others: &[Vec<u8>]) {
    match rng.below(14) {
        0 | 1 => flip(rng, bytes),
        2 => set(rng, bytes),
        3 => bytes.truncate(rng.below(bytes.len() + 1)),
        4 => remove(rng, bytes),
        5 => repeat(rng, bytes),
        6 => {
            let mut noise = Vec::new();
            let count = 1 + rng.below(8);
            rng.fill(&mut noise, count);
            insert(rng, bytes, &noise);
        }
        7 | 8 => insert_one(rng, bytes, tokens, |token| token.as_bytes()),
        9 => splice(rng, bytes, others),
        10 => overwrite_one(rng, bytes),
        11 => insert_one(rng, bytes, &BYTES, |bytes| bytes),
        12 => number(rng, bytes),
        _ => swap(rng, bytes),
    }
}

fn flip(rng: &mut Rng, bytes: &mut [u8]) {
    let at = rng.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

fn set(rng: &mut Rng, bytes: &mut [u8]) {
    let at = rng.below(bytes.len());
    let value =
        *rng.choose(&[0, 1, 0x7f, 0x80, 0xfe, 0xff, b'"', b'\\', b'{', b'}', b'[', b' ', b'%', b'-']).unwrap_or(&0);
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

/// Start and end of a random piece of the record.
fn piece(rng: &mut Rng, length: usize) -> (usize, usize) {
    let start = rng.below(length + 1);
    let longest = if rng.one_in(4) { length } else { 24 };
    (start, (start + rng.below(longest + 1)).min(length))
}

fn remove(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let (start, end) = piece(rng, bytes.len());
    drop(bytes.drain(start..end));
}

fn repeat(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let (start, end) = piece(rng, bytes.len());
    let times = if rng.one_in(16) { 1 + rng.below(64) } else { 1 };
    let copy = bytes[start..end].repeat(times);
    drop(bytes.splice(end..end, copy));
}

fn insert(rng: &mut Rng, bytes: &mut Vec<u8>, what: &[u8]) {
    let at = rng.below(bytes.len() + 1);
    drop(bytes.splice(at..at, what.iter().copied()));
}

fn insert_one<T>(rng: &mut Rng, bytes: &mut Vec<u8>, items: &[T], of: impl Fn(&T) -> &[u8]) {
    if let Some(item) = rng.choose(items) {
        insert(rng, bytes, of(item));
    }
}

fn overwrite_one(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.below(bytes.len() + 1);
    if let Some(varint) = rng.choose(&VARINTS) {
        let end = (at + rng.below(varint.len() + 1)).min(bytes.len());
        drop(bytes.splice(at..end, varint.iter().copied()));
    }
}

/// The start of one record and the end of another one.
fn splice(rng: &mut Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    if let Some(other) = rng.choose(others) {
        bytes.truncate(rng.below(bytes.len() + 1));
        bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
    }
}

/// Replaces a run of digits by another number.
fn number(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let from = rng.below(bytes.len());
    let Some(start) = bytes.iter().skip(from).position(u8::is_ascii_digit).map(|at| at + from) else { return };
    let end = bytes.iter().skip(start).position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |at| at + start);
    if let Some(number) = rng.choose(&NUMBERS) {
        drop(bytes.splice(start..end, number.bytes()));
    }
}

fn swap(rng: &mut Rng, bytes: &mut [u8]) {
    let (one, other) = (rng.below(bytes.len()), rng.below(bytes.len()));
    let length = rng.below(16).min(bytes.len() - one.max(other));
    for at in 0..length {
        bytes.swap(one + at, other + at);
    }
}
