//! The validated query parameters of `GET /inbox`. Pure.

use std::time::Duration;

use http_server::{Problem, QueryParams};
use runtime::seal::SealingKey;
use schemas::event_json::is_event_type_name;
use schemas::ids::OrgId;
use schemas::position::RecordPosition;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::cursor::{InboxCursor, SortOrder};
use crate::position_token;

const MAX_LIMIT: usize = 1000;
const MAX_WAIT_SECONDS: u64 = 30;
/// Bound of each repeatable parameter.
const MAX_REPEATS: usize = 100;

/// Values of absent parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListDefaults {
    /// Events on a page.
    pub limit: usize,
    pub order: SortOrder,
}

/// Summary of an event's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum DeliveryStatus {
    /// One was not tried yet, or there is none.
    Pending,
    /// One waits for its next attempt.
    Retrying,
    /// All succeeded.
    Delivered,
    /// One failed for good.
    Failed,
}

/// Which events to return.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filter {
    /// One of these types; `None`: any.
    pub event_types: Option<Vec<String>>,
    pub status: Option<DeliveryStatus>,
    /// Accepted at or after.
    pub since: Option<OffsetDateTime>,
    /// Accepted before.
    pub until: Option<OffsetDateTime>,
    /// Acknowledged ones too.
    pub include_acknowledged: bool,
}

impl Filter {
    /// Whether an event that does not match now never will. Then the cursor may move past it.
    pub(super) const fn is_final(&self) -> bool {
        self.status.is_none() && self.until.is_none()
    }

    /// Whether every event that is not acknowledged matches.
    pub(super) const fn lists_all_open(&self) -> bool {
        self.is_final() && self.event_types.is_none() && self.since.is_none()
    }

    /// Leaves only what a key with these event types may see.
    pub(super) fn restrict(&mut self, allowed: Option<&[String]>) {
        let Some(allowed) = allowed else { return };
        match &mut self.event_types {
            Some(wanted) => wanted.retain(|name| allowed.contains(name)),
            None => self.event_types = Some(allowed.to_vec()),
        }
    }

    /// Whether no event can match.
    pub(super) fn is_empty(&self) -> bool {
        self.event_types.as_ref().is_some_and(Vec::is_empty)
    }
}

/// A read of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListRequest {
    /// Events on a page, 1 to 1,000.
    pub limit: usize,
    /// Direction; the cursor's when there is one.
    pub order: SortOrder,
    /// The cursor, as sent and parsed.
    pub cursor: Option<(String, InboxCursor)>,
    pub filter: Filter,
    /// The view must show these records first.
    pub min_positions: Vec<RecordPosition>,
    /// How long to wait for a first event, at most 30 s.
    pub wait: Duration,
}

impl ListRequest {
    /// Reads the parameters that `GET /inbox` describes.
    ///
    /// # Errors
    /// The invalid code, naming the first parameter at fault. A cursor or position of another organization is one.
    pub(super) fn parse(
        given: &QueryParams,
        defaults: ListDefaults,
        key: &SealingKey,
        organization: OrgId,
    ) -> Result<Self, Problem> {
        let wanted_order = given.one("order")?.map(parse_order).transpose()?;
        let cursor = match given.one("cursor")? {
            None => None,
            Some(token) => Some((token.to_owned(), parse_cursor(token, wanted_order, key, organization)?)),
        };
        let order = cursor.as_ref().map(|(_, cursor)| cursor.order()).or(wanted_order).unwrap_or(defaults.order);
        let filter = Filter {
            event_types: parse_event_types(repeated(given, "event_type")?)?,
            status: given.one("status")?.map(parse_status).transpose()?,
            since: given.time("since")?,
            until: given.time("until")?,
            include_acknowledged: given.flag("include_acknowledged")?.unwrap_or(false),
        };
        let min_positions = repeated(given, "min_position")?.into_iter().map(|token| {
            position_token::open(key, organization, token).ok_or_else(|| {
                QueryParams::invalid("min_position", "is not a position that this organization was given")
            })
        });
        Ok(Self {
            limit: given.parse_in_range("limit", 1..=MAX_LIMIT)?.unwrap_or(defaults.limit),
            order,
            cursor,
            filter,
            min_positions: min_positions.collect::<Result<_, _>>()?,
            wait: Duration::from_secs(given.parse_in_range("wait", 0..=MAX_WAIT_SECONDS)?.unwrap_or(0)),
        })
    }
}

fn parse_cursor(
    token: &str,
    wanted: Option<SortOrder>,
    key: &SealingKey,
    organization: OrgId,
) -> Result<InboxCursor, Problem> {
    let unreadable = |_| QueryParams::invalid("cursor", "is not a cursor that this organization was given");
    let cursor = InboxCursor::open(key, organization, token).map_err(unreadable)?;
    // Without an explicit order the cursor has it: /api reads newest first, and its resume cursor is ascending.
    if wanted.is_some_and(|order| order != cursor.order()) {
        return Err(QueryParams::invalid("cursor", "has the other order; leave order out"));
    }
    Ok(cursor)
}

