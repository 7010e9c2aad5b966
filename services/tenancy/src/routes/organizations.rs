//! Routes of the operator for organizations.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{StatusCode, Uri};
use http_server::{JsonBody, Parameter, PathId, Problem, QueryParams};
use schemas::ids::OrgId;
use serde::{Deserialize, Serialize};

use super::reply::OrganizationReply;
use super::validation::{check_name, invalid};
use crate::grant::Fault;
use crate::operator::Operator;
use crate::organizations;
use crate::refusal::database_problem;
use crate::service::Tenancy;
use crate::tier::Tier;

const LONGEST_URL_BYTES: usize = 2_048;
const DEFAULT_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1_000;

#[derive(Debug, Deserialize)]
pub(super) struct NewOrganization {
    name: String,
    #[serde(default)]
    tier: Tier,
    rate_limit_per_minute: Option<u32>,
    webhook_url: Option<String>,
}

impl NewOrganization {
    fn check(&self) -> Result<(), Problem> {
        check_name("name", &self.name)?;
        if self.rate_limit_per_minute.is_some_and(|limit| i32::try_from(limit).is_err()) {
            return Err(invalid(Fault { field: "rate_limit_per_minute", reason: "too large" }));
        }
        if self.webhook_url.as_deref().is_some_and(|url| !is_web_url(url)) {
            return Err(invalid(Fault {
                field: "webhook_url",
                reason: "an http or https URL without user-info, at most 2048 bytes",
            }));
        }
        Ok(())
    }
}

/// Checks the format only; the dispatcher decides at each attempt whether it may send to the URL.
fn is_web_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    text.len() <= LONGEST_URL_BYTES
        && matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.as_str().contains('@')
}

pub(super) async fn create(
    _: Operator,
    State(tenancy): State<Tenancy>,
    JsonBody(new): JsonBody<NewOrganization>,
) -> Result<impl IntoResponse, Problem> {
    new.check()?;
    let mut conn = tenancy.pool.acquire().await.map_err(|error| database_problem(&error))?;
    let made =
        organizations::insert(&mut conn, &new.name, new.tier, new.rate_limit_per_minute, new.webhook_url.as_deref())
            .await
            .map_err(|error| database_problem(&error))?;
    Ok((StatusCode::CREATED, Json(OrganizationReply::from(made))))
}

pub(super) async fn show(
    _: Operator,
    State(tenancy): State<Tenancy>,
    PathId(id): PathId<OrgId>,
) -> Result<Json<OrganizationReply>, Problem> {
    let found = organizations::find(&tenancy.pool, id).await.map_err(|error| database_problem(&error))?;
    found.map(|organization| Json(organization.into())).ok_or_else(Problem::not_found)
}

/// Answers when the tombstone is committed. The slices delete the rows afterwards; `GET` then shows status `erased`.
pub(super) async fn erase(
    _: Operator,
    State(tenancy): State<Tenancy>,
    PathId(id): PathId<OrgId>,
) -> Result<StatusCode, Problem> {
    if !organizations::erase(&tenancy.pool, id).await.map_err(|error| database_problem(&error))? {
        return Err(Problem::not_found());
    }
    // Other instances are notified; this one does not wait for the notification.
    tenancy.authenticator.cache().invalidate_organization(id);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    organizations: Vec<OrganizationReply>,
    /// The last id of the page, if there are more.
    next_cursor: Option<OrgId>,
    has_more: bool,
}

/// The query parameters of `GET /organizations`.
pub(super) const PARAMETERS: &[Parameter] = &[Parameter::one("limit"), Parameter::one("cursor")];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_without_user_info_are_webhook_urls() {
        assert!(is_web_url("https://example.com/hook?x=1"));
        assert!(is_web_url("http://localhost:9000"));
        for bad in ["", "example.com", "/hook", "ftp://example.com/", "https://user:secret@example.com/", "https://"] {
            assert!(!is_web_url(bad), "{bad}");
        }
    }
}
