//! A query that its route did not declare. The extractor that authenticates the caller answers it, so that nobody
//! without a key learns the parameters of a route.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::{IntoResponse, Response};
use http::{Extensions, StatusCode};

use super::problem::Problem;

/// The answer to the query of a request, until an extractor takes it.
#[derive(Clone)]
pub struct InvalidQuery(Arc<Mutex<Option<Problem>>>);

impl InvalidQuery {
    pub(super) fn new(problem: Problem) -> Self {
        Self(Arc::new(Mutex::new(Some(problem))))
    }

    /// To be called when the caller is authenticated.
    ///
    /// # Errors
    /// The invalid code when the route did not declare the query of the request.
    pub fn check(extensions: &Extensions) -> Result<(), Problem> {
        extensions.get::<Self>().and_then(Self::take).map_or(Ok(()), Err)
    }

    /// The response of the route if an extractor has taken the answer, or has refused the caller; else the answer.
    pub(super) async fn answer<F>(self, route: F) -> Result<Response, Infallible>
    where
        F: Future<Output = Result<Response, Infallible>>,
    {
        let Ok(response) = route.await;
        let is_refused = matches!(
            response.status(),
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
        );
        let unread = self.take().filter(|_| !is_refused);
        Ok(unread.map_or(response, IntoResponse::into_response))
    }

    fn take(&self) -> Option<Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
