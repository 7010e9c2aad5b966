//! The rights of a key: its role and its restrictions; and the rule that a key creates no key with more rights than its
//! own. Pure.
//!
//! Validates a requested grant without a database; `keys` stores it.

use time::OffsetDateTime;

use crate::role::{Right, Role};

/// Event types that one key may be restricted to.
pub(crate) const MAX_EVENT_TYPES: usize = 100;
const MAX_NAME_CHARACTERS: usize = 255;

/// All rights of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub role: Role,
    /// The only event types that it may read or send; `None`: all.
    pub event_types: Option<Vec<String>>,
    /// Requests per minute; `None`: the limit of the organization; 0: unlimited.
    pub rate_limit_per_minute: Option<u32>,
    /// `None`: it never expires.
    pub expires_at: Option<OffsetDateTime>,
}

/// The field of a requested grant that is refused, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The field, as in JSON.
    pub field: &'static str,
    pub reason: &'static str,
}

impl Grant {
    /// Validates the grant, independent of the key that requests it.
    ///
    /// # Errors
    /// The first invalid field.
    pub(crate) fn check(&self, now: OffsetDateTime) -> Result<(), Fault> {
        let fault = |field, reason| Err(Fault { field, reason });
        if let Some(types) = &self.event_types {
            if types.is_empty() {
                return fault("event_types", "leave it out for all event types");
            }
            if types.len() > MAX_EVENT_TYPES {
                return fault("event_types", "at most 100");
            }
            if types.iter().any(|name| !is_name(name)) {
                return fault("event_types", "each 1 to 255 characters, no control characters, no blank at either end");
            }
            // Only endpoints support patterns; in a key this would match no event type.
            if types.iter().any(|name| name.ends_with(".*")) {
                return fault("event_types", "a key names event types in full; patterns are for endpoints");
            }
        }
        if self.rate_limit_per_minute.is_some_and(|limit| i32::try_from(limit).is_err()) {
            return fault("rate_limit_per_minute", "too large");
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return fault("expires_at", "must be in the future");
        }
        Ok(())
    }

    /// Whether a key with this grant may create a key with `wanted`, which must not exceed it in any field.
    ///
    /// # Errors
    /// The first field in which `wanted` exceeds this grant.
    pub(crate) fn may_create(&self, wanted: &Self) -> Result<(), Fault> {
        let fault = |field, reason| Err(Fault { field, reason });
        if !self.role.grants(Right::Manage) || !self.role.covers(wanted.role) {
            return fault("role", "a key cannot create a key with more rights than its own");
        }
        if let Some(own) = &self.event_types {
            match &wanted.event_types {
                Some(types) if types.iter().all(|name| own.contains(name)) => {}
                _ => return fault("event_types", "must name only event types of the key that creates it"),
            }
        }
        match (self.rate_limit_per_minute, wanted.rate_limit_per_minute) {
            (_, Some(0)) => return fault("rate_limit_per_minute", "only the operator can create an unlimited key"),
            (Some(own), None) if own > 0 => {
                return fault("rate_limit_per_minute", "must be given, because the key that creates it has a limit");
            }
            (Some(own), Some(wanted)) if own > 0 && wanted > own => {
                return fault("rate_limit_per_minute", "must not exceed the limit of the key that creates it");
            }
            _ => {}
        }
        match (self.expires_at, wanted.expires_at) {
            (Some(_), None) => fault("expires_at", "must be given, because the key that creates it expires"),
            (Some(own), Some(end)) if end > own => {
                fault("expires_at", "must not be later than that of the key that creates it")
            }
            _ => Ok(()),
        }
    }
}

impl Grant {
    /// Whether a key with this grant may revoke or change another key, which has `target`: only if it could have
    /// created that key. An unlimited key, which only the operator creates, counts as one with the organization's
    /// limit, so that its organization can revoke it.
    ///
    /// # Errors
    /// The first field in which `target` exceeds this grant.
    pub(crate) fn may_change(&self, target: &Self) -> Result<(), Fault> {
        let limit = target.rate_limit_per_minute.filter(|limit| *limit > 0);
        let comparable = Self { rate_limit_per_minute: limit, ..target.clone() };
        self.may_create(&comparable)
            .map_err(|fault| Fault { reason: "that key has more rights than this key", ..fault })
    }

    /// Whether a key with this grant may change a key from `before` to `after`. `is_own`: it changes itself.
    ///
    /// # Errors
    /// The first field in which `before` or `after` exceeds this grant.
    pub(crate) fn may_patch(&self, before: &Self, after: &Self, is_own: bool) -> Result<(), Fault> {
        if !is_own {
            self.may_change(before)?;
        }
        // A change of the name alone gives nobody a right.
        if before == after { Ok(()) } else { self.may_create(after) }
    }
}

