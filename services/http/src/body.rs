//! Reads request bodies, with a limit on bytes and on time, and decompresses gzip.

use std::io::{self, Write};
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use super::problem::Problem;

/// Largest body of a request with one event or one command.
pub const EVENT_BODY_BYTES: usize = 512 * 1024;
/// Largest body of a batch.
pub const BATCH_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Memory that is reserved at first. More is reserved only as bytes arrive, because `Content-Length` may be wrong.
const FIRST_RESERVATION: usize = 64 * 1024;

/// How long the whole body of a request may take. The server puts it into the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct BodyReadTimeout(pub Duration);

/// Limits of one body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Most bytes, before and after decompression.
    pub max_bytes: usize,
    /// Time until the last byte.
    pub timeout: Duration,
}

impl BodyLimits {
    /// `max_bytes`, and the server's [`BodyReadTimeout`] (30 s without one).
    pub fn new(max_bytes: usize, extensions: &Extensions) -> Self {
        let timeout = extensions.get::<BodyReadTimeout>().map_or(Duration::from_secs(30), |timeout| timeout.0);
        Self { max_bytes, timeout }
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
/// 413 as soon as the body is over the limit, 408 when it is too slow, 415 for another encoding than gzip, and 400 (422
/// on `/api`) for invalid gzip or a body that ends early.
pub async fn read_body(headers: &HeaderMap, body: axum::body::Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    let gzip = is_gzip(headers)?;
    if declared_length(headers).is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large(limits.max_bytes));
    }
    let reading =
        async { if gzip { decompress(body, limits.max_bytes).await } else { collect(body, limits.max_bytes).await } };
    match tokio::time::timeout(limits.timeout, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(too_slow()),
    }
}

async fn collect(mut body: axum::body::Body, max_bytes: usize) -> Result<Bytes, Problem> {
    // Most bodies arrive in one piece, which is returned without a copy.
    let Some(first) = next_piece(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > max_bytes {
        return Err(too_large(max_bytes));
    }
    let Some(second) = next_piece(&mut body).await? else { return Ok(first) };
    let mut whole = BytesMut::with_capacity(FIRST_RESERVATION.max(first.len() + second.len()).min(max_bytes));
    whole.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if whole.len() + piece.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        whole.extend_from_slice(&piece);
        piece = match next_piece(&mut body).await? {
            Some(piece) => piece,
            None => return Ok(whole.freeze()),
        };
    }
}

async fn decompress(mut body: axum::body::Body, max_bytes: usize) -> Result<Bytes, Problem> {
    let mut decoder = MultiGzDecoder::new(LimitedBuffer { bytes: Vec::new(), max_bytes, full: false });
    let mut compressed = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        compressed += piece.len();
        if compressed > max_bytes {
            return Err(too_large(max_bytes));
        }
        if decoder.write_all(&piece).is_err() {
            return Err(gzip_problem(decoder.get_ref()));
        }
    }
    if decoder.try_finish().is_err() {
        return Err(gzip_problem(decoder.get_ref()));
    }
    match decoder.finish() {
        Ok(buffer) => Ok(Bytes::from(buffer.bytes)),
        Err(_) => Err(Problem::invalid("invalid_encoding", "the body is not valid gzip")),
    }
}

/// Collects decompressed bytes up to a limit, so that a gzip bomb is stopped while it is decompressed.
struct LimitedBuffer {
    bytes: Vec<u8>,
    max_bytes: usize,
    full: bool,
}

impl Write for LimitedBuffer {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.max_bytes {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gzip_problem(buffer: &LimitedBuffer) -> Problem {
    if buffer.full {
        too_large(buffer.max_bytes)
    } else {
        Problem::invalid("invalid_encoding", "the body is not valid gzip")
    }
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
