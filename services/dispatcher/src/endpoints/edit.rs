//! A new endpoint, and the change of one. Pure, but for ids, secrets and the time.

use std::time::Duration;

use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use time::OffsetDateTime;
use url::Url;

use super::input::{DEFAULT_TIMEOUT_SECONDS, EndpointPatch};
use super::secrets;
use super::store::StoredEndpoint;
use crate::attempt::sign::Secret;
use crate::delivery::signed;
use crate::retry::policy::DEFAULT_DELAYS_SECONDS;

pub(super) fn new_endpoint(sealing: &SealingKey, org_id: OrgId, url: String) -> (StoredEndpoint, Secret) {
    let (id, secret) = (EndpointId::generate(), Secret::generate());
    let now = OffsetDateTime::now_utc();
    let endpoint = StoredEndpoint {
        id,
        org_id,
        url,
        event_types: Vec::new(),
        filter: None,
        description: None,
        sealed_headers: None,
        sealed_secret: Some(secrets::seal_secret(sealing, id, &secret)),
        sealed_previous_secret: None,
        previous_expires_at: None,
        max_in_flight: None,
        timeout_seconds: signed(DEFAULT_TIMEOUT_SECONDS),
        retry_schedule: DEFAULT_DELAYS_SECONDS.map(signed).to_vec(),
        enabled: true,
        disabled_reason: None,
        is_default: false,
        batch: None,
        version: 0,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    (endpoint, secret)
}

pub(super) fn apply(endpoint: &mut StoredEndpoint, patch: EndpointPatch, sealing: &SealingKey) {
    let EndpointPatch {
        url,
        event_types,
        filter,
        description,
        headers,
        max_in_flight,
        timeout_seconds,
        retry_schedule,
        enabled,
        batch,
    } = patch;
    if let Some(url) = url {
        // The headers may be credentials for the receiver: they do not go to another one.
        if !is_same_origin(&endpoint.url, &url) {
            endpoint.sealed_headers = None;
        }
        endpoint.url = url;
    }
    if let Some(event_types) = event_types {
        endpoint.event_types = event_types;
    }
    if let Some(filter) = filter {
        endpoint.filter = filter;
    }
    if let Some(description) = description {
        endpoint.description = description;
    }
    if let Some(headers) = headers {
        endpoint.sealed_headers = secrets::seal_headers(sealing, endpoint.id, &headers);
    }
    if let Some(max_in_flight) = max_in_flight {
        endpoint.max_in_flight = max_in_flight.map(signed);
    }
    if let Some(timeout_seconds) = timeout_seconds {
        endpoint.timeout_seconds = signed(timeout_seconds);
    }
    if let Some(retry_schedule) = retry_schedule {
        endpoint.retry_schedule = retry_schedule.into_iter().map(signed).collect();
    }
    if let Some(batch) = batch {
        endpoint.batch = batch.map(|settings| settings.to_json());
    }
    if let Some(enabled) = enabled {
        // Disabling a disabled endpoint keeps its reason.
        if enabled != endpoint.enabled {
            endpoint.disabled_reason = (!enabled).then(|| "requested".to_owned());
        }
        endpoint.enabled = enabled;
    }
}

/// Gives the endpoint a new secret. The old one signs beside it until `now` plus the overlap, and replaces an older one
/// that still does.
pub(super) fn rotate(
    endpoint: &mut StoredEndpoint,
    secret: &Secret,
    overlap: Duration,
    sealing: &SealingKey,
    now: OffsetDateTime,
) {
    let old = endpoint.sealed_secret.replace(secrets::seal_secret(sealing, endpoint.id, secret));
    endpoint.sealed_previous_secret = old.filter(|_| overlap > Duration::ZERO);
    endpoint.previous_expires_at = endpoint.sealed_previous_secret.as_ref().map(|_| now + overlap);
}

fn is_same_origin(old: &str, new: &str) -> bool {
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    origin(old).is_some() && origin(old) == origin(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_stay_only_while_the_origin_does() {
        let sealing = SealingKey::from_bytes([1; 32]);
        let url = |url: &str| Some(url.to_owned());
        let headers = Some(vec![("x-a".to_owned(), "1".to_owned())]);
        let (mut endpoint, _) = new_endpoint(&sealing, OrgId::generate(), "https://a.example/x".to_owned());
        let mut has_headers = |patch| {
            apply(&mut endpoint, patch, &sealing);
            endpoint.sealed_headers.is_some()
        };
        assert!(has_headers(EndpointPatch { headers: headers.clone(), ..EndpointPatch::default() }));
        assert!(has_headers(EndpointPatch { url: url("https://a.example:443/y"), ..EndpointPatch::default() }));
        for other in ["https://a.example:444/", "http://a.example/", "https://b.example/"] {
            assert!(!has_headers(EndpointPatch { url: url(other), ..EndpointPatch::default() }), "{other}");
            let given =
                EndpointPatch { url: url("https://a.example/"), headers: headers.clone(), ..Default::default() };
            assert!(has_headers(given), "headers that are given again");
        }
    }
}
