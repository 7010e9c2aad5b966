//! Reads a request body in pieces, for a handler that uses each piece before the next one arrives.
//!
//! Memory holds one piece at a time. The limits are those of a whole body, see `body`.

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use runtime::budget::Permit;
use tokio::time::{Instant, timeout_at};

use super::body::{BodyLimits, GZIP_STATE_BYTES, declared_length, is_gzip, next_piece, too_large, too_slow};
use super::budgets::{Holder, body_problem};
use super::problem::Problem;

/// Compressed bytes that are decompressed at once. Gzip unfolds at most about a thousandfold, so a piece has at most
/// about half a MiB.
const GZIP_STEP: usize = 512;

/// A body that is read in pieces.
pub struct BodyStream {
    body: axum::body::Body,
    gzip: Option<Gzip>,
    max_bytes: usize,
    /// Bytes that arrived, compressed or not.
    received: usize,
    deadline: Instant,
    holder: Option<Holder>,
    permit: Option<Permit>,
}

struct Gzip {
    /// `None` after the end of the body.
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    /// Arrived and not decompressed yet.
    compressed: Bytes,
    /// Bytes after decompression.
    unfolded: usize,
}

impl BodyStream {
    /// # Errors
    /// 413 when the declared length is over the limit, 415 for another encoding than gzip.
    pub fn new(headers: &HeaderMap, body: axum::body::Body, limits: &BodyLimits) -> Result<Self, Problem> {
        let gzip = is_gzip(headers)?.then(|| Gzip {
            decoder: Some(MultiGzDecoder::new(Vec::new())),
            compressed: Bytes::new(),
            unfolded: 0,
        });
        if declared_length(headers).is_some_and(|length| length > limits.max_bytes as u64) {
            return Err(too_large(limits.max_bytes));
        }
        Ok(Self {
            body,
            gzip,
            max_bytes: limits.max_bytes,
            received: 0,
            deadline: Instant::now() + limits.timeout,
            holder: limits.holder.clone(),
            permit: None,
        })
    }

    /// Counts what the handler keeps of the pieces so far in the budget of bodies, besides what the decoder of gzip
    /// takes. Each call replaces the count of the one before.
    ///
    /// # Errors
    /// 429 or 503 when too many bytes of bodies are held.
    pub fn count_kept(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(holder) = &self.holder else { return Ok(()) };
        let bytes = bytes as u64 + if self.gzip.is_some() { GZIP_STATE_BYTES } else { 0 };
        match &mut self.permit {
            Some(permit) if bytes > permit.amount() => permit.grow(bytes - permit.amount()).map_err(body_problem),
            Some(permit) => {
                permit.shrink_to(bytes);
                Ok(())
            }
            None if bytes == 0 => Ok(()),
            None => {
                self.permit = Some(holder.take_body(bytes)?);
                Ok(())
            }
        }
    }

    /// The next piece, decompressed; `None` at the end. If the future is dropped, no byte is lost.
    ///
    /// # Errors
    /// Those of [`super::read_body`]. The bytes before were valid; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if let Some(gzip) = &mut self.gzip
                && let Some(piece) = gzip.decompress(self.max_bytes)?
            {
                return Ok(Some(piece));
            }
            let piece = timeout_at(self.deadline, next_piece(&mut self.body)).await.map_err(|_| too_slow())??;
            self.received += piece.as_ref().map_or(0, Bytes::len);
            if self.received > self.max_bytes {
                return Err(too_large(self.max_bytes));
            }
            match (&mut self.gzip, piece) {
                (None, piece) => return Ok(piece),
                (Some(gzip), Some(piece)) => gzip.compressed = piece,
                (Some(gzip), None) => return gzip.finish(self.max_bytes),
            }
        }
    }
}

impl Gzip {
    /// Decompresses what has arrived, up to the first output; `None` when more has to arrive.
    fn decompress(&mut self, max_bytes: usize) -> Result<Option<Bytes>, Problem> {
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        while !self.compressed.is_empty() {
            let step = self.compressed.split_to(self.compressed.len().min(GZIP_STEP));
            decoder.write_all(&step).map_err(|_| not_gzip())?;
            let piece = std::mem::take(decoder.get_mut());
            if !piece.is_empty() {
                return counted(&mut self.unfolded, piece, max_bytes).map(Some);
            }
        }
        Ok(None)
    }

    /// The output that was left at the end of the body. A second call finds nothing.
    fn finish(&mut self, max_bytes: usize) -> Result<Option<Bytes>, Problem> {
        let Some(mut decoder) = self.decoder.take() else { return Ok(None) };
        decoder.try_finish().map_err(|_| not_gzip())?;
        let piece = decoder.finish().map_err(|_| not_gzip())?;
        if piece.is_empty() { Ok(None) } else { counted(&mut self.unfolded, piece, max_bytes).map(Some) }
    }
}

fn counted(unfolded: &mut usize, piece: Vec<u8>, max_bytes: usize) -> Result<Bytes, Problem> {
    *unfolded += piece.len();
    if *unfolded > max_bytes { Err(too_large(max_bytes)) } else { Ok(Bytes::from(piece)) }
}

fn not_gzip() -> Problem {
    Problem::invalid("invalid_encoding", "the body is not valid gzip")
}
