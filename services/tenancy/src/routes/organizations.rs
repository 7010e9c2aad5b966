//! Routes of the operator for organizations.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use http_server::{JsonBody, PatchMember, PathId, Problem, QueryParams};
use schemas::ids::OrgId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::PgConnection;
use utoipa::ToSchema;

use super::managers::OrganizationManager;
use super::reply::{OrganizationReply, organization_example};
use super::validation::{check_name, forbidden, invalid};
use crate::audit::{self, Actor, Change, Origin};
use crate::default_endpoint::DefaultEndpoint;
use crate::grant::Fault;
use crate::operator::Operator;
use crate::organizations::{self, Organization, OrganizationChange};
use crate::refusal::database_problem;
use crate::service::Tenancy;
use crate::tier::Tier;

const DEFAULT_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1_000;

/// An organization to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Shop", "tier": "pro"}))]
pub(super) struct NewOrganization {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    #[serde(default)]
    tier: Tier,
    /// Absent or null: that of the tier. 0: unlimited.
    #[schema(minimum = 0, maximum = 2147483647)]
    rate_limit_per_minute: Option<u32>,
    /// URL of a default endpoint.
    webhook_url: Option<String>,
}

impl NewOrganization {
    fn check(&self) -> Result<(), Problem> {
        check_name("name", &self.name)?;
        check_limit(self.rate_limit_per_minute)
    }
}

fn check_limit(limit: Option<u32>) -> Result<(), Problem> {
    if limit.is_some_and(|limit| i32::try_from(limit).is_err()) {
        return Err(invalid(Fault { field: "rate_limit_per_minute", reason: "too large" }));
    }
    Ok(())
}

/// Create an organization
#[utoipa::path(
    post, path = "/organizations", operation_id = "create_organization", tag = "Organizations",
    request_body = NewOrganization,
    responses((status = 201, description = "The organization.", body = OrganizationReply)),
    security(("operator" = [])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints"]))),
)]
pub(super) async fn create(
    _: Operator,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    JsonBody(new): JsonBody<NewOrganization>,
) -> Result<impl IntoResponse, Problem> {
    new.check()?;
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let mut made = organizations::insert(&mut transaction, &new.name, new.tier, new.rate_limit_per_minute)
        .await
        .map_err(|error| database_problem(&error))?;
    let endpoint = set_default_endpoint(&tenancy, &mut transaction, made.id, new.webhook_url.as_deref()).await?;
    made.webhook_url = endpoint.as_ref().map(|endpoint| endpoint.url.clone());
    note(&mut transaction, Actor::Operator, &origin, "organization.created", &made).await?;
    note_endpoint(&mut transaction, Actor::Operator, &origin, endpoint.as_ref()).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    Ok((StatusCode::CREATED, Json(OrganizationReply::new(made, endpoint))))
}

/// Sets the URL of the organization's default endpoint, if there is one in the request. The endpoint is changed before
/// the organization, in the order in which other transactions lock them.
async fn set_default_endpoint(
    tenancy: &Tenancy,
    conn: &mut PgConnection,
    id: OrgId,
    url: Option<&str>,
) -> Result<Option<DefaultEndpoint>, Problem> {
    let Some(url) = url else { return Ok(None) };
    let Some(set) = &tenancy.set_default_endpoint else {
        return Err(invalid(Fault { field: "webhook_url", reason: "this server has no webhooks" }));
    };
    set(conn, id, url).await.map(Some)
}

async fn note_endpoint(
    conn: &mut PgConnection,
    actor: Actor,
    origin: &Origin,
    endpoint: Option<&DefaultEndpoint>,
) -> Result<(), Problem> {
    let Some(DefaultEndpoint { change, detail, .. }) = endpoint else { return Ok(()) };
    audit::append(conn, actor, Some(origin), *change, detail).await.map_err(|error| database_problem(&error))
}

/// Read an organization
#[utoipa::path(
    get, path = "/organizations/{id}", operation_id = "get_organization", tag = "Organizations",
    params(("id" = OrgId, Path, description = "Id of the organization.")),
    responses((status = 200, description = "The organization.", body = OrganizationReply)),
    security(("operator" = [])),
)]
pub(super) async fn show(
    _: Operator,
    State(tenancy): State<Tenancy>,
    PathId(id): PathId<OrgId>,
) -> Result<Json<OrganizationReply>, Problem> {
    let found = organizations::find(&tenancy.pool, id).await.map_err(|error| database_problem(&error))?;
    found.map(|organization| Json(organization.into())).ok_or_else(Problem::not_found)
}

/// Appends the audit entry of a changed organization.
pub(super) async fn note(
    conn: &mut PgConnection,
    actor: Actor,
    origin: &Origin,
    action: &'static str,
    changed: &Organization,
) -> Result<(), Problem> {
    let change = Change { org_id: changed.id, action, target: changed.id.as_uuid() };
    audit::append(conn, actor, Some(origin), change, &changed.audit_detail())
        .await
        .map_err(|error| database_problem(&error))
}

/// Absent members are unchanged. Only `rate_limit_per_minute` may be null: the limit of the tier.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Market"}))]
pub(super) struct OrganizationPatch {
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    name: PatchMember<String>,
    #[serde(default)]
    #[schema(value_type = Tier)]
    tier: PatchMember<Tier>,
    /// Null: that of the tier. 0: unlimited.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2147483647)]
    rate_limit_per_minute: PatchMember<Option<u32>>,
    /// URL of the default endpoint.
    #[serde(default)]
    #[schema(value_type = String)]
    webhook_url: PatchMember<String>,
}

