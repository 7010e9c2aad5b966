//! Roles and what each may do. Pure.

use serde::{Deserialize, Serialize};

/// What a route asks of the key that calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Produce,
    /// Read the inbox and events, acknowledge.
    Consume,
    /// Endpoints, deliveries, replays, keys.
    Manage,
    Admin,
}

/// A key's role: a fixed set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends events, and nothing else.
    Produce,
    /// Reads and acknowledges, and nothing else.
    Consume,
    /// Both, and everything of the organization but the organization itself.
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

    /// The role of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_grants_what_the_contract_says() {
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
    fn a_role_covers_itself_and_what_is_weaker() {
        for role in Role::ALL {
            assert!(role.covers(role));
            assert!(Role::Admin.covers(role));
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert!(!Role::Manage.covers(Role::Admin));
        assert!(!Role::Produce.covers(Role::Consume) && !Role::Consume.covers(Role::Produce));
        assert_eq!(Role::named("root"), None);
    }
}
