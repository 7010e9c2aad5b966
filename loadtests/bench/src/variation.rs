//! How the events of a load differ from each other: size, type and organization, each by the number of the event, so
//! that two runs send the same. Pure.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use loadkit::EVENT_TYPE;
use serde::Serialize;

/// Minimum payload: it has room for the number of the request.
pub(crate) const MIN_PAYLOAD_BYTES: usize = 64;
/// Maximum payload that the product accepts.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Shares of the requests, of five groups of organizations.
const WEIGHTS: [u64; 5] = [10, 3, 2, 1, 1];

/// The size of the JSON text of each payload: one for all, or a range in which the logarithm of the size is uniform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadBytes {
    least: usize,
    most: usize,
}

impl PayloadBytes {
    pub(crate) fn exactly(bytes: usize) -> Self {
        Self { least: bytes, most: bytes }
    }

    /// The size, if it is one for all.
    pub(crate) fn fixed(self) -> Option<usize> {
        (self.least == self.most).then_some(self.least)
    }

    /// The size of event `number`.
    pub(crate) fn of(self, number: u64) -> usize {
        if self.least == self.most {
            return self.least;
        }
        self.at(fraction(number))
    }

    /// The middle of the logarithms: half of the events are larger.
    pub(crate) fn median(self) -> usize {
        self.at(0.5)
    }

    fn at(self, fraction: f64) -> usize {
        let (least, most) = (self.least as f64, self.most as f64);
        let bytes = (least * (most / least).powf(fraction)).round() as usize;
        bytes.clamp(self.least, self.most)
    }
}

impl FromStr for PayloadBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let bounds = MIN_PAYLOAD_BYTES..=MAX_PAYLOAD_BYTES;
        match (least.parse(), most.parse()) {
            (Ok(least), Ok(most)) if least <= most && bounds.contains(&least) && bounds.contains(&most) => {
                Ok(Self { least, most })
            }
            _ => Err(format!("write BYTES or LEAST-MOST, of {MIN_PAYLOAD_BYTES} to {MAX_PAYLOAD_BYTES} bytes")),
        }
    }
}

impl fmt::Display for PayloadBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fixed() {
            Some(bytes) => write!(f, "{bytes}"),
            None => write!(f, "{}-{}", self.least, self.most),
        }
    }
}

/// A number, or a text such as `500-256000`.
impl Serialize for PayloadBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.fixed() {
            Some(bytes) => bytes.serialize(serializer),
            None => serializer.collect_str(self),
        }
    }
}

/// The type of event `number`, of so many types.
pub(crate) fn event_type(number: u64, types: usize) -> String {
    // The lower bits: the upper ones give the size. By the number alone, an organization would have one type.
    match scatter(number) % types.max(1) as u64 {
        0 => EVENT_TYPE.to_owned(),
        other => format!("{EVENT_TYPE}.{other}"),
    }
}

/// How requests are shared between organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shares {
    /// Organizations are used in turns.
    Even,
    /// Five groups of equal size get 10, 3, 2, 1 and 1 of 17 requests. Fewer than five organizations are used in turns.
    Weighted,
    /// The n-th organization gets a share of about 1 / n.
    Zipf,
    /// The first organization gets every second request; the others are used in turns.
    Half,
}

impl Shares {
    /// The organization of request `number`, of so many.
    pub(crate) fn organization(self, number: u64, organizations: usize) -> usize {
        match self {
            Self::Even => even(number, organizations),
            Self::Weighted => weighted(number, organizations),
            Self::Zipf => zipf(number, organizations),
            Self::Half if organizations < 2 || number.is_multiple_of(2) => 0,
            Self::Half => 1 + even(number / 2, organizations - 1),
        }
    }
}

fn even(number: u64, organizations: usize) -> usize {
    usize::try_from(number % organizations.max(1) as u64).unwrap_or(0)
}

