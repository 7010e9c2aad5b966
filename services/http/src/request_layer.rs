//! The one layer around every route. It makes the request context, writes problem bodies, adds the request id and the
//! response time as headers, catches panics, records metrics and logs slow requests.
//!
//! It is one hand-written layer and not six of tower, because every request pays for each layer.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use tower::{Layer, Service, ServiceExt};

use super::budgets::Holder;
use super::context::{CORRELATION_ID, REQUEST_ID, RequestContext};
use super::observe::{LongPollWait, RouteMetrics, SlowThresholds};
use super::problem::Problem;
use super::response_body;

const RESPONSE_TIME: HeaderName = HeaderName::from_static("x-response-time");
/// The route label of requests that match no route. Clients choose paths, so a path must not become a label.
const UNMATCHED: &str = "unmatched";

/// The holder of what a request without a valid key keeps in memory. The server puts it into the request.
#[derive(Clone)]
pub(super) struct AddressHolder(pub(super) Holder);

/// Says to the server, in a response, that the request had a valid key.
#[derive(Clone, Copy)]
pub(super) struct HadValidKey;

/// Says to the server, in a response of HTTP/2, who holds it until it is sent.
#[derive(Clone)]
pub(super) struct AnswerHolder(pub(super) Holder);

/// Wraps each route in a [`RequestService`].
#[derive(Clone, Copy)]
pub(super) struct RequestLayer {
    pub(super) slow: SlowThresholds,
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> RequestService<S> {
        RequestService { inner, slow: self.slow, metrics: Arc::default() }
    }
}

/// The layer around one route. A router makes one for each route and method, so it looks up the metrics once.
#[derive(Clone)]
pub(super) struct RequestService<S> {
    inner: S,
    slow: SlowThresholds,
    metrics: Arc<OnceLock<Arc<RouteMetrics>>>,
}

impl<S> RequestService<S> {
    fn route_metrics(&self, request: &Request) -> Arc<RouteMetrics> {
        let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
        let cached = self.metrics.get_or_init(|| Arc::new(RouteMetrics::new(route, request.method())));
        // The 404 and 405 handlers serve several methods.
        if cached.is_of(route, request.method()) {
            cached.clone()
        } else {
            Arc::new(RouteMetrics::new(route, request.method()))
        }
    }
}

impl<S> Service<Request> for RequestService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let address = request.extensions_mut().remove::<AddressHolder>().map(|address| address.0);
        let context = RequestContext::new(request.headers(), request.uri()).with_address(address);
        let is_http2 = request.version() == Version::HTTP_2;
        let metrics = self.route_metrics(&request);
        let recorder = RequestRecorder { metrics, context: context.clone(), is_http2, open: true };
        let (method, uri, slow) = (request.method().clone(), request.uri().clone(), self.slow);
        request.extensions_mut().insert(context);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let response = match answer.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => panic_response(&*panic, &recorder),
            };
            Ok(recorder.finish(response, &method, &uri, slow))
        })
    }
}

/// Answers a request with a problem, without calling a route. The response has the same headers as all others.
pub(super) async fn respond_with(request: Request, problem: Problem, slow: SlowThresholds) -> Response {
    let service =
        tower::service_fn(move |_: Request| std::future::ready(Ok(IntoResponse::into_response(problem.clone()))));
    RequestLayer { slow }.layer(service).oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
}

/// Records the metrics of a request, also when its future is dropped.
struct RequestRecorder {
    metrics: Arc<RouteMetrics>,
    context: RequestContext,
    is_http2: bool,
    open: bool,
}

impl RequestRecorder {
    fn finish(mut self, response: Response, method: &Method, uri: &Uri, slow: SlowThresholds) -> Response {
        self.open = false;
        let waited = response.extensions().get::<LongPollWait>().map_or(Duration::ZERO, |wait| wait.0);
        let response = response_body::count(response, &self.context).unwrap_or_else(IntoResponse::into_response);
        let mut response = write_problem_body(response, &self.context, method, uri);
        if self.context.has_valid_key() {
            response.extensions_mut().insert(HadValidKey);
        }
        if let Some(holder) = self.context.holder().filter(|_| self.is_http2) {
            response.extensions_mut().insert(AnswerHolder(holder));
        }
        add_headers(&mut response, &self.context);
        self.metrics.answered(&self.context, response.status(), waited, slow);
        response
    }
}

impl Drop for RequestRecorder {
    fn drop(&mut self) {
        if self.open {
            self.metrics.cancelled(&self.context);
        }
    }
}

fn panic_response(panic: &(dyn Any + Send), recorder: &RequestRecorder) -> Response {
    let reason = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        request_id = &*recorder.context.request_id,
        route = &*recorder.metrics.route,
        reason = reason.unwrap_or("not text"),
        "Handler panicked; answering 500."
    );
    IntoResponse::into_response(Problem::internal())
}

/// Writes the body of a problem. An error response of the framework becomes a problem too.
fn write_problem_body(mut response: Response, context: &RequestContext, method: &Method, uri: &Uri) -> Response {
    let status = response.status();
    // The router answers so when the method is not OPTIONS, CORS to a preflight. The router adds `Allow` to both.
    if *method == Method::OPTIONS && matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::OK) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        return response;
    }
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if is_frameworks_own(&response) => Problem::from_status(status),
        None => return response,
    };
    let mut rendered = problem.render(context, uri.path());
    // Headers of inner layers (rate limits, for example) stay; those that describe the replaced body do not.
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH && !rendered.headers().contains_key(name) {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    rendered
}

/// Whether a response looks like the framework's own: it has no content type, or plain text.
fn is_frameworks_own(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"text/plain"))
}

/// Adds the request id, the response time and the rate limit.
fn add_headers(response: &mut Response, context: &RequestContext) {
    let id = context.id_header();
    let tenths = context.received.elapsed().as_micros() / 100;
    let mut time = String::with_capacity(12);
    let written = write!(time, "{}.{}ms", tenths / 10, tenths % 10);
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A shared cache before this server stores responses by URL, and would give them to other keys.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(CORRELATION_ID, id);
    if let (Ok(()), Ok(value)) = (written, HeaderValue::try_from(time)) {
        headers.insert(RESPONSE_TIME, value);
    }
    context.rate_limit.add_headers(headers);
}
