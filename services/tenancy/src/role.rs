//! Roles and their rights. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A right that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Produce,
    /// Read the inbox and events, acknowledge.
    Consume,
    /// Endpoints, deliveries, replays, keys.
    Manage,
    Admin,
}

/// The role of a key: a fixed set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends events only.
    Produce,
    /// Reads and acknowledges only.
    Consume,
    /// Both, and manages endpoints, deliveries, replays and keys.
    Manage,
    /// Everything in its organization.
    Admin,
}

impl Role {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Produce, Self::Consume, Self::Manage, Self::Admin];

    /// The rights this role grants.
    pub const fn rights(self) -> &'static [Right] {
        match self {
            Self::Produce => &[Right::Produce],
            Self::Consume => &[Right::Consume],
            Self::Manage => &[Right::Produce, Right::Consume, Right::Manage],
            Self::Admin => &[Right::Produce, Right::Consume, Right::Manage, Right::Admin],
        }
    }

    /// Whether this role grants `right`.
    pub fn grants(self, right: Right) -> bool {
        self.rights().contains(&right)
    }

    /// Whether every right of `other` is also one of this role.
    pub fn covers(self, other: Self) -> bool {
        other.rights().iter().all(|right| self.grants(*right))
    }

    /// The name in JSON and in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_grants_its_documented_rights() {
        let table = [
            (Role::Produce, [true, false, false, false]),
            (Role::Consume, [false, true, false, false]),
            (Role::Manage, [true, true, true, false]),
            (Role::Admin, [true, true, true, true]),
        ];
        for (role, granted) in table {
            let rights = [Right::Produce, Right::Consume, Right::Manage, Right::Admin];
            assert_eq!(rights.map(|right| role.grants(right)), granted, "{role:?}");
        }
    }

    #[test]
    fn a_role_covers_itself_and_weaker_roles() {
        for role in Role::ALL {
            assert!(role.covers(role));
            assert!(Role::Admin.covers(role));
            assert_eq!(Role::from_name(role.name()), Some(role));
        }
        assert!(!Role::Manage.covers(Role::Admin));
        assert!(!Role::Produce.covers(Role::Consume) && !Role::Consume.covers(Role::Produce));
        assert_eq!(Role::from_name("root"), None);
    }
}
