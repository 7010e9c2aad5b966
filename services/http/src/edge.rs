//! The one layer around every route: request context, problems, identifying headers, panics, metrics and slow requests.
//!
//! One hand-written layer instead of a tower of six, since every request pays for each of them.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tower::{Layer, Service, ServiceExt};

use super::context::{CORRELATION_ID, REQUEST_ID, RequestContext};
use super::observe::{LongPollWait, RouteMetrics, SlowAfter};
use super::problem::Problem;

const RESPONSE_TIME: HeaderName = HeaderName::from_static("x-response-time");
/// The label of requests that no route took: paths are the client's to invent.
const UNMATCHED: &str = "unmatched";

/// Makes an [`Edge`] around each route.
#[derive(Clone, Copy)]
pub(super) struct EdgeLayer {
    pub(super) slow: SlowAfter,
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, slow: self.slow, metrics: Arc::default() }
    }
}

/// The layer around one route. A router makes one for each route and method, so the metrics found first fit all later
/// requests.
#[derive(Clone)]
pub(super) struct Edge<S> {
    inner: S,
    slow: SlowAfter,
    metrics: Arc<OnceLock<Arc<RouteMetrics>>>,
}

impl<S> Edge<S> {
    fn route_metrics(&self, request: &Request) -> Arc<RouteMetrics> {
        let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
        let known = self.metrics.get_or_init(|| Arc::new(RouteMetrics::new(route, request.method())));
        // The answer to a wrong method and the one to an unknown path are shared by several methods.
        if known.is_of(route, request.method()) {
            known.clone()
        } else {
            Arc::new(RouteMetrics::new(route, request.method()))
        }
    }
}

impl<S> Service<Request> for Edge<S>
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
        let context = RequestContext::new(request.headers(), request.uri());
        let watch = Watch { metrics: self.route_metrics(&request), context: context.clone(), open: true };
        let (method, uri, slow) = (request.method().clone(), request.uri().clone(), self.slow);
        request.extensions_mut().insert(context);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let response = match answer.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => after_panic(&*panic, &watch),
            };
            Ok(watch.finish(response, &method, &uri, slow))
        })
    }
}

/// Answers a request that must not reach any route, with everything that other answers have.
pub(super) async fn refuse(request: Request, problem: Problem, slow: SlowAfter) -> Response {
    let refusal = tower::service_fn(move |_: Request| {
        std::future::ready(Ok(axum::response::IntoResponse::into_response(problem.clone())))
    });
    EdgeLayer { slow }.layer(refusal).oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
}

/// Sees to it that a request is counted, also when its future is dropped.
struct Watch {
    metrics: Arc<RouteMetrics>,
    context: RequestContext,
    open: bool,
}

impl Watch {
    fn finish(mut self, response: Response, method: &Method, uri: &Uri, slow: SlowAfter) -> Response {
        self.open = false;
        let waited = response.extensions().get::<LongPollWait>().map_or(Duration::ZERO, |wait| wait.0);
        let mut response = complete(response, &self.context, method, uri);
        identify(&mut response, &self.context);
        self.metrics.answered(&self.context, response.status(), waited, slow);
        response
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.open {
            self.metrics.cancelled(&self.context);
        }
    }
}

fn after_panic(panic: &(dyn Any + Send), watch: &Watch) -> Response {
    let reason = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        request_id = &*watch.context.request_id,
        route = &*watch.metrics.route,
        reason = reason.unwrap_or("not a text"),
        "A handler panicked."
    );
    axum::response::IntoResponse::into_response(Problem::internal())
}

/// Writes the body of a problem, also where a refusal came from the framework and not from a handler.
fn complete(mut response: Response, context: &RequestContext, method: &Method, uri: &Uri) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if status == StatusCode::METHOD_NOT_ALLOWED && *method == Method::OPTIONS {
        // The router adds `Allow` to this answer as it does to a 405.
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        return response;
    }
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if is_plain(&response) => Problem::from_status(status),
        None => return response,
    };
    let mut rendered = problem.render(context, uri.path());
    // What layers further in have added (rate limits, say) stays; what described the replaced body goes.
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH && !rendered.headers().contains_key(name) {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    rendered
}

/// Whether a response looks like the framework's own: no body, or a sentence of text.
fn is_plain(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"text/plain"))
}

fn identify(response: &mut Response, context: &RequestContext) {
    let id = context.id_header();
    let tenths = context.received.elapsed().as_micros() / 100;
    let mut time = String::with_capacity(12);
    let written = write!(time, "{}.{}ms", tenths / 10, tenths % 10);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(CORRELATION_ID, id);
    if let (Ok(()), Ok(value)) = (written, HeaderValue::try_from(time)) {
        headers.insert(RESPONSE_TIME, value);
    }
}
