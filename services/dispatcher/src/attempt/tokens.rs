//! Tokens of OAuth 2.0 for the webhooks of endpoints: fetched through the same egress policy as webhooks, kept until
//! shortly before they expire, one request for an endpoint at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use moka::sync::Cache;
use schemas::ids::{EndpointId, OrgId};
use tracing::debug;

use crate::attempt::authorization::TokenSource;
use crate::attempt::client;
use crate::attempt::connector::Connector;
use crate::attempt::egress::EgressPolicy;
use crate::attempt::failure::Failure;
use crate::attempt::pool::Origin;
use crate::attempt::single_flight::SingleFlight;
use crate::attempt::token_answer::{self, Grant, MAX_ANSWER_BYTES, MAX_VALIDITY, TokenProblem};
use crate::metrics::METRICS;

/// Of all tokens. An organization has one for each of its endpoints.
const MAX_KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// What a token needs in memory beside its text.
const OVERHEAD_BYTES: usize = 256;
/// A request for a token takes no longer than this, and no longer than an attempt that waits for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// A token of one source.
pub(crate) struct Token {
    /// Value of the header `Authorization`.
    pub header: HeaderValue,
    usable_until: Instant,
    /// Of its source: with other credentials there is another token.
    source: [u8; 32],
}

type Outcome = Result<Arc<Token>, Failure>;

/// Cloning shares the tokens.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<Inner>);

struct Inner {
    connector: Connector,
    policy: Arc<EgressPolicy>,
    known: Cache<EndpointId, Arc<Token>>,
    fetches: SingleFlight<(EndpointId, [u8; 32]), Outcome>,
}

impl Tokens {
    pub(crate) fn new(connector: Connector, policy: Arc<EgressPolicy>) -> Self {
        let size = |token: &Arc<Token>| u32::try_from(token.header.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let known = Cache::builder()
            .weigher(move |_, token| size(token))
            .max_capacity(MAX_KEPT_BYTES)
            .time_to_live(MAX_VALIDITY)
            .build();
        Self(Arc::new(Inner { connector, policy, known, fetches: SingleFlight::default() }))
    }

    /// The token that is kept, or a new one. Those who wait share one request.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn get(&self, org_id: OrgId, source: &Arc<TokenSource>) -> Outcome {
        let is_usable = |token: &Arc<Token>| token.source == source.sha256 && Instant::now() < token.usable_until;
        if let Some(token) = self.0.known.get(&source.endpoint_id).filter(is_usable) {
            return Ok(token);
        }
        let (inner, source) = (self.0.clone(), source.clone());
        let key = (source.endpoint_id, source.sha256);
        self.0.fetches.join(&key, || async move { inner.fetch(org_id, &source).await }).await
    }

    /// Drops a token that the receiver did not accept, unless there is a newer one already.
    pub(crate) fn reject(&self, source: &TokenSource, token: &Arc<Token>) {
        if self.0.known.get(&source.endpoint_id).is_some_and(|known| Arc::ptr_eq(&known, token)) {
            self.0.known.invalidate(&source.endpoint_id);
        }
    }
}

impl Inner {
    async fn fetch(&self, org_id: OrgId, source: &TokenSource) -> Outcome {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.request(org_id, source)).await;
        let outcome = fetched.unwrap_or(Err(Failure::Timeout(FETCH_TIMEOUT.as_secs()))).map_err(Failure::of_token);
        let label = if outcome.is_ok() { "granted" } else { "failed" };
        METRICS.token_requests.with_label_values(&[label]).inc();
        debug!(endpoint_id = %source.endpoint_id, outcome = label, "Token request finished.");
        let Grant { header, usable_for } = outcome?;
        let usable_until = Instant::now() + usable_for;
        let token = Arc::new(Token { header, usable_until, source: source.sha256 });
        self.known.insert(source.endpoint_id, token.clone());
        Ok(token)
    }

    /// Each request has a connection of its own: there are few.
    async fn request(&self, org_id: OrgId, source: &TokenSource) -> Result<Grant, Failure> {
        let policy = self.policy.of(org_id);
        policy.check_host(&source.url)?;
        let origin = Origin::of(org_id, &source.url).ok_or(Failure::Url)?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, source.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let request = client::request(&source.url, headers, source.form.clone())?;
        let mut connection = self.connector.connect(&origin, &policy).await?;
        let response = connection.send(request).await.map_err(|error| Failure::of_sending(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body: Bytes = body.map(|body| body.to_bytes()).map_err(|error| {
            if error.is::<LengthLimitError>() { TokenProblem::TooLong.into() } else { Failure::Broken }
        })?;
        Ok(token_answer::read(head.status.as_u16(), &body)?)
    }
}
