//! What a key is given beyond its role, and the rule that a key makes no key with more rights than its own. Pure.
//!
//! The form of a request for a key is checked here as far as it needs no database; storing it is `keys`' business.

use time::OffsetDateTime;

use crate::role::{Right, Role};

/// Event types that one key may be restricted to.
pub(crate) const MAX_EVENT_TYPES: usize = 100;
const MAX_NAME_CHARACTERS: usize = 255;

/// The whole of what a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub role: Role,
    /// The only event types it sees or sends; `None`: all.
    pub event_types: Option<Vec<String>>,
    /// Requests per minute; `None`: the organization's; 0: unlimited.
    pub rate_limit_per_minute: Option<u32>,
    /// When it ends; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// Which part of a wanted grant is at fault, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The field, as in JSON.
    pub field: &'static str,
    /// Why, for people.
    pub reason: &'static str,
}

impl Grant {
    /// Whether this is a grant at all, whoever asks for it.
    ///
    /// # Errors
    /// The first field at fault.
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
            // Endpoints know this pattern, keys do not: taken literally it would match nothing, and surprise.
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

    /// Whether a key with this grant may make a key with `wanted`: never more than its own, in any respect.
    ///
    /// # Errors
    /// The first field in which `wanted` goes beyond.
    pub(crate) fn may_make(&self, wanted: &Self) -> Result<(), Fault> {
        let fault = |field, reason| Err(Fault { field, reason });
        if !self.role.grants(Right::Manage) || !self.role.covers(wanted.role) {
            return fault("role", "a key makes no key with more rights than its own");
        }
        if let Some(own) = &self.event_types {
            match &wanted.event_types {
                Some(types) if types.iter().all(|name| own.contains(name)) => {}
                _ => return fault("event_types", "must name only event types of the key that makes it"),
            }
        }
        match (self.rate_limit_per_minute, wanted.rate_limit_per_minute) {
            (_, Some(0)) => return fault("rate_limit_per_minute", "only the operator makes a key unlimited"),
            (Some(own), None) if own > 0 => {
                return fault(
                    "rate_limit_per_minute",
                    "must be given, since the key that makes it has a limit of its own",
                );
            }
            (Some(own), Some(wanted)) if own > 0 && wanted > own => {
                return fault("rate_limit_per_minute", "must not exceed the limit of the key that makes it");
            }
            _ => {}
        }
        match (self.expires_at, wanted.expires_at) {
            (Some(_), None) => fault("expires_at", "must be given, since the key that makes it expires"),
            (Some(own), Some(end)) if end > own => {
                fault("expires_at", "must not be later than that of the key that makes it")
            }
            _ => Ok(()),
        }
    }
}

/// What event types and the names of keys and organizations have in common.
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
        fn whatever_a_key_makes_can_do_nothing_that_its_maker_cannot(maker in any_grant(), wanted in any_grant()) {
            if maker.may_make(&wanted).is_ok() {
                prop_assert!(maker.role.grants(Right::Manage));
                prop_assert!(wanted.role.rights().iter().all(|right| maker.role.grants(*right)));
                prop_assert!(["a", "b", "c", "d"].iter().all(|name| !sees(&wanted, name) || sees(&maker, name)));
                prop_assert!(limit(&wanted) <= limit(&maker) && wanted.rate_limit_per_minute != Some(0));
                prop_assert!(maker.expires_at.is_none_or(|own| wanted.expires_at.is_some_and(|end| end <= own)));
            }
        }

        #[test]
        fn the_rule_is_transitive(a in any_grant(), b in any_grant(), c in any_grant()) {
            if a.may_make(&b).is_ok() && b.may_make(&c).is_ok() {
                prop_assert_eq!(a.may_make(&c), Ok(()));
            }
        }

        #[test]
        fn an_unrestricted_admin_makes_every_limited_key(wanted in any_grant()) {
            prop_assert_eq!(open(Role::Admin).may_make(&wanted).is_ok(), wanted.rate_limit_per_minute != Some(0));
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let maker = Grant {
            role: Role::Manage,
            event_types: Some(vec!["a".into()]),
            rate_limit_per_minute: Some(10),
            expires_at: Some(NOW + Duration::hours(1)),
        };
        assert_eq!(maker.may_make(&maker), Ok(()));
        let refused = |wanted: Grant| maker.may_make(&wanted).unwrap_err().field;
        assert_eq!(refused(Grant { role: Role::Admin, ..maker.clone() }), "role");
        assert_eq!(refused(Grant { event_types: None, ..maker.clone() }), "event_types");
        assert_eq!(refused(Grant { event_types: Some(vec!["a".into(), "b".into()]), ..maker.clone() }), "event_types");
        assert_eq!(refused(Grant { rate_limit_per_minute: None, ..maker.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { rate_limit_per_minute: Some(0), ..maker.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { rate_limit_per_minute: Some(11), ..maker.clone() }), "rate_limit_per_minute");
        assert_eq!(refused(Grant { expires_at: None, ..maker.clone() }), "expires_at");
        assert_eq!(refused(Grant { expires_at: Some(NOW + Duration::hours(2)), ..maker.clone() }), "expires_at");
    }

    #[test]
    fn a_producer_makes_no_key_at_all() {
        for role in [Role::Produce, Role::Consume] {
            assert_eq!(open(role).may_make(&open(role)).unwrap_err().field, "role");
        }
    }

    #[test]
    fn nonsense_is_refused_whoever_asks() {
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
