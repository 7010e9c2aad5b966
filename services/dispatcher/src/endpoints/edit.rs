//! A new endpoint, and the change of one. Pure, but for ids, secrets and the time.

use std::time::Duration;

use http_server::FieldError;
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use time::OffsetDateTime;
use url::Url;

use super::credentials::{self, StoredCredentials};
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
        ordered: false,
        ack_on_success: false,
        sealed_secret: Some(secrets::seal_secret(sealing, id, &secret)),
        sealed_previous_secret: None,
        previous_expires_at: None,
        credentials: StoredCredentials::default(),
        max_in_flight: None,
        rate_limit_per_second: None,
        timeout_seconds: signed(DEFAULT_TIMEOUT_SECONDS),
        retry_schedule: DEFAULT_DELAYS_SECONDS.map(signed).to_vec(),
        enabled: true,
        disabled_reason: None,
        disabled_at: None,
        is_default: false,
        batch: None,
        version: 0,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    (endpoint, secret)
}

/// What must hold of an endpoint as a whole.
///
/// # Errors
/// The fields that contradict others.
pub(super) fn check(endpoint: &StoredEndpoint, sealing: &SealingKey) -> Result<(), Vec<FieldError>> {
    let mut errors = credentials::check(endpoint, sealing).err().unwrap_or_default();
    if endpoint.ordered && endpoint.batch.is_some() {
        errors.push(FieldError::new("batch", "must be null for an ordered endpoint: a batch has one answer for all"));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

pub(super) fn apply(endpoint: &mut StoredEndpoint, patch: EndpointPatch, sealing: &SealingKey) {
    let EndpointPatch {
        url,
        event_types,
        filter,
        description,
        headers,
        auth,
        compat_signature,
        ordered,
        ack_on_success,
        max_in_flight,
        rate_limit_per_second,
        timeout_seconds,
        retry_schedule,
        enabled,
        batch,
    } = patch;
    if let Some(url) = url {
        // The headers may be credentials for the receiver, as `auth` is: they do not go to another one.
        if !is_same_origin(&endpoint.url, &url) {
            endpoint.sealed_headers = None;
            endpoint.credentials.set_auth(sealing, endpoint.id, None);
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
    if let Some(auth) = auth {
        endpoint.credentials.set_auth(sealing, endpoint.id, auth.as_ref());
    }
    if let Some(signature) = compat_signature {
        endpoint.credentials.set_compat_signature(sealing, endpoint.id, signature.as_ref());
    }
    if let Some(ordered) = ordered {
        endpoint.ordered = ordered;
    }
    if let Some(ack_on_success) = ack_on_success {
        endpoint.ack_on_success = ack_on_success;
    }
    if let Some(max_in_flight) = max_in_flight {
        endpoint.max_in_flight = max_in_flight.map(signed);
    }
    if let Some(rate_limit_per_second) = rate_limit_per_second {
        endpoint.rate_limit_per_second = rate_limit_per_second.map(signed);
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
            endpoint.disabled_at = (!enabled).then(OffsetDateTime::now_utc);
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
    use crate::endpoints::receiver_auth::ReceiverAuth;

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

    #[test]
    fn auth_stays_only_while_the_origin_does() {
        let sealing = SealingKey::from_bytes([1; 32]);
        let auth = Some(Some(ReceiverAuth::Bearer { token: "t".to_owned() }));
        let (mut endpoint, _) = new_endpoint(&sealing, OrgId::generate(), "https://a.example/x".to_owned());
        let mut has_auth = |url: Option<&str>, auth| {
            let patch = EndpointPatch { url: url.map(str::to_owned), auth, ..EndpointPatch::default() };
            apply(&mut endpoint, patch, &sealing);
            (endpoint.credentials.auth.is_some(), endpoint.credentials.sealed_auth.is_some())
        };
        assert_eq!(has_auth(None, auth.clone()), (true, true));
        assert_eq!(has_auth(Some("https://a.example/y"), None), (true, true));
        assert_eq!(has_auth(Some("https://b.example/"), None), (false, false));
        assert_eq!(has_auth(Some("https://c.example/"), auth), (true, true), "auth that is given again");
        assert_eq!(has_auth(None, Some(None)), (false, false), "null removes it");
    }
}