/// The rule for event types and for the names of keys and organizations.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= MAX_NAME_CHARACTERS
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn open(role: Role) -> Grant {
        Grant { role, event_types: None, rate_limit_per_minute: None, expires_at: None }
    }

    fn any_grant() -> impl Strategy<Value = Grant> {
        let role = proptest::sample::select(Role::ALL.to_vec());
        let types = proptest::option::of(proptest::collection::vec("[a-d]", 1..4));
        let limit = proptest::option::of(0_u32..4);
        let end = proptest::option::of((1_i64..4).prop_map(|hours| NOW + Duration::hours(hours)));
        (role, types, limit, end).prop_map(|(role, event_types, rate_limit_per_minute, expires_at)| Grant {
            role,
            event_types,
            rate_limit_per_minute,
            expires_at,
        })
    }

    fn sees(grant: &Grant, event_type: &str) -> bool {
        grant.event_types.as_ref().is_none_or(|types| types.iter().any(|own| own == event_type))
    }

    fn limit(grant: &Grant) -> u32 {
        match grant.rate_limit_per_minute {
            None | Some(0) => u32::MAX,
            Some(limit) => limit,
        }
    }

    proptest! {
        #[test]
        fn a_key_creates_no_key_with_more_rights_than_its_own(creator in any_grant(), wanted in any_grant()) {
            if creator.may_create(&wanted).is_ok() {
                prop_assert!(creator.role.grants(Right::Manage));
                prop_assert!(wanted.role.rights().iter().all(|right| creator.role.grants(*right)));
                prop_assert!(["a", "b", "c", "d"].iter().all(|name| !sees(&wanted, name) || sees(&creator, name)));
                prop_assert!(limit(&wanted) <= limit(&creator) && wanted.rate_limit_per_minute != Some(0));
                prop_assert!(creator.expires_at.is_none_or(|own| wanted.expires_at.is_some_and(|end| end <= own)));
            }
        }

        #[test]
        fn a_key_changes_only_keys_that_it_could_create(creator in any_grant(), target in any_grant()) {
            if creator.may_create(&target).is_ok() {
                prop_assert_eq!(creator.may_change(&target), Ok(()));
            }
            if creator.may_change(&target).is_ok() {
                prop_assert!(creator.role.grants(Right::Manage) && creator.role.covers(target.role));
                prop_assert!(["a", "b", "c", "d"].iter().all(|name| !sees(&target, name) || sees(&creator, name)));
                prop_assert!(limit(&target) <= limit(&creator));
                prop_assert!(creator.expires_at.is_none_or(|own| target.expires_at.is_some_and(|end| end <= own)));
            }
        }

        #[test]
        fn a_changed_key_stays_within_the_rights_of_its_changer(
            creator in any_grant(), before in any_grant(), after in any_grant(), is_own in any::<bool>()
        ) {
            let before = if is_own { creator.clone() } else { before };
            if creator.may_patch(&before, &after, is_own).is_ok() {
                prop_assert!(is_own || creator.may_change(&before).is_ok());
                prop_assert!(after == before || creator.may_create(&after).is_ok());
                prop_assert!(is_own || creator.may_change(&after).is_ok(), "it can still revoke the key");
            }
        }

        #[test]
        fn the_rule_is_transitive(a in any_grant(), b in any_grant(), c in any_grant()) {
            if a.may_create(&b).is_ok() && b.may_create(&c).is_ok() {
                prop_assert_eq!(a.may_create(&c), Ok(()));
            }
        }

        #[test]
        fn an_unrestricted_admin_creates_every_limited_key(wanted in any_grant()) {
            prop_assert_eq!(open(Role::Admin).may_create(&wanted).is_ok(), wanted.rate_limit_per_minute != Some(0));
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let creator = Grant {
            role: Role::Manage,
            event_types: Some(vec!["a".into()]),
            rate_limit_per_minute: Some(10),
            expires_at: Some(NOW + Duration::hours(1)),
        };
        assert_eq!(creator.may_create(&creator), Ok(()));
        let refused = |wanted: Grant| creator.may_create(&wanted).unwrap_err().field;
        assert_eq!(refused(Grant { role: Role::Admin, ..creator.clone() }), "role");
        assert_eq!(refused(Grant { event_types: None, ..creator.clone() }), "event_types");
        assert_eq!(
            refused(Grant { event_types: Some(vec!["a".into(), "b".into()]), ..creator.clone() }),
            "event_types"
        );
        assert_eq!(refused(Grant { rate_limit_per_minute: None, ..creator.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { rate_limit_per_minute: Some(0), ..creator.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { rate_limit_per_minute: Some(11), ..creator.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { expires_at: None, ..creator.clone() }), "expires_at");
        assert_eq!(refused(Grant { expires_at: Some(NOW + Duration::hours(2)), ..creator.clone() }), "expires_at");
    }

    #[test]
    fn an_admin_revokes_an_unlimited_key_and_a_manager_no_admin() {
        let unlimited = Grant { rate_limit_per_minute: Some(0), ..open(Role::Admin) };
        assert_eq!(open(Role::Admin).may_change(&unlimited), Ok(()));
        assert_eq!(open(Role::Manage).may_change(&open(Role::Admin)).unwrap_err().field, "role");
        let restricted = Grant { event_types: Some(vec!["a".into()]), ..open(Role::Manage) };
        assert_eq!(restricted.may_change(&open(Role::Consume)).unwrap_err().field, "event_types");
    }

    #[test]
    fn produce_and_consume_keys_create_no_keys() {
        for role in [Role::Produce, Role::Consume] {
            assert_eq!(open(role).may_create(&open(role)).unwrap_err().field, "role");
        }
    }

    #[test]
    fn invalid_grants_are_refused() {
        let with_types = |types: &[&str]| Grant {
            event_types: Some(types.iter().map(|&name| name.into()).collect()),
            ..open(Role::Consume)
        };
        for types in [&[][..], &[""], &[" a"], &["a\n"], &["order.*"], &["a", ""]] {
            assert_eq!(with_types(types).check(NOW).unwrap_err().field, "event_types", "{types:?}");
        }
        assert_eq!(with_types(&["order.created"]).check(NOW), Ok(()));
        assert_eq!(Grant { expires_at: Some(NOW), ..open(Role::Consume) }.check(NOW).unwrap_err().field, "expires_at");
        let huge = Grant { rate_limit_per_minute: Some(u32::MAX), ..open(Role::Consume) };
        assert_eq!(huge.check(NOW).unwrap_err().field, "rate_limit_per_minute");
    }
}
