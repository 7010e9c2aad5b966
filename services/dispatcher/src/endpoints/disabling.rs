//! Endpoints that the system disables: they answered 410, or every attempt failed for too long. The organization gets
//! an event of it.

use std::time::Duration;

use http_server::Timestamp;
use schemas::ids::EndpointId;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::audit::Actor;
use time::OffsetDateTime;
use tracing::info;
use url::Url;

use super::notes::note;
use super::store::{self, StoredEndpoint};
use crate::metrics::METRICS;
use crate::system_events::{self, ENDPOINT_DISABLED};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisablingReason {
    /// It answered 410.
    Gone,
    /// Every attempt failed for at least this time.
    Failing(Duration),
}

impl DisablingReason {
    /// The name in the database and in JSON.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing(_) => "failing",
        }
    }
}

/// Disables an endpoint, unless it is disabled or deleted already, or does not fail any more. `notifies`: the
/// organization gets an event.
pub(crate) async fn disable(
    pool: &PgPool,
    id: EndpointId,
    reason: DisablingReason,
    notifies: bool,
) -> Result<(), sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    let version = store::raise_version(&mut transaction).await?;
    // Before its condition, as in every change of an endpoint. Dropping the transaction rolls the version back.
    sqlx::query("SELECT FROM endpoints WHERE id = $1 FOR UPDATE").bind(id.as_uuid()).execute(&mut *transaction).await?;
    let failing_since = match (failing_since(&mut transaction, id).await?, reason) {
        (Some((_, lasts)), DisablingReason::Failing(least)) if lasts < least.as_secs_f64() => return Ok(()),
        (None, DisablingReason::Failing(_)) => return Ok(()),
        (found, _) => found.map(|(since, _)| since),
    };
    let Some(disabled) = store::disable(&mut transaction, version, id, reason.as_str()).await? else { return Ok(()) };
    note(&mut transaction, Actor::System, None, "endpoint.disabled", &disabled).await?;
    if notifies {
        let payload = payload(&disabled, reason, failing_since);
        system_events::add(&mut transaction, disabled.org_id, ENDPOINT_DISABLED, &payload).await?;
    }
    transaction.commit().await?;
    METRICS.endpoints_disabled.with_label_values(&[reason.as_str()]).inc();
    info!(endpoint_id = %id, reason = reason.as_str(), "Endpoint disabled by the system.");
    Ok(())
}

/// Since when every attempt fails, and how long after that the last one did, seconds.
async fn failing_since(
    connection: &mut PgConnection,
    id: EndpointId,
) -> Result<Option<(OffsetDateTime, f64)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT failing_since, extract(epoch FROM last_failed_at - failing_since)::double precision
         FROM endpoint_conditions WHERE endpoint_id = $1 AND failing_since IS NOT NULL FOR UPDATE",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await
}

fn payload(endpoint: &StoredEndpoint, reason: DisablingReason, failing_since: Option<OffsetDateTime>) -> Value {
    json!({
        "endpoint_id": endpoint.id,
        "url": public_url(&endpoint.url),
        "reason": reason.as_str(),
        "failing_since": failing_since.map(Timestamp),
    })
}

/// The URL without what may be a credential: query, user, password.
fn public_url(text: &str) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    // They fail for a URL without a host, which has neither.
    let _without_user = (url.set_username(""), url.set_password(None));
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shown_url_has_no_credentials() {
        let shown = |url| public_url(url).unwrap();
        assert_eq!(shown("https://u:p@shop.example/hook?token=t#f"), "https://shop.example/hook");
        assert_eq!(shown("http://127.0.0.1:81/"), "http://127.0.0.1:81/");
        assert_eq!(public_url(""), None);
    }
}
