//! The validated query parameters of a list of deliveries. Pure.

use http_server::{Problem, QueryParams};
use runtime::seal::SealingKey;
use schemas::event_json::is_event_type_name;
use schemas::ids::{DeliveryId, OrgId};
use time::OffsetDateTime;
use time::macros::datetime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::bodies::DeliveryItem;
use super::cursor::DeliveryCursor;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;
/// A list of types reads one range of an index for each type and state.
pub(super) const MAX_TYPES: usize = 20;
/// Before every delivery.
const EARLIEST: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
/// After every delivery.
const LATEST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// State of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum DeliveryState {
    /// It waits for its first attempt.
    Pending,
    /// It waits for its next attempt.
    Retrying,
    Delivered,
    /// Its last attempt failed.
    Failed,
    /// The event was acknowledged, or the endpoint deleted, before an attempt succeeded.
    Cancelled,
}

impl DeliveryState {
    const ALL: [Self; 5] = [Self::Pending, Self::Retrying, Self::Delivered, Self::Failed, Self::Cancelled];

    /// The name in the view and in JSON.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which deliveries to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListRequest {
    /// Deliveries on a page.
    pub limit: usize,
    pub states: Vec<DeliveryState>,
    /// One of these types; `None`: any.
    pub event_types: Option<Vec<String>>,
    /// Created at this time or later.
    pub from: OffsetDateTime,
    /// Sorts after all that is listed: the cursor, or the end of the wanted time.
    pub before: DeliveryCursor,
}

impl ListRequest {
    /// Reads the parameters, for a key that may see these event types.
    ///
    /// # Errors
    /// The invalid code, naming the first parameter at fault. A cursor of another organization is one.
    pub(super) fn parse(
        given: &QueryParams,
        allowed: Option<&[String]>,
        (key, organization): (&SealingKey, OrgId),
    ) -> Result<Self, Problem> {
        let end = match given.time("to")? {
            Some(created_at) => DeliveryCursor { created_at, delivery_id: DeliveryId::from_uuid(Uuid::nil()) },
            None => DeliveryCursor { created_at: LATEST, delivery_id: DeliveryId::from_uuid(Uuid::max()) },
        };
        let cursor = given.one("cursor")?.map(|token| {
            let unreadable = || QueryParams::invalid("cursor", "is not a cursor that this organization was given");
            DeliveryCursor::open(key, organization, token).ok_or_else(unreadable)
        });
        Ok(Self {
            limit: given.parse_in_range("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT),
            states: parse_states(given)?,
            event_types: restricted(parse_event_types(given)?, allowed),
            from: given.time("from")?.unwrap_or(EARLIEST),
            before: cursor.transpose()?.map_or(end, |cursor| cursor.min(end)),
        })
    }

    /// Whether deliveries that wait for their first attempt are wanted.
    pub(super) fn wants_pending(&self) -> bool {
        self.states.contains(&DeliveryState::Pending)
    }

    /// The names of the other wanted states: those that the view has.
    pub(super) fn tried_states(&self) -> Vec<&'static str> {
        let tried = self.states.iter().filter(|state| **state != DeliveryState::Pending);
        tried.map(|state| state.as_str()).collect()
    }

    /// Whether a delivery is wanted on this page or a later one.
    pub(super) fn matches(&self, item: &DeliveryItem) -> bool {
        self.states.iter().any(|state| state.as_str() == item.status)
            && self.event_types.as_ref().is_none_or(|types| types.contains(&item.event_type))
            && item.created_at.0 >= self.from
            && item.sort_key() < self.before
    }
}

fn parse_states(given: &QueryParams) -> Result<Vec<DeliveryState>, Problem> {
    let mut states = Vec::new();
    for text in given.all("status") {
        let state = DeliveryState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            QueryParams::invalid("status", "must be pending, retrying, delivered, failed or cancelled")
        })?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    Ok(if states.is_empty() { DeliveryState::ALL.to_vec() } else { states })
}

fn parse_event_types(given: &QueryParams) -> Result<Option<Vec<String>>, Problem> {
    let mut types: Vec<String> = Vec::new();
    for name in given.all("event_type") {
        check_type("event_type", name)?;
        if !types.iter().any(|one| one == name) {
            types.push(name.to_owned());
        }
        if types.len() > MAX_TYPES {
            return Err(QueryParams::invalid("event_type", "is given more than 20 times"));
        }
    }
    Ok(if types.is_empty() { None } else { Some(types) })
}

