//! How the members `auth` and `compat_signature` of a request are described in OpenAPI. `receiver_auth` and
//! `compat_signature` read them.
#![expect(dead_code, reason = "describes members that others read")]

use utoipa::ToSchema;

use super::compat_signature::CompatFormat;

/// How webhooks authenticate to the receiver, beside their signature. All secrets are write-only.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = NewEndpointAuth)]
pub(super) enum NewAuthBody {
    Basic(BasicAuthBody),
    Bearer(BearerAuthBody),
    OAuth2(OAuth2Body),
    Mtls(MtlsBody),
}

#[derive(ToSchema)]
enum Basic {
    #[serde(rename = "basic")]
    Basic,
}

/// A user name and a password in the header `Authorization`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BasicAuth, example = json!({
    "type": "basic", "username": "triggers", "password": "a long and random text"
}))]
pub(super) struct BasicAuthBody {
    #[schema(inline)]
    r#type: Basic,
    /// Without a colon.
    #[schema(min_length = 1, max_length = 255)]
    username: String,
    #[schema(max_length = 1024)]
    password: String,
}

#[derive(ToSchema)]
enum Bearer {
    #[serde(rename = "bearer")]
    Bearer,
}

/// A token in the header `Authorization`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BearerAuth, example = json!({"type": "bearer", "token": "a-long-and-random-text"}))]
pub(super) struct BearerAuthBody {
    #[schema(inline)]
    r#type: Bearer,
    #[schema(min_length = 1, max_length = 4096)]
    token: String,
}

#[derive(ToSchema)]
enum OAuth2 {
    #[serde(rename = "oauth2")]
    OAuth2,
}

/// A token in the header `Authorization` that is fetched by the client credentials grant of OAuth 2.0, used until
/// shortly before it expires, and renewed when the receiver answers 401.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OAuth2Auth, example = json!({
    "type": "oauth2", "token_url": "https://id.shop.example/token", "client_id": "triggers",
    "client_secret": "a long and random text", "scope": "hooks"
}))]
pub(super) struct OAuth2Body {
    #[schema(inline)]
    r#type: OAuth2,
    /// Where tokens are fetched. The rules are those of the endpoint's URL.
    #[schema(min_length = 1)]
    token_url: String,
    /// Sent with the secret as Basic authentication.
    #[schema(min_length = 1, max_length = 255)]
    client_id: String,
    #[schema(min_length = 1, max_length = 1024)]
    client_secret: String,
    /// Names, separated by blanks.
    #[schema(min_length = 1, max_length = 1024)]
    scope: Option<String>,
    #[schema(min_length = 1, max_length = 1024)]
    audience: Option<String>,
}

#[derive(ToSchema)]
enum Mtls {
    #[serde(rename = "mtls")]
    Mtls,
}

/// A certificate that the receiver asks for when the connection is made.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MtlsAuth, example = json!({
    "type": "mtls", "certificate": "-----BEGIN CERTIFICATE-----\n…", "private_key": "-----BEGIN PRIVATE KEY-----\n…"
}))]
pub(super) struct MtlsBody {
    #[schema(inline)]
    r#type: Mtls,
    /// PEM: the certificate of the client, which has not expired, then up to 7 of authorities between it and a root.
    #[schema(min_length = 1, max_length = 16384)]
    certificate: String,
    /// PEM: the key of the certificate, not encrypted.
    #[schema(min_length = 1, max_length = 8192)]
    private_key: String,
}

/// A second signature, in a format that the receiver verifies already.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCompatSignature, example = json!({"format": "sha256-hex", "header": "x-hub-signature-256"}))]
pub(super) struct NewCompatSignatureBody {
    format: CompatFormat,
    /// Header that carries the signature.
    #[schema(min_length = 1, max_length = 128)]
    header: String,
    /// Its characters are the key; write-only. Absent: the key is the endpoint's secret as it was shown, with `whsec_`.
    #[schema(min_length = 16, max_length = 256)]
    secret: Option<String>,
}
