//! Self sign-up: any client may create an organization and its first key. Off unless the configuration enables it.

use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use http::{HeaderMap, header};
use http_server::{JsonBody, Problem, Timestamp};
use schemas::ids::{KeyId, OrgId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keys::{WantedKey, issue, note_created};
use super::organizations::note;
use super::reply::created_secret;
use super::validation::check_name;
use crate::audit::{Actor, Origin};
use crate::extract::is_forwarded;
use crate::organizations;
use crate::refusal::database_problem;
use crate::service::Tenancy;
use crate::tier::{self, Tier};

/// An organization that signs up. `org_name` is another name of `organization_name`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"organization_name": "Shop", "tier": "free"}))]
pub(super) struct Signup {
    #[serde(alias = "org_name")]
    #[schema(min_length = 1, max_length = 255)]
    organization_name: String,
    /// Given on loopback; elsewhere it is `free`.
    #[serde(default)]
    tier: Tier,
}

/// The new organization, and its first key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "api_key": "zap_live_8Qs2...",
    "key_id": "0192f0c1-2345-7abc-8def-0123456789af",
    "organization_id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "organization_name": "Shop",
    "tier": "free",
    "rate_limit_per_minute": 100,
    "created_at": "2026-11-21T09:00:00.123Z",
    "warning": "keep the key now: it is not shown again"
}))]
struct SignedUp<'a> {
    /// In clear text for this once. Its role is admin.
    api_key: &'a str,
    key_id: KeyId,
    organization_id: OrgId,
    organization_name: String,
    tier: Tier,
    rate_limit_per_minute: u32,
    created_at: Timestamp,
    warning: &'static str,
}

/// Checked before the body is read: a closed route costs no memory.
fn check_open(tenancy: &Tenancy, headers: &HeaderMap) -> Result<(), Problem> {
    if !tenancy.open_signup {
        return Err(Problem::forbidden("sign-up is switched off; ask the operator for a key"));
    }
    // A proxy on this machine would make a route of loopback public.
    if tenancy.on_loopback && is_forwarded(headers) {
        return Err(Problem::forbidden("sign-up on loopback is refused behind a proxy"));
    }
    // A web page can send other content types to loopback without a CORS preflight, but not this one.
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::unsupported_media_type("send application/json"));
    }
    Ok(())
}

/// Sign up
///
/// Creates an organization and its first key. Only where the operator has switched it on; bounded per address.
#[utoipa::path(
    post, path = "/keys/generate", operation_id = "sign_up", tag = "Keys",
    request_body = Signup,
    responses((status = 201, description = "The organization, and its key.", body = SignedUp)),
    extensions(("x-error-codes" = json!(["forbidden", "rate_limited"]))),
)]
pub(super) async fn generate(
    State(tenancy): State<Tenancy>,
    origin: Origin,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&tenancy, request.headers())?;
    tenancy.signups.admit(origin.address)?;
    let JsonBody(signup) = JsonBody::<Signup>::from_request(request, &tenancy).await?;
    check_name("organization_name", &signup.organization_name)?;
    // Beyond loopback anybody could ask for the largest tier.
    let tier = if tenancy.on_loopback { signup.tier } else { Tier::Free };
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let organization = organizations::insert(&mut transaction, &signup.organization_name, tier, None)
        .await
        .map_err(|error| database_problem(&error))?;
    let issued = issue(&mut transaction, organization.id, &WantedKey::admin("first key"), None).await?;
    note(&mut transaction, Actor::Anonymous, &origin, "organization.signed_up", &organization).await?;
    note_created(&mut transaction, Actor::Anonymous, &origin, organization.id, &issued.stored).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    Ok(created_secret(SignedUp {
        api_key: issued.text.reveal(),
        key_id: issued.stored.id,
        organization_id: organization.id,
        organization_name: organization.name,
        tier: organization.tier,
        rate_limit_per_minute: tier::limit_of_key(
            organization.rate_limit_per_minute,
            issued.stored.grant.rate_limit_per_minute,
        ),
        created_at: Timestamp(organization.created_at),
        warning: "keep the key now: it is not shown again",
    }))
}
