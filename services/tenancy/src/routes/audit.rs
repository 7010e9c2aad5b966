//! The route of the audit log.

use axum::Json;
use axum::extract::State;
use http_server::{Problem, QueryParams, Timestamp};
use schemas::ids::{KeyId, OrgId};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit::{self, Entry, Filter};
use crate::extract::Manager;
use crate::refusal::database_problem;
use crate::service::Tenancy;

const DEFAULT_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1_000;
/// Purpose of the cursor's seal.
const CURSOR: &str = "audit";

/// Entries of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditPage, example = json!({
    "entries": [{
        "at": "2026-11-21T09:00:00.123Z",
        "actor": "key",
        "key_id": "0192f0c1-2345-7abc-8def-0123456789af",
        "key_prefix": "zap_live_8Qs2",
        "action": "key.created",
        "target": "0192f0c1-2345-7abc-8def-0123456789af",
        "detail": {"name": "shop", "role": "produce"},
        "address": "203.0.113.7",
        "request_id": "0192f0c1-2345-7abc-8def-0123456789ab"
    }],
    "next_cursor": null,
    "has_more": false
}))]
pub(super) struct Page {
    entries: Vec<EntryReply>,
    /// The position of the last entry of the page, if there are more.
    next_cursor: Option<String>,
    has_more: bool,
}

/// Who changed what, when, from where.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryReply {
    at: Timestamp,
    /// `key`, `operator`, `anonymous`, or who else changed it.
    actor: String,
    /// The key, if one did it.
    #[schema(value_type = Option<KeyId>)]
    key_id: Option<Uuid>,
    key_prefix: Option<String>,
    /// What was done, such as `key.created`.
    action: String,
    /// Id of what was changed.
    #[schema(value_type = String, format = "uuid")]
    target: Uuid,
    /// What it is after the change, without secrets.
    detail: Value,
    /// Address of the client.
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

/// Read the audit log
///
/// Who changed what, when, from where. Newest first. Entries are never changed.
#[utoipa::path(
    get, path = "/audit", operation_id = "list_audit", tag = "Keys",
    params(
        ("limit" = Option<i64>, Query, description = "Entries on a page. Default 100.", minimum = 1, maximum = 1000,
            example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("action" = Option<String>, Query, description = "Only this action.", example = "key.created"),
        ("since" = Option<Timestamp>, Query, description = "At this time or later.",
            example = "2026-11-21T09:00:00Z"),
        ("until" = Option<Timestamp>, Query, description = "Before this time.", example = "2026-11-22T09:00:00Z"),
    ),
    responses((status = 200, description = "A page.", body = Page)),
    security(("key" = ["manage"])),
)]
pub(super) async fn list(
    Manager(caller): Manager,
    State(tenancy): State<Tenancy>,
    query: QueryParams,
) -> Result<Json<Page>, Problem> {
    if caller.event_types.is_some() {
        return Err(Problem::forbidden("a key that is restricted to event types cannot read the audit log"));
    }
    let limit = query.parse_in_range("limit", 1..=LARGEST_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let filter = Filter {
        action: query.one("action")?,
        since: query.time("since")?,
        until: query.time("until")?,
        before: query.one("cursor")?.map(|token| open_cursor(&tenancy, caller.org_id, token)).transpose()?,
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
    let next_cursor = found.last().filter(|_| has_more).map(|entry| seal_cursor(&tenancy, caller.org_id, entry.id));
    Ok(Json(Page { entries: found.into_iter().map(EntryReply::from).collect(), next_cursor, has_more }))
}

/// The id counts the entries of all organizations: in clear text it would show how many there are.
fn seal_cursor(tenancy: &Tenancy, org_id: OrgId, id: i64) -> String {
    tenancy.sealing.seal_token(CURSOR, org_id.as_uuid().as_bytes(), &id.to_be_bytes())
}

fn open_cursor(tenancy: &Tenancy, org_id: OrgId, token: &str) -> Result<i64, Problem> {
    let opened = tenancy.sealing.open_token(CURSOR, org_id.as_uuid().as_bytes(), token);
    let id = opened.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
    id.ok_or_else(|| QueryParams::invalid("cursor", "is not a cursor that this organization was given"))
}