fn repeated<'a>(given: &'a QueryParams, name: &str) -> Result<Vec<&'a str>, Problem> {
    let values: Vec<&str> = given.all(name).take(MAX_REPEATS + 1).collect();
    if values.len() > MAX_REPEATS {
        Err(QueryParams::invalid(name, "is given more than 100 times"))
    } else {
        Ok(values)
    }
}

fn parse_order(text: &str) -> Result<SortOrder, Problem> {
    match text {
        "asc" => Ok(SortOrder::Ascending),
        "desc" => Ok(SortOrder::Descending),
        _ => Err(QueryParams::invalid("order", "must be asc or desc")),
    }
}

fn parse_status(text: &str) -> Result<DeliveryStatus, Problem> {
    match text {
        "pending" => Ok(DeliveryStatus::Pending),
        "retrying" => Ok(DeliveryStatus::Retrying),
        "delivered" => Ok(DeliveryStatus::Delivered),
        "failed" => Ok(DeliveryStatus::Failed),
        _ => Err(QueryParams::invalid("status", "must be pending, retrying, delivered or failed")),
    }
}

fn parse_event_types(names: Vec<&str>) -> Result<Option<Vec<String>>, Problem> {
    if !names.iter().all(|name| is_event_type_name(name)) {
        return Err(QueryParams::invalid("event_type", "must be 1 to 255 characters without control characters"));
    }
    Ok(if names.is_empty() { None } else { Some(names.into_iter().map(str::to_owned).collect()) })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::cursor::OffsetsByPartition;
    use super::*;

    const DEFAULTS: ListDefaults = ListDefaults { limit: 50, order: SortOrder::Ascending };

    fn key() -> SealingKey {
        SealingKey::from_bytes([3; 32])
    }

    fn parse_for(organization: OrgId, query: &str) -> Result<ListRequest, Problem> {
        let params = QueryParams::of(&format!("/inbox?{query}").parse().unwrap()).unwrap();
        ListRequest::parse(&params, DEFAULTS, &key(), organization)
    }

    fn parse(query: &str) -> Result<ListRequest, Problem> {
        parse_for(OrgId::generate(), query)
    }

    #[test]
    fn absent_parameters_get_the_defaults() {
        let request = parse("unknown=x").unwrap();
        assert_eq!((request.limit, request.order, request.wait), (50, SortOrder::Ascending, Duration::ZERO));
        assert_eq!(request.filter, Filter::default());
    }

    #[test]
    fn every_parameter_is_read() {
        let query = "limit=1000&order=desc&event_type=a&event_type=b&status=failed&since=2026-11-21T09:00:00%2B01:00\
                     &until=2026-11-22T00:00:00Z&include_acknowledged=true&wait=30";
        let request = parse(query).unwrap();
        assert_eq!(
            (request.limit, request.order, request.wait),
            (1000, SortOrder::Descending, Duration::from_secs(30))
        );
        let filter = request.filter;
        assert_eq!(filter.event_types, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(filter.since, Some(datetime!(2026-11-21 8:00 UTC)));
        assert_eq!(filter.until, Some(datetime!(2026-11-22 0:00 UTC)));
        assert!(filter.status == Some(DeliveryStatus::Failed) && filter.include_acknowledged);
    }

    #[test]
    fn invalid_parameters_are_named_in_the_error() {
        let bad = [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=",
            "limit=99999999999999999999999",
            "limit=5&limit=5",
            "wait=31",
            "wait=1.5",
            "order=ASC",
            "status=done",
            "since=yesterday",
            "until=2026-11-21",
            "include_acknowledged=yes",
            "event_type=",
            "event_type=a%00",
            "cursor=",
            "cursor=abc",
            "min_position=abc",
        ];
        for query in bad {
            let (field, problem) = (query.split('=').next().unwrap(), parse(query).unwrap_err());
            assert!(problem.detail().starts_with(field), "{query}: {}", problem.detail());
        }
        assert!(parse(&format!("event_type={}", "x".repeat(256))).is_err());
        assert!(parse(&"event_type=a&".repeat(101)).is_err());
    }

    #[test]
    fn a_cursor_brings_its_order_and_refuses_the_other() {
        let org = OrgId::generate();
        let down = InboxCursor::start(SortOrder::Descending, &OffsetsByPartition::new()).seal(&key(), org);
        assert_eq!(parse_for(org, &format!("cursor={down}")).unwrap().order, SortOrder::Descending);
        assert_eq!(
            parse_for(org, &format!("cursor={down}&order=asc")).unwrap_err().detail(),
            "cursor has the other order; leave order out"
        );
        assert!(parse(&format!("cursor={down}")).is_err(), "a cursor of another organization");
    }

    #[test]
    fn filter_is_restricted_to_the_keys_event_types() {
        let allowed = ["a".to_owned(), "b".to_owned()];
        let mut all = Filter::default();
        all.restrict(Some(&allowed));
        assert_eq!(all.event_types.as_deref(), Some(&allowed[..]));
        let mut other = Filter { event_types: Some(vec!["c".to_owned()]), ..Filter::default() };
        other.restrict(None);
        assert!(!other.is_empty());
        other.restrict(Some(&allowed));
        assert!(other.is_empty());
    }
}