fn weighted(number: u64, organizations: usize) -> usize {
    let groups = WEIGHTS.len();
    if organizations < groups {
        return even(number, organizations);
    }
    let sum: u64 = WEIGHTS.iter().sum();
    let (round, mut slot) = (number / sum, number % sum);
    for (group, weight) in WEIGHTS.into_iter().enumerate() {
        if slot < weight {
            let (from, to) = (group * organizations / groups, (group + 1) * organizations / groups);
            return from + even(round * weight + slot, to - from);
        }
        slot -= weight;
    }
    0
}

/// The rank whose logarithm is uniform.
fn zipf(number: u64, organizations: usize) -> usize {
    let rank = ((organizations as f64 + 1.0).ln() * fraction(number)).exp();
    (rank as usize).clamp(1, organizations.max(1)) - 1
}

/// A fraction below 1 that is scattered by the number: its upper 53 bits.
fn fraction(number: u64) -> f64 {
    (scatter(number) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A hash of a number, by splitmix64.
fn scatter(number: u64) -> u64 {
    let mut hash = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn sizes_are_even_by_their_logarithm() {
        let range: PayloadBytes = "500-256000".parse().unwrap();
        let mut sizes: Vec<usize> = (0..10_000).map(|number| range.of(number)).collect();
        assert!(sizes.iter().all(|size| (500..=256_000).contains(size)));
        sizes.sort_unstable();
        // Of 500 to 256,000 the logarithms have their quarters at 2,378, 11,314 and 53,817.
        for (at, expected) in [(2_500, 2_378.0), (5_000, 11_314.0), (7_500, 53_817.0)] {
            let ratio = sizes[at] as f64 / expected;
            assert!((0.9..1.1).contains(&ratio), "{at}: {}", sizes[at]);
        }
        assert_eq!(range.median(), 11_314);
        assert_eq!(range.of(7), range.of(7));
        assert_eq!((range.to_string(), PayloadBytes::exactly(600).of(7)), ("500-256000".to_owned(), 600));
    }

    #[test]
    fn payloads_out_of_bounds_are_refused() {
        for text in ["63", "64-262145", "700-600", "", "-", "6e2", "500-"] {
            assert!(text.parse::<PayloadBytes>().is_err(), "{text}");
        }
        assert_eq!("600".parse(), Ok(PayloadBytes::exactly(600)));
    }

    #[test]
    fn every_type_is_as_frequent_and_each_organization_has_all() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        // Every fourth event, as one of four organizations has them.
        for number in (0..40_000).step_by(4) {
            *counts.entry(event_type(number, 4)).or_default() += 1;
        }
        assert_eq!(counts.len(), 4);
        assert!(counts.values().all(|count| (2_300..2_700).contains(count)), "{counts:?}");
        assert_eq!(event_type(5, 1), EVENT_TYPE);
    }

    #[test]
    fn groups_of_organizations_get_their_shares() {
        let mut counts = [0_u64; 10];
        for number in 0..1_700 {
            counts[Shares::Weighted.organization(number, 10)] += 1;
        }
        assert_eq!(counts, [500, 500, 150, 150, 100, 100, 50, 50, 50, 50]);
        assert_eq!([0, 1, 2, 3].map(|number| Shares::Weighted.organization(number, 3)), [0, 1, 2, 0]);
    }

    #[test]
    fn a_few_organizations_get_most() {
        let counts = |shares: Shares, organizations: usize| {
            let mut counts = vec![0_u64; organizations];
            (0..100_000).for_each(|number| counts[shares.organization(number, organizations)] += 1);
            counts
        };
        let zipf = counts(Shares::Zipf, 1_000);
        // ln 2 / ln 1001 of all.
        assert!((9_500..10_500).contains(&zipf[0]), "{}", zipf[0]);
        assert!(zipf[9] * 6 < zipf[0] && zipf.iter().all(|count| *count > 0), "{zipf:?}");
        assert_eq!(counts(Shares::Half, 5), [50_000, 12_500, 12_500, 12_500, 12_500]);
        assert_eq!(counts(Shares::Half, 1), [100_000]);
    }
}
