//! Tiers, and the rate limit of a key. Pure; requests are not counted here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Determines the rate limit of an organization that has no limit configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tier {
    /// 100 a minute.
    #[default]
    Free,
    /// 1,000 a minute.
    Pro,
    /// 10,000 a minute.
    Business,
    /// 100,000 a minute.
    Enterprise,
}

impl Tier {
    const ALL: [Self; 4] = [Self::Free, Self::Pro, Self::Business, Self::Enterprise];

    /// Requests per minute of the whole organization.
    pub(crate) const fn per_minute(self) -> u32 {
        match self {
            Self::Free => 100,
            Self::Pro => 1_000,
            Self::Business => 10_000,
            Self::Enterprise => 100_000,
        }
    }

    /// The name in JSON and in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Business => "business",
            Self::Enterprise => "enterprise",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

/// The rate limit of a key per minute; 0: unlimited. `organization`: the limit of the organization or of its tier. The
/// limit of a key only lowers it; 0, which only the operator can set, removes it.
pub(crate) fn limit_of_key(organization: u32, key: Option<u32>) -> u32 {
    match key {
        None => organization,
        Some(0) => 0,
        Some(own) if organization == 0 => own,
        Some(own) => own.min(organization),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_key_only_lowers_the_limit() {
        assert_eq!(limit_of_key(100, None), 100);
        assert_eq!(limit_of_key(100, Some(10)), 10);
        assert_eq!(limit_of_key(100, Some(1_000)), 100);
        assert_eq!(limit_of_key(0, Some(10)), 10);
        assert_eq!(limit_of_key(0, None), 0);
        assert_eq!(limit_of_key(100, Some(0)), 0);
    }

    #[test]
    fn every_tier_is_found_by_its_name() {
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.name()), Some(tier));
        }
        assert_eq!(Tier::from_name("platinum"), None);
        assert_eq!(Tier::ALL.map(Tier::per_minute), [100, 1_000, 10_000, 100_000]);
    }
}
