//! The routes of a slice with what OpenAPI says of them. A request whose query has a parameter that its route does not
//! describe is refused: a filter that nobody reads must not answer unfiltered. [`InvalidQuery`] has the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, ready};
use http::{Method, StatusCode};
use tower::{Layer, Service};
use utoipa::openapi::path::{Operation, Parameter as Described, ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, RefOr, Schema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::invalid_query::InvalidQuery;
use super::nearest::unknown;
use super::problem::Problem;
use super::query::QueryParams;

/// One query parameter of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter {
    name: String,
    /// Whether it may be given several times.
    repeats: bool,
}

/// The query parameters of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RouteQuery {
    /// Method of the route; GET is also HEAD.
    method: Method,
    /// Path of the route as it was registered, relative to a mount.
    path: String,
    /// All parameters that it reads.
    parameters: Vec<Parameter>,
    /// Whether it asks nobody for a key.
    is_open: bool,
}

/// Routes relative to a mount, each described for OpenAPI. A route that describes no query parameter refuses all.
#[derive(Clone, Default)]
pub struct Routes(OpenApiRouter);

impl From<OpenApiRouter> for Routes {
    fn from(router: OpenApiRouter) -> Self {
        Self(router)
    }
}

/// Routes without a description, which no document lists.
impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self(router.into())
    }
}

impl Routes {
    /// Both sets of routes, with their descriptions.
    #[must_use]
    pub fn merge(self, other: impl Into<Self>) -> Self {
        Self(self.0.merge(other.into().0))
    }

    /// The routes, each of which refuses a query that it did not describe.
    pub(super) fn checked(self) -> Router {
        let (router, openapi) = self.0.split_for_parts();
        if !router.has_routes() {
            return router;
        }
        // The layer also wraps the answer to a wrong method. Replaced, it is a 405 whatever the query is.
        let checked = router.route_layer(CheckQuery(queries(&openapi).into()));
        checked.method_not_allowed_fallback(|| async { Problem::from_status(StatusCode::METHOD_NOT_ALLOWED) })
    }
}

/// The same operation at one more path.
pub fn also_at<S>(
    (schemas, mut paths, handlers): UtoipaMethodRouter<S>,
    path: &str,
    operation_id: &str,
) -> UtoipaMethodRouter<S> {
    paths.paths = std::mem::take(&mut paths.paths)
        .into_values()
        .map(|mut item| {
            for operation in operations(&mut item) {
                operation.operation_id = Some(operation_id.to_owned());
            }
            (path.to_owned(), item)
        })
        .collect();
    (schemas, paths, handlers)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete].into_iter().filter_map(Option::as_mut)
}

fn queries(openapi: &OpenApi) -> Vec<RouteQuery> {
    let of_path = |(path, item): (&String, &PathItem)| {
        let methods = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        let query = |(method, operation): (Method, &Option<Operation>)| {
            let operation = operation.as_ref()?;
            let is_open = operation.security.as_ref().is_none_or(Vec::is_empty);
            Some(RouteQuery { method, path: path.clone(), parameters: parameters(operation), is_open })
        };
        methods.into_iter().filter_map(query).collect::<Vec<_>>()
    };
    openapi.paths.paths.iter().flat_map(of_path).collect()
}

fn parameters(operation: &Operation) -> Vec<Parameter> {
    let in_query = |parameter: &RefOr<Described>| match parameter {
        RefOr::T(described) if described.parameter_in == ParameterIn::Query => Some(Parameter {
            name: described.name.clone(),
            repeats: matches!(described.schema, Some(RefOr::T(Schema::Array(_)))),
        }),
        _ => None,
    };
    operation.parameters.iter().flatten().filter_map(in_query).collect()
}

#[derive(Clone)]
struct CheckQuery(Arc<[RouteQuery]>);

impl<S> Layer<S> for CheckQuery {
    type Service = QueryChecked<S>;

    fn layer(&self, inner: S) -> QueryChecked<S> {
        QueryChecked { inner, queries: self.0.clone() }
    }
}

/// Calls a route. A query with other than the described parameters is refused if the route is open, and else goes along
/// as an [`InvalidQuery`].
#[derive(Clone)]
struct QueryChecked<S> {
    inner: S,
    queries: Arc<[RouteQuery]>,
}

impl<S> QueryChecked<S> {
    /// The problem of the query, and whether the route is open.
    fn check(&self, request: &Request) -> Result<(), (Problem, bool)> {
        if request.uri().query().is_none_or(str::is_empty) {
            return Ok(());
        }
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let path = path.strip_prefix("/v1").or_else(|| path.strip_prefix("/api")).unwrap_or(path);
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let described = self.queries.iter().find(|query| query.path == path && query.method == *method);
        let parameters = described.map_or(&[][..], |query| &query.parameters);
        let checked = QueryParams::of(request.uri()).and_then(|params| check(&params, parameters));
        checked.map_err(|problem| (problem, described.is_none_or(|query| query.is_open)))
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
        let Err((problem, is_open)) = self.check(&request) else { return Either::Right(self.inner.call(request)) };
        if is_open {
            return Either::Left(ready(Ok(problem.into_response())).boxed());
        }
        let invalid = InvalidQuery::new(problem);
        request.extensions_mut().insert(invalid.clone());
        Either::Left(invalid.answer(self.inner.call(request)).boxed())
    }
}

/// Refuses the first parameter that is unknown, or repeated although it may not be.
fn check(params: &QueryParams, described: &[Parameter]) -> Result<(), Problem> {
    let mut given = Vec::new();
    for name in params.names() {
        let Some(parameter) = described.iter().find(|parameter| parameter.name == name) else {
            let known: Vec<&str> = described.iter().map(|parameter| parameter.name.as_str()).collect();
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
