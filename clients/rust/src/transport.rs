//! Sends requests, and sends them again when that can help.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::problem::Problem;
use crate::retry::RetryPolicy;

/// A longer answer is not read to its end. The longest that the server sends are pages of the inbox, of about 4 MiB.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The connections to one system.
pub(crate) struct Transport {
    pub http: reqwest::Client,
    pub base_url: Url,
    pub authorization: HeaderValue,
    pub retry: RetryPolicy,
    /// How long one attempt may take, besides its wait.
    pub attempt_timeout: Duration,
}

/// A request that may be sent several times.
pub(crate) struct Call {
    method: Method,
    /// Starts with `/`.
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Bytes,
    wait: Duration,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into())
    }

    pub(crate) fn post(path: impl Into<String>, json: Vec<u8>) -> Self {
        let mut call = Self::new(Method::POST, path.into());
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        call.body = json.into();
        call
    }

    fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new(), wait: Duration::ZERO }
    }

    pub(crate) fn query(mut self, query: Vec<(&'static str, String)>) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// How long the server may wait before it answers.
    pub(crate) const fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// An answer with a status of success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.unusable(error.to_string()))
    }

    pub(crate) fn unusable(&self, reason: String) -> Error {
        Error::Answer { status: self.status.as_u16(), reason }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How a call ended, after one or more attempts.
pub(crate) struct Outcome {
    pub attempts: u32,
    pub result: Result<Answer, Error>,
}

impl Transport {
    /// Sends the request until it is answered for good, or the budget of retries is used up.
    pub(crate) async fn call(&self, call: &Call) -> Outcome {
        let mut attempts = Attempts::start(self.retry);
        loop {
            let error = match self.attempt(call).await {
                Ok(answer) => return Outcome { attempts: attempts.made, result: Ok(answer) },
                Err(error) => error,
            };
            if !attempts.pause_after(&error).await {
                return Outcome { attempts: attempts.made, result: Err(error) };
            }
        }
    }

    /// Sends the request once.
    pub(crate) async fn attempt(&self, call: &Call) -> Result<Answer, Error> {
        let url = format!("{}{}", self.base_url.as_str().trim_end_matches('/'), call.path);
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .headers(call.headers.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .timeout(self.attempt_timeout.saturating_add(call.wait));
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if !call.body.is_empty() {
            request = request.body(call.body.clone());
        }
        let response = request.send().await.map_err(Error::no_answer)?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_redirection() {
            return Err(redirected(status, &headers));
        }
        let answer = Answer { status, headers, body: read_body(response).await? };
        if status.is_success() {
            return Ok(answer);
        }
        Err(Error::Problem(Box::new(Problem::read(status.as_u16(), &answer.headers, &answer.body))))
    }
}

async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(Error::no_answer)? {
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            let reason = format!("it is longer than {MAX_ANSWER_BYTES} bytes");
            return Err(Error::Answer { status: response.status().as_u16(), reason });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn redirected(status: StatusCode, headers: &HeaderMap) -> Error {
    let target = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("another URL").escape_default();
    let reason = format!("the server redirects to {target}; redirects are not followed: give the URL of the system");
    Error::Answer { status: status.as_u16(), reason }
}

/// The attempts of one call, with the pauses between them.
pub(crate) struct Attempts {
    policy: RetryPolicy,
    started: Instant,
    /// Attempts so far, the current one included.
    pub made: u32,
}

impl Attempts {
    /// Starts the first one.
    pub(crate) fn start(policy: RetryPolicy) -> Self {
        Self { policy, started: Instant::now(), made: 1 }
    }

    /// Pauses before the next attempt. `false`: there is none.
    pub(crate) async fn pause_after(&mut self, error: &Error) -> bool {
        let Some(pause) = self.policy.pause(self.made, self.started.elapsed(), error, rand::random()) else {
            return false;
        };
        tokio::time::sleep(pause).await;
        self.made = self.made.saturating_add(1);
        true
    }
}
