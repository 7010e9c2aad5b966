//! The route of the audit log.

use axum::Json;
use axum::extract::State;
use http_server::{Parameter, Problem, QueryParams, Timestamp};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::managers::KeyManager;
use crate::audit::{self, Entry, Filter};
use crate::refusal::database_problem;
use crate::service::Tenancy;

const DEFAULT_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1_000;

#[derive(Debug, Serialize)]
pub(super) struct Page {
    entries: Vec<EntryReply>,
    /// The position of the last entry of the page, if there are more.
    next_cursor: Option<String>,
    has_more: bool,
}

#[derive(Debug, Serialize)]
struct EntryReply {
    at: Timestamp,
    actor: String,
    key_id: Option<Uuid>,
    key_prefix: Option<String>,
    action: String,
    target: Uuid,
    detail: Value,
    address: Option<String>,
    request_id: Option<String>,
}

impl From<Entry> for EntryReply {
    fn from(entry: Entry) -> Self {
        Self {
            at: Timestamp(entry.at),
            actor: entry.actor,
            key_id: entry.key_id,
            key_prefix: entry.key_prefix,
            action: entry.action,
            target: entry.target,
            detail: entry.detail,
            address: entry.address,
            request_id: entry.request_id,
        }
    }
}

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::one("limit"),
    Parameter::one("cursor"),
    Parameter::one("action"),
    Parameter::one("since"),
    Parameter::one("until"),
];

/// Newest first.
pub(super) async fn list(
    KeyManager(caller): KeyManager,
    State(tenancy): State<Tenancy>,
    query: QueryParams,
) -> Result<Json<Page>, Problem> {
    if caller.event_types.is_some() {
        return Err(Problem::forbidden("a key that is restricted to event types cannot read the audit log"));
    }
    let limit = query.parse_in_range("limit", 1..=LARGEST_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let filter = Filter {
        action: query.one("action")?,
        since: time_of(&query, "since")?,
        until: time_of(&query, "until")?,
        before: query.parse_in_range("cursor", 1..=i64::MAX)?,
    };
    if filter.action.is_some_and(|action| action.contains('\0')) {
        return Err(QueryParams::invalid("action", "is not the name of an action"));
    }
    // Reads one more than requested to learn whether there are more.
    let mut found = audit::list(&tenancy.pool, caller.org_id, &filter, limit + 1)
        .await
        .map_err(|error| database_problem(&error))?;
    let has_more = i64::try_from(found.len()).is_ok_and(|count| count > limit);
    if has_more {
        found.pop();
    }
    let next_cursor = found.last().filter(|_| has_more).map(|entry| entry.id.to_string());
    Ok(Json(Page { entries: found.into_iter().map(EntryReply::from).collect(), next_cursor, has_more }))
}

fn time_of(query: &QueryParams, name: &str) -> Result<Option<OffsetDateTime>, Problem> {
    let parse = |text: &str| {
        OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| QueryParams::invalid(name, "must be a time such as 2026-01-31T12:00:00Z"))
    };
    query.one(name)?.map(parse).transpose()
}
