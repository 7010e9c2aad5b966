//! CORS: which web pages may use the API from a browser. Without a configured origin, none may.

use std::time::Duration;

use axum::Router;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may keep the answer to a preflight.
const MAX_AGE: Duration = Duration::from_secs(3_600);

/// Headers of responses that a page may read.
const EXPOSED: [&str; 15] = [
    "location",
    "retry-after",
    "idempotency-replayed",
    "x-request-id",
    "x-correlation-id",
    "x-response-time",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "www-authenticate",
    "allow",
    "etag",
];

/// Origins whose pages may use the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CorsOrigins {
    /// No page of another origin.
    #[default]
    None,
    /// Every page. It still needs a key.
    Any,
    /// Pages of these origins.
    Listed(Vec<HeaderValue>),
}

impl CorsOrigins {
    /// `*`, or origins separated by commas, such as `https://app.example.com`.
    ///
    /// # Errors
    /// The part that is no origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => Ok(Self::None),
            ["*"] => Ok(Self::Any),
            parts => parts.iter().map(|part| origin(part)).collect::<Result<_, _>>().map(Self::Listed),
        }
    }

    /// Lets pages of these origins use the routes.
    pub(super) fn apply(&self, routes: Router) -> Router {
        let origins = match self {
            Self::None => return routes,
            Self::Any => AllowOrigin::any(),
            Self::Listed(origins) => AllowOrigin::list(origins.clone()),
        };
        // Keys are sent in headers that a page sets itself, so cookies are never needed.
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
            .expose_headers(EXPOSED.map(HeaderName::from_static))
            .max_age(MAX_AGE);
        routes.layer(cors)
    }
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let is_origin = text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
            && !text.ends_with('/')
    });
    let value = HeaderValue::from_str(text).ok().filter(|_| is_origin);
    value.ok_or_else(|| format!("`{text}` is no origin such as https://app.example.com"))
}

/// Says to a browser that it must use TLS from now on.
pub(super) fn strict_transport_security(max_age_seconds: u64) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::try_from(format!("max-age={max_age_seconds}; includeSubDomains")).ok()?;
    (max_age_seconds > 0).then_some((header::STRICT_TRANSPORT_SECURITY, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_are_read() {
        assert_eq!(CorsOrigins::parse(" "), Ok(CorsOrigins::None));
        assert_eq!(CorsOrigins::parse("*"), Ok(CorsOrigins::Any));
        let two = CorsOrigins::parse("https://app.example.com, http://localhost:3000").unwrap();
        assert!(matches!(two, CorsOrigins::Listed(origins) if origins.len() == 2));
        for wrong in ["example.com", "https://example.com/", "https://example.com/app", "*, https://a.example", "null"]
        {
            assert!(CorsOrigins::parse(wrong).is_err(), "{wrong}");
        }
    }
}
