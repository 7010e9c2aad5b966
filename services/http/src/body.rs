//! Reading request bodies: bounded in bytes and in time, decompressed where they are compressed. What is in them is the
//! handlers' business.

use std::io::{self, Write};
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use super::problem::Problem;

/// Largest body of a request that carries one event or one command.
pub const EVENT_BODY_BYTES: usize = 512 * 1024;
/// Largest body of a batch.
pub const BATCH_BODY_BYTES: usize = 4 * 1024 * 1024;
/// More is reserved only as bytes arrive: a length is a claim.
const FIRST_RESERVATION: usize = 64 * 1024;

/// Put into every request's extensions by the server: how long its body may take in all.
#[derive(Debug, Clone, Copy)]
pub struct BodyReadTimeout(pub Duration);

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Most bytes, before and after decompression.
    pub max_bytes: usize,
    /// From now to the last byte.
    pub timeout: Duration,
}

impl BodyLimits {
    /// `max_bytes`, within the time that the server grants (30 s without one).
    pub fn new(max_bytes: usize, extensions: &Extensions) -> Self {
        let timeout = extensions.get::<BodyReadTimeout>().map_or(Duration::from_secs(30), |given| given.0);
        Self { max_bytes, timeout }
    }
}

/// A whole body, read within `LIMIT` bytes and the server's time.
#[derive(Debug, Clone)]
pub struct Body<const LIMIT: usize = EVENT_BODY_BYTES> {
    /// Decompressed.
    pub bytes: Bytes,
    /// As sent, parameters included; `None` when absent or not ASCII.
    pub content_type: Option<String>,
}

impl<S: Sync, const LIMIT: usize> FromRequest<S> for Body<LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, BodyLimits::new(LIMIT, &parts.extensions)).await?;
        let content_type =
            parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { bytes, content_type })
    }
}

/// Reads a body to its end.
///
/// # Errors
/// 413 as soon as it is known to be too large, 408 when it is too slow, 415 for another encoding than gzip, and the
/// invalid code for broken compression or a body that ends early.
pub async fn read(headers: &HeaderMap, body: axum::body::Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    let gzip = is_gzip(headers)?;
    if declared_length(headers).is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large(limits.max_bytes));
    }
    let reading =
        async { if gzip { decompress(body, limits.max_bytes).await } else { collect(body, limits.max_bytes).await } };
    match tokio::time::timeout(limits.timeout, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time")),
    }
}

async fn collect(mut body: axum::body::Body, max_bytes: usize) -> Result<Bytes, Problem> {
    // Most bodies arrive in one piece, which is then passed on without a copy.
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > max_bytes {
        return Err(too_large(max_bytes));
    }
    let Some(second) = next(&mut body).await? else { return Ok(first) };
    let mut whole = BytesMut::with_capacity(FIRST_RESERVATION.max(first.len() + second.len()).min(max_bytes));
    whole.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if whole.len() + piece.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        whole.extend_from_slice(&piece);
        piece = match next(&mut body).await? {
            Some(piece) => piece,
            None => return Ok(whole.freeze()),
        };
    }
}

async fn decompress(mut body: axum::body::Body, max_bytes: usize) -> Result<Bytes, Problem> {
    let mut decoder = MultiGzDecoder::new(Bounded { bytes: Vec::new(), max_bytes, full: false });
    let mut compressed = 0;
    while let Some(piece) = next(&mut body).await? {
        compressed += piece.len();
        if compressed > max_bytes {
            return Err(too_large(max_bytes));
        }
        if decoder.write_all(&piece).is_err() {
            return Err(broken_or_full(decoder.get_ref()));
        }
    }
    if decoder.try_finish().is_err() {
        return Err(broken_or_full(decoder.get_ref()));
    }
    match decoder.finish() {
        Ok(bounded) => Ok(Bytes::from(bounded.bytes)),
        Err(_) => Err(Problem::invalid("invalid_encoding", "the body is not valid gzip")),
    }
}

/// Takes decompressed bytes up to a bound: a bomb is stopped while it unfolds.
struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
    full: bool,
}

impl Write for Bounded {
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

fn broken_or_full(bounded: &Bounded) -> Problem {
    if bounded.full {
        too_large(bounded.max_bytes)
    } else {
        Problem::invalid("invalid_encoding", "the body is not valid gzip")
    }
}

/// The next piece of data; trailers are skipped.
async fn next(body: &mut axum::body::Body) -> Result<Option<Bytes>, Problem> {
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

fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
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

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(max_bytes: usize) -> Problem {
    Problem::payload_too_large(format!("the body is larger than {} KiB", max_bytes / 1024))
}