/// Change an organization
///
/// The operator changes everything; a key of the role admin only the name and the URL of its own organization.
#[utoipa::path(
    patch, path = "/organizations/{id}", operation_id = "change_organization", tag = "Organizations",
    params(("id" = OrgId, Path, description = "Id of the organization.")),
    request_body = OrganizationPatch,
    responses((status = 200, description = "The changed organization.", body = OrganizationReply)),
    security(("operator" = []), ("key" = ["admin"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints"]))),
)]
pub(super) async fn patch(
    manager: OrganizationManager,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    PathId(id): PathId<OrgId>,
    JsonBody(patch): JsonBody<OrganizationPatch>,
) -> Result<Json<OrganizationReply>, Problem> {
    let OrganizationPatch {
        name: PatchMember(name),
        tier: PatchMember(tier),
        rate_limit_per_minute: PatchMember(rate_limit_per_minute),
        webhook_url: PatchMember(webhook_url),
    } = patch;
    let actor = match &manager {
        OrganizationManager::Operator => Actor::Operator,
        OrganizationManager::Key(caller) => {
            if caller.org_id != id {
                return Err(Problem::not_found());
            }
            for (field, is_given) in
                [("tier", tier.is_some()), ("rate_limit_per_minute", rate_limit_per_minute.is_some())]
            {
                if is_given {
                    return Err(forbidden(Fault { field, reason: "only the operator can change it" }));
                }
            }
            if caller.event_types.is_some() {
                return Err(Problem::forbidden("a key that is restricted to event types cannot change organizations"));
            }
            Actor::Key(caller.key_id)
        }
    };
    name.as_deref().map_or(Ok(()), |name| check_name("name", name))?;
    check_limit(rate_limit_per_minute.flatten())?;
    let change = OrganizationChange { name, tier, rate_limit_per_minute };
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let endpoint = set_default_endpoint(&tenancy, &mut transaction, id, webhook_url.as_deref()).await?;
    let changed = organizations::update(&mut transaction, id, &change)
        .await
        .map_err(|error| database_problem(&error))?
        .ok_or_else(Problem::not_found)?;
    note(&mut transaction, actor, &origin, "organization.changed", &changed).await?;
    note_endpoint(&mut transaction, actor, &origin, endpoint.as_ref()).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    // Other instances are notified; this one does not wait for the notification.
    tenancy.authenticator.cache().invalidate_organization(id);
    Ok(Json(OrganizationReply::new(changed, endpoint)))
}

/// Erase an organization
///
/// Its keys are dead at once. Its events and endpoints are deleted in the background: its status is `erasing`, then
/// `erased`.
#[utoipa::path(
    delete, path = "/organizations/{id}", operation_id = "erase_organization", tag = "Organizations",
    params(("id" = OrgId, Path, description = "Id of the organization.")),
    responses((status = 204, description = "It is being erased.")),
    security(("operator" = [])),
)]
pub(super) async fn erase(
    _: Operator,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    PathId(id): PathId<OrgId>,
) -> Result<StatusCode, Problem> {
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    if !organizations::erase(&mut transaction, id).await.map_err(|error| database_problem(&error))? {
        return Err(Problem::not_found());
    }
    let change = Change { org_id: id, action: "organization.erasing", target: id.as_uuid() };
    audit::append(&mut transaction, Actor::Operator, Some(&origin), change, &json!({}))
        .await
        .map_err(|error| database_problem(&error))?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    // Other instances are notified; this one does not wait for the notification.
    tenancy.authenticator.cache().invalidate_organization(id);
    Ok(StatusCode::NO_CONTENT)
}

/// A page of organizations.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrganizationPage, example = json!({
    "organizations": [organization_example()], "next_cursor": null, "has_more": false
}))]
pub(super) struct Page {
    organizations: Vec<OrganizationReply>,
    /// The last id of the page, if there are more.
    next_cursor: Option<OrgId>,
    has_more: bool,
}

/// List the organizations
#[utoipa::path(
    get, path = "/organizations", operation_id = "list_organizations", tag = "Organizations",
    params(
        ("limit" = Option<i64>, Query, description = "Organizations on a page. Default 100.", minimum = 1,
            maximum = 1000, example = 100),
        ("cursor" = Option<OrgId>, Query, description = "`next_cursor` of the page before."),
    ),
    responses((status = 200, description = "A page.", body = Page)),
    security(("operator" = [])),
)]
pub(super) async fn list(
    _: Operator,
    State(tenancy): State<Tenancy>,
    query: QueryParams,
) -> Result<Json<Page>, Problem> {
    let limit = query.parse_in_range("limit", 1..=LARGEST_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let after = match query.one("cursor")? {
        None => None,
        Some(text) => {
            Some(text.parse::<OrgId>().map_err(|_| QueryParams::invalid("cursor", "is not a cursor of this route"))?)
        }
    };
    // Reads one more than requested to learn whether there are more.
    let mut found =
        organizations::list(&tenancy.pool, after, limit + 1).await.map_err(|error| database_problem(&error))?;
    let has_more = i64::try_from(found.len()).is_ok_and(|count| count > limit);
    if has_more {
        found.pop();
    }
    let next_cursor = found.last().filter(|_| has_more).map(|organization| organization.id);
    Ok(Json(Page { organizations: found.into_iter().map(OrganizationReply::from).collect(), next_cursor, has_more }))
}
