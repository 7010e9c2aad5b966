//! The routes of a slice with the query parameters that each of them declares. A request whose query has another
//! parameter is refused: a filter that nobody reads must not answer unfiltered. [`InvalidQuery`] has the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::{Method, StatusCode};
use tower::{Layer, Service};

use super::invalid_query::InvalidQuery;
use super::nearest::unknown;
use super::problem::Problem;
use super::query::QueryParams;

/// One query parameter of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be given several times.
    pub repeats: bool,
}

impl Parameter {
    /// May be given at most once.
    pub const fn one(name: &'static str) -> Self {
        Self { name, repeats: false }
    }

    /// May be given several times.
    pub const fn repeated(name: &'static str) -> Self {
        Self { name, repeats: true }
    }
}

/// The query parameters of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteQuery {
    /// Method of the route; GET is also HEAD.
    pub method: Method,
    /// Path of the route as it was registered, relative to a mount.
    pub path: &'static str,
    /// All parameters that it reads.
    pub parameters: &'static [Parameter],
}

/// Routes relative to a mount, and the query parameters that they declare. A route without a declaration has none: it
/// refuses every parameter.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    pub(super) router: Router,
    queries: Vec<RouteQuery>,
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self { router, queries: Vec::new() }
    }
}

impl Routes {
    /// Declares all query parameters of a route.
    #[must_use]
    pub fn with_query(mut self, method: Method, path: &'static str, parameters: &'static [Parameter]) -> Self {
        self.queries.push(RouteQuery { method, path, parameters });
        self
    }

    /// Both sets of routes, with what they declare.
    #[must_use]
    pub fn merge(mut self, other: impl Into<Self>) -> Self {
        let other = other.into();
        self.queries.extend(other.queries);
        Self { router: self.router.merge(other.router), queries: self.queries }
    }

    /// What the routes declare.
    pub fn queries(&self) -> &[RouteQuery] {
        &self.queries
    }

    /// The routes, each of which refuses a query that it did not declare.
    pub(super) fn checked(self) -> Router {
        if !self.router.has_routes() {
            return self.router;
        }
        // The layer also wraps the answer to a wrong method. Replaced, it is a 405 whatever the query is.
        let checked = self.router.route_layer(CheckQuery(self.queries.into()));
        checked.method_not_allowed_fallback(|| async { Problem::from_status(StatusCode::METHOD_NOT_ALLOWED) })
    }
}

#[derive(Clone)]
struct CheckQuery(Arc<[RouteQuery]>);

impl<S> Layer<S> for CheckQuery {
    type Service = QueryChecked<S>;

    fn layer(&self, inner: S) -> QueryChecked<S> {
        QueryChecked { inner, queries: self.0.clone() }
    }
}

/// Calls a route; a query with other than the declared parameters goes along as an [`InvalidQuery`].
#[derive(Clone)]
struct QueryChecked<S> {
    inner: S,
    queries: Arc<[RouteQuery]>,
}

impl<S> QueryChecked<S> {
    fn check(&self, request: &Request) -> Result<(), Problem> {
        if request.uri().query().is_none_or(str::is_empty) {
            return Ok(());
        }
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let path = path.strip_prefix("/v1").or_else(|| path.strip_prefix("/api")).unwrap_or(path);
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let declared = self.queries.iter().find(|query| query.path == path && query.method == *method);
        check(&QueryParams::of(request.uri())?, declared.map_or(&[], |query| query.parameters))
    }
}

impl<S> Service<Request> for QueryChecked<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Err(problem) = self.check(&request) else { return Either::Right(self.inner.call(request)) };
        let invalid = InvalidQuery::new(problem);
        request.extensions_mut().insert(invalid.clone());
        Either::Left(invalid.answer(self.inner.call(request)).boxed())
    }
}

/// Refuses the first parameter that is unknown, or repeated although it may not be.
fn check(params: &QueryParams, declared: &[Parameter]) -> Result<(), Problem> {
    let mut given = Vec::new();
    for name in params.names() {
        let Some(parameter) = declared.iter().find(|parameter| parameter.name == name) else {
            let known: Vec<&str> = declared.iter().map(|parameter| parameter.name).collect();
            return Err(QueryParams::invalid(name, unknown(name, "a parameter of this route", &known)));
        };
        if given.contains(&name) {
            return Err(QueryParams::invalid(name, "is given more than once"));
        }
        if !parameter.repeats {
            given.push(name);
        }
    }
    Ok(())
}
