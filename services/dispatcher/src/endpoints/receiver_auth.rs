//! How the webhooks of an endpoint authenticate to their receiver: what a client writes, and what is shown of it. Pure.

use std::fmt;

use http_server::{FieldError, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::nested::{self, Nested, plain, visible};
use crate::attempt::client_certificate;
use crate::attempt::egress::EgressPolicy;

const PLACE: &str = "auth";
const MAX_NAME_BYTES: usize = 255;
const MAX_SECRET_BYTES: usize = 1024;
const MAX_TOKEN_BYTES: usize = 4096;
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
const MAX_KEY_BYTES: usize = 8 * 1024;

/// What is sealed. `Debug` shows the type only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ReceiverAuth {
    Basic {
        username: String,
        password: String,
    },
    Bearer {
        token: String,
    },
    OAuth2(ClientCredentials),
    Mtls {
        /// PEM: the certificate of the client, then those of authorities between it and a root.
        certificate: String,
        /// PEM.
        private_key: String,
    },
}

/// Of the grant of this name of OAuth 2.0.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientCredentials {
    /// Normalized.
    pub token_url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
    pub audience: Option<String>,
}

impl fmt::Debug for ReceiverAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverAuth").field("type", &self.kind()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EndpointAuthType)]
pub(crate) enum AuthType {
    Basic,
    Bearer,
    #[serde(rename = "oauth2")]
    OAuth2,
    Mtls,
}

/// How the webhooks of an endpoint authenticate to their receiver, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EndpointAuth, example = json!({"type": "basic", "username": "triggers"}))]
pub(crate) struct ShownAuth {
    pub r#type: AuthType,
    /// Of `basic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    username: Option<String>,
    /// Of `oauth2`. Normalized.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token_url: Option<String>,
    /// Of `oauth2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// Of `oauth2`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    scope: Option<String>,
    /// Of `oauth2`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    audience: Option<String>,
    /// Of `mtls`: the SHA-256 of the certificate, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate_sha256: Option<String>,
    /// Of `mtls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate_expires_at: Option<Timestamp>,
}

impl ReceiverAuth {
    fn kind(&self) -> AuthType {
        match self {
            Self::Basic { .. } => AuthType::Basic,
            Self::Bearer { .. } => AuthType::Bearer,
            Self::OAuth2(_) => AuthType::OAuth2,
            Self::Mtls { .. } => AuthType::Mtls,
        }
    }

    /// What everybody may see who may see the endpoint.
    pub(super) fn shown(&self) -> ShownAuth {
        let mut shown = ShownAuth {
            r#type: self.kind(),
            username: None,
            token_url: None,
            client_id: None,
            scope: None,
            audience: None,
            certificate_sha256: None,
            certificate_expires_at: None,
        };
        match self {
            Self::Basic { username, .. } => shown.username = Some(username.clone()),
            Self::Bearer { .. } => {}
            Self::OAuth2(credentials) => {
                shown.token_url = Some(credentials.token_url.clone());
                shown.client_id = Some(credentials.client_id.clone());
                shown.scope = credentials.scope.clone();
                shown.audience = credentials.audience.clone();
            }
            Self::Mtls { certificate, .. } => {
                // It was read before.
                if let Ok(described) = client_certificate::describe(certificate) {
                    shown.certificate_sha256 = Some(described.sha256_text());
                    shown.certificate_expires_at = Some(Timestamp(described.expires_at));
                }
            }
        }
        shown
    }
}

/// Reads the member `auth` of an endpoint.
///
/// # Errors
/// Every invalid member, with its place. No error repeats a value.
pub(super) fn read(value: &Value, policy: &EgressPolicy, now: OffsetDateTime) -> Result<ReceiverAuth, Vec<FieldError>> {
    let mut members = Nested::open(PLACE, value)?;
    let auth = match members.required("type", kind) {
        None => None,
        Some(AuthType::Basic) => basic(&mut members),
        Some(AuthType::Bearer) => bearer(&mut members),
        Some(AuthType::OAuth2) => client_credentials(&mut members, policy),
        Some(AuthType::Mtls) => mtls(&mut members, now),
    };
    members.finish(auth)
}

fn kind(value: &Value) -> Result<AuthType, String> {
    AuthType::deserialize(value).map_err(|_| "must be one of basic, bearer, oauth2, mtls".to_owned())
}

fn basic(members: &mut Nested) -> Option<ReceiverAuth> {
    members.refuse_unknown(&["type", "username", "password"]);
    let without_colon = |value: &Value| {
        let allowed = |c: char| !c.is_control() && c != ':';
        nested::text(value, 1..=MAX_NAME_BYTES, "UTF-8 without control characters and colons", allowed)
    };
    let username = members.required("username", without_colon);
    let password = members.required("password", |value| plain(value, 0..=MAX_SECRET_BYTES));
    Some(ReceiverAuth::Basic { username: username?, password: password? })
}

fn bearer(members: &mut Nested) -> Option<ReceiverAuth> {
    members.refuse_unknown(&["type", "token"]);
    let token = members.required("token", |value| visible(value, 1..=MAX_TOKEN_BYTES));
    Some(ReceiverAuth::Bearer { token: token? })
}

fn client_credentials(members: &mut Nested, policy: &EgressPolicy) -> Option<ReceiverAuth> {
    members.refuse_unknown(&["type", "token_url", "client_id", "client_secret", "scope", "audience"]);
    let token_url = members.required("token_url", |value| super::input::url(value, policy));
    let client_id = members.required("client_id", |value| plain(value, 1..=MAX_NAME_BYTES));
    let client_secret = members.required("client_secret", |value| plain(value, 1..=MAX_SECRET_BYTES));
    let scope = members.optional("scope", |value| {
        let allowed = |c: char| c == ' ' || (c.is_ascii_graphic() && c != '"' && c != '\\');
        nested::text(value, 1..=MAX_SECRET_BYTES, "visible ASCII characters and blanks, without \" and \\", allowed)
    });
    let audience = members.optional("audience", |value| plain(value, 1..=MAX_SECRET_BYTES));
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    Some(ReceiverAuth::OAuth2(ClientCredentials { token_url, client_id, client_secret, scope, audience }))
}

fn mtls(members: &mut Nested, now: OffsetDateTime) -> Option<ReceiverAuth> {
    members.refuse_unknown(&["type", "certificate", "private_key"]);
    let pem = |value: &Value, max| {
        let allowed = |c: char| c.is_ascii() && (!c.is_ascii_control() || c.is_ascii_whitespace());
        nested::text(value, 1..=max, "PEM", allowed)
    };
    let certificate = members.required("certificate", |value| pem(value, MAX_CERTIFICATE_BYTES));
    let private_key = members.required("private_key", |value| pem(value, MAX_KEY_BYTES));
    let (certificate, private_key) = (certificate?, private_key?);
    if let Err(problem) = client_certificate::check(&certificate, &private_key, now) {
        members.refuse(problem.member(), problem.to_string());
        return None;
    }
    Some(ReceiverAuth::Mtls { certificate, private_key })
}

#[cfg(test)]
mod tests;
