//! What an endpoint has beside its signature: how its webhooks authenticate, and the second signature. The columns of
//! both, their changes, and what fits together.

use http_server::FieldError;
use runtime::seal::SealingKey;
use schemas::ids::EndpointId;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::Json;
use sqlx::{FromRow, Row};

use super::compat_signature::{CompatSignature, ShownCompatSignature};
use super::receiver_auth::{AuthType, ReceiverAuth, ShownAuth};
use super::secrets;
use super::store::StoredEndpoint;

/// What is shown, and beside it all of it, sealed. Both or neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredCredentials {
    pub auth: Option<ShownAuth>,
    pub sealed_auth: Option<Vec<u8>>,
    pub compat_signature: Option<ShownCompatSignature>,
    pub sealed_compat_signature: Option<Vec<u8>>,
}

impl FromRow<'_, PgRow> for StoredCredentials {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let compat_signature: Option<Json<_>> = row.try_get("compat_signature")?;
        Ok(Self {
            auth: row.try_get::<Option<Json<_>>, _>("auth")?.map(|Json(auth)| auth),
            sealed_auth: row.try_get("sealed_auth")?,
            compat_signature: compat_signature.map(|Json(signature)| signature),
            sealed_compat_signature: row.try_get("sealed_compat_signature")?,
        })
    }
}

impl StoredCredentials {
    pub(super) fn set_auth(&mut self, key: &SealingKey, id: EndpointId, auth: Option<&ReceiverAuth>) {
        self.auth = auth.map(ReceiverAuth::shown);
        self.sealed_auth = auth.map(|auth| secrets::seal_auth(key, id, auth));
    }

    pub(super) fn set_compat_signature(
        &mut self,
        key: &SealingKey,
        id: EndpointId,
        signature: Option<&CompatSignature>,
    ) {
        self.compat_signature = signature.map(CompatSignature::shown);
        self.sealed_compat_signature = signature.map(|signature| secrets::seal_compat_signature(key, id, signature));
    }
}

/// Whether what the endpoint has now fits together. A change of one member can make another one wrong.
///
/// # Errors
/// The members that do not fit.
pub(super) fn check(endpoint: &StoredEndpoint, key: &SealingKey) -> Result<(), Vec<FieldError>> {
    let credentials = &endpoint.credentials;
    let mut errors = Vec::new();
    // With another sealing key, the names are not known; the dispatcher holds the deliveries then.
    let headers = secrets::open_headers(key, endpoint.id, endpoint.sealed_headers.as_deref()).unwrap_or_default();
    let has_header = |wanted: &str| headers.iter().any(|(name, _)| name == wanted);
    match credentials.auth.as_ref().map(|auth| auth.r#type) {
        Some(AuthType::Mtls) if !endpoint.url.starts_with("https://") => {
            errors.push(FieldError::new("auth", "of the type mtls needs a url that starts with https://"));
        }
        Some(AuthType::Basic | AuthType::Bearer | AuthType::OAuth2) if has_header("authorization") => {
            let reason = "sets the header authorization, which is among the headers of the endpoint too: remove one";
            errors.push(FieldError::new("auth", reason));
        }
        _ => {}
    }
    if let Some(signature) = &credentials.compat_signature
        && has_header(&signature.header)
    {
        let reason = format!("is {}, which is among the headers of the endpoint too: remove one", signature.header);
        errors.push(FieldError::new("compat_signature.header", reason));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Writes the columns of an endpoint. Part of the transaction of its change.
pub(super) async fn write(
    conn: &mut PgConnection,
    id: EndpointId,
    credentials: &StoredCredentials,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE endpoints SET auth = $2, sealed_auth = $3, compat_signature = $4, sealed_compat_signature = $5
         WHERE id = $1",
    )
    .bind(id.as_uuid())
    .bind(credentials.auth.as_ref().map(Json))
    .bind(&credentials.sealed_auth)
    .bind(credentials.compat_signature.as_ref().map(Json))
    .bind(&credentials.sealed_compat_signature)
    .execute(conn)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use schemas::ids::OrgId;
    use serde_json::json;

    use super::*;
    use crate::endpoints::{compat_signature, edit};

    fn refused(endpoint: &StoredEndpoint, key: &SealingKey) -> Vec<String> {
        let errors = check(endpoint, key).err().unwrap_or_default();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn members_that_contradict_each_other_are_refused() {
        let key = SealingKey::from_bytes([1; 32]);
        let (mut endpoint, _) = edit::new_endpoint(&key, OrgId::generate(), "https://a.example/".to_owned());
        let id = endpoint.id;
        let headers = [("authorization", "a"), ("x-sig", "b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        endpoint.sealed_headers = secrets::seal_headers(&key, id, &headers.to_vec());
        assert!(refused(&endpoint, &key).is_empty());
        let bearer = ReceiverAuth::Bearer { token: "t".to_owned() };
        endpoint.credentials.set_auth(&key, id, Some(&bearer));
        let signature = compat_signature::read(&json!({"format": "sha256-hex", "header": "X-Sig"})).unwrap();
        endpoint.credentials.set_compat_signature(&key, id, Some(&signature));
        assert_eq!(refused(&endpoint, &key), ["auth", "compat_signature.header"]);
        endpoint.sealed_headers = None;
        assert!(refused(&endpoint, &key).is_empty());
        let mtls = ReceiverAuth::Mtls { certificate: String::new(), private_key: String::new() };
        endpoint.credentials.set_auth(&key, id, Some(&mtls));
        assert!(refused(&endpoint, &key).is_empty());
        endpoint.url = "http://a.example/".to_owned();
        assert_eq!(refused(&endpoint, &key), ["auth"]);
    }
}