/// Checks an event type that the parameter or member `field` names.
pub(super) fn check_type(field: &str, name: &str) -> Result<(), Problem> {
    if !is_event_type_name(name) {
        return Err(QueryParams::invalid(field, "must be 1 to 255 characters without control characters"));
    }
    Ok(())
}

/// The wanted types that the key may see.
fn restricted(wanted: Option<Vec<String>>, allowed: Option<&[String]>) -> Option<Vec<String>> {
    match (wanted, allowed) {
        (wanted, None) => wanted,
        (None, Some(allowed)) => Some(allowed.to_vec()),
        (Some(mut wanted), Some(allowed)) => {
            wanted.retain(|name| allowed.contains(name));
            Some(wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey::from_bytes([3; 32])
    }

    fn parse_for(org: OrgId, query: &str, allowed: Option<&[String]>) -> Result<ListRequest, Problem> {
        let params = QueryParams::of(&format!("/deliveries?{query}").parse().unwrap()).unwrap();
        ListRequest::parse(&params, allowed, (&key(), org))
    }

    fn parse(query: &str) -> Result<ListRequest, Problem> {
        parse_for(OrgId::generate(), query, None)
    }

    #[test]
    fn without_parameters_everything_is_wanted() {
        let request = parse("").unwrap();
        assert_eq!((request.limit, request.states.len(), &request.event_types), (50, 5, &None));
        assert_eq!(request.tried_states(), ["retrying", "delivered", "failed", "cancelled"]);
        assert!(request.wants_pending());
    }

    #[test]
    fn parameters_are_read_and_repeated_ones_joined() {
        let query = "limit=7&status=failed&status=retrying&status=failed&event_type=a&event_type=b&event_type=a\
                     &from=2026-11-21T09:00:00Z&to=2026-11-22T09:00:00Z";
        let request = parse(query).unwrap();
        assert_eq!((request.limit, request.tried_states()), (7, vec!["failed", "retrying"]));
        assert!(!request.wants_pending());
        assert_eq!(request.event_types, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(request.from, datetime!(2026-11-21 9:00 UTC));
        let end = DeliveryCursor {
            created_at: datetime!(2026-11-22 9:00 UTC),
            delivery_id: DeliveryId::from_uuid(Uuid::nil()),
        };
        assert_eq!(request.before, end, "the end is exclusive");
    }

    #[test]
    fn invalid_parameters_are_named() {
        let long = format!("event_type={}", "x".repeat(256));
        let many: String = (0..21).map(|n| format!("event_type=t{n}&")).collect();
        for query in [
            "limit=0",
            "limit=101",
            "status=done",
            "status=",
            "event_type=",
            long.as_str(),
            many.as_str(),
            "from=x",
            "to=2026-11-21",
            "cursor=",
            "cursor=abc",
        ] {
            let (field, problem) = (query.split('=').next().unwrap(), parse(query).unwrap_err());
            assert!(problem.detail().starts_with(field), "{query}: {}", problem.detail());
        }
    }

    #[test]
    fn the_earlier_of_cursor_and_end_counts() {
        let org = OrgId::generate();
        let cursor = DeliveryCursor { created_at: datetime!(2026-11-21 9:00 UTC), delivery_id: DeliveryId::generate() };
        let token = cursor.seal(&key(), org);
        assert_eq!(parse_for(org, &format!("cursor={token}"), None).unwrap().before, cursor);
        let later = format!("cursor={token}&to=2026-11-22T00:00:00Z");
        assert_eq!(parse_for(org, &later, None).unwrap().before, cursor);
        let earlier = format!("cursor={token}&to=2026-11-20T00:00:00Z");
        assert!(parse_for(org, &earlier, None).unwrap().before < cursor);
        assert!(parse(&format!("cursor={token}")).is_err(), "a cursor of another organization");
    }

    #[test]
    fn a_restricted_key_sees_only_its_types() {
        let allowed = ["a".to_owned(), "b".to_owned()];
        let types = |query| parse_for(OrgId::generate(), query, Some(&allowed)).unwrap().event_types.unwrap();
        assert_eq!(types(""), allowed);
        assert_eq!(types("event_type=b&event_type=c"), ["b"]);
        assert!(types("event_type=c").is_empty());
    }
}
