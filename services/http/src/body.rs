//! Reads request bodies, with a limit on bytes and on time, and decompresses gzip.
//!
//! What a body holds in memory is counted for its organization (or address) while it arrives and unfolds, see
//! `budgets`. A body that arrived in one piece is not: hyper's read buffer holds it anyway.

use std::io::{self, Write};
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use runtime::budget::Permit;

use super::budgets::{Holder, held};
use super::context::RequestContext;
use super::problem::Problem;

/// Largest body of a request with one event or one command.
pub const EVENT_BODY_BYTES: usize = 512 * 1024;
/// Largest body of a batch.
pub const BATCH_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Memory that is reserved at first. More is reserved only as bytes arrive, because `Content-Length` may be wrong.
const FIRST_RESERVATION: usize = 8 * 1024;
/// What a decoder of gzip holds besides its output: the window of 32 KiB and its tables.
pub(super) const GZIP_STATE_BYTES: u64 = 48 * 1024;

/// How long the whole body of a request may take. The server puts it into the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct BodyReadTimeout(pub Duration);

/// Limits of one body.
#[derive(Clone)]
pub struct BodyLimits {
    /// Most bytes, before and after decompression.
    pub max_bytes: usize,
    /// Time until the last byte.
    pub timeout: Duration,
    /// For whom the bytes are counted; `None`: they are not, as in a test of a router without a server.
    pub holder: Option<Holder>,
}

impl BodyLimits {
    /// `max_bytes`, the server's [`BodyReadTimeout`] (30 s without one), and the holder of the request.
    pub fn new(max_bytes: usize, extensions: &Extensions) -> Self {
        let timeout = extensions.get::<BodyReadTimeout>().map_or(Duration::from_secs(30), |timeout| timeout.0);
        Self { max_bytes, timeout, holder: extensions.get::<RequestContext>().and_then(RequestContext::holder) }
    }
}

/// A whole body of at most `LIMIT` bytes, read within the server's [`BodyReadTimeout`].
#[derive(Debug, Clone)]
pub struct RequestBody<const LIMIT: usize = EVENT_BODY_BYTES> {
    /// Decompressed.
    pub bytes: Bytes,
    /// As sent, with parameters; `None` when absent or not ASCII.
    pub content_type: Option<String>,
}

impl<S: Sync, const LIMIT: usize> FromRequest<S> for RequestBody<LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(&parts.headers, body, BodyLimits::new(LIMIT, &parts.extensions)).await?;
        let content_type =
            parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { bytes, content_type })
    }
}

/// Reads a whole body.
///
/// # Errors
/// 413 as soon as the body is over the limit, 408 when it is too slow, 429 or 503 when too many bytes of bodies are
/// held, 415 for another encoding than gzip, and 400 (422 on `/api`) for invalid gzip or a body that ends early.
pub async fn read_body(headers: &HeaderMap, body: axum::body::Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    let gzip = is_gzip(headers)?;
    if declared_length(headers).is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large(limits.max_bytes));
    }
    let timeout = limits.timeout;
    let reading = async { if gzip { decompress(body, limits).await } else { collect(body, limits).await } };
    match tokio::time::timeout(timeout, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(too_slow()),
    }
}

async fn collect(mut body: axum::body::Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    // Most bodies arrive in one piece, which is returned without a copy.
    let Some(first) = next_piece(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limits.max_bytes {
        return Err(too_large(limits.max_bytes));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = CountedBuffer::new(limits);
    whole.append(&first)?;
    drop(first);
    while let Some(piece) = next_piece(&mut body).await? {
        whole.append(&piece)?;
    }
    Ok(whole.into_bytes())
}

async fn decompress(mut body: axum::body::Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    let max_bytes = limits.max_bytes;
    let mut buffer = CountedBuffer::new(limits);
    buffer.count(GZIP_STATE_BYTES)?;
    let mut decoder = MultiGzDecoder::new(buffer);
    let mut compressed = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        compressed += piece.len();
        if compressed > max_bytes {
            return Err(too_large(max_bytes));
        }
        if decoder.write_all(&piece).is_err() {
            return Err(gzip_problem(decoder.get_mut()));
        }
    }
    if decoder.try_finish().is_err() {
        return Err(gzip_problem(decoder.get_mut()));
    }
    match decoder.finish() {
        Ok(buffer) => Ok(buffer.into_bytes()),
        Err(_) => Err(Problem::invalid("invalid_encoding", "the body is not valid gzip")),
    }
}

/// Collects a body up to its limit. Its memory is counted before it is reserved, also while gzip unfolds.
struct CountedBuffer {
    bytes: Vec<u8>,
    limits: BodyLimits,
    permit: Option<Permit>,
    /// Why the last piece was refused.
    refusal: Option<Problem>,
}

impl CountedBuffer {
    fn new(limits: BodyLimits) -> Self {
        Self { bytes: Vec::new(), limits, permit: None, refusal: None }
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), Problem> {
        let (max, needed) = (self.limits.max_bytes, self.bytes.len() + piece.len());
        if needed > max {
            return Err(too_large(max));
        }
        if needed > self.bytes.capacity() {
            let capacity = needed.next_power_of_two().max(FIRST_RESERVATION).min(max);
            self.count((capacity - self.bytes.capacity()) as u64)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), Problem> {
        match (&mut self.permit, &self.limits.holder) {
            (Some(permit), _) => permit.grow(bytes).map_err(super::budgets::body_problem),
            (None, Some(holder)) => {
                self.permit = Some(holder.take_body(bytes)?);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn into_bytes(self) -> Bytes {
        let bytes = Bytes::from(self.bytes);
        match self.permit {
            Some(permit) => held(bytes, permit),
            None => bytes,
        }
    }
}

impl Write for CountedBuffer {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.append(piece) {
            Ok(()) => Ok(piece.len()),
            Err(problem) => {
                self.refusal = Some(problem);
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gzip_problem(buffer: &mut CountedBuffer) -> Problem {
    let refusal = buffer.refusal.take();
    refusal.unwrap_or_else(|| Problem::invalid("invalid_encoding", "the body is not valid gzip"))
}

/// The next piece of data. Trailers are skipped.
pub(super) async fn next_piece(body: &mut axum::body::Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) if !data.is_empty() => return Ok(Some(data)),
            Ok(_) => {}
            Err(_) => {
                return Err(Problem::invalid("incomplete_body", "the body ended early or was not framed correctly"));
            }
        }
    }
    Ok(None)
}

pub(super) fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let encoding = match (encodings.next(), encodings.next()) {
        (None, _) => return Ok(false),
        (Some(value), None) => value.as_bytes().trim_ascii(),
        (Some(_), Some(_)) => b"several",
    };
    if encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip") {
        return Ok(true);
    }
    if encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity") {
        return Ok(false);
    }
    let problem = Problem::unsupported_media_type("the only content encoding that is read is gzip, once");
    Err(problem.with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip")))
}

pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time")
}

pub(super) fn too_large(max_bytes: usize) -> Problem {
    Problem::payload_too_large(format!("the body is larger than {} KiB", max_bytes / 1024))
}
