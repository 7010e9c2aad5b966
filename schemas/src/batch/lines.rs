//! Splits a stream of bytes into lines.

use std::borrow::Cow;

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes, without the line break.
    Text(Cow<'a, [u8]>),
    /// It is longer than the limit. Its bytes were dropped.
    TooLong,
}

/// Splits a stream of bytes into lines. It holds at most one incomplete line, and only as many bytes of it as arrived.
#[derive(Debug)]
pub struct Lines {
    max_bytes: usize,
    incomplete: Vec<u8>,
    /// Whether the line is over the limit already.
    is_too_long: bool,
}

impl Lines {
    /// Lines of at most `max_bytes`, without the line break.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, incomplete: Vec::new(), is_too_long: false }
    }

    /// Bytes of memory that the incomplete line takes.
    pub fn held_bytes(&self) -> usize {
        self.incomplete.capacity()
    }

    /// Removes the next line from the start of `piece` and returns it. `None`: `piece` was used up.
    pub fn next<'a>(&mut self, piece: &mut &'a [u8]) -> Option<Line<'a>> {
        while let Some(at) = piece.iter().position(|&byte| byte == b'\n') {
            let (end_of_line, rest) = (&piece[..at], &piece[at + 1..]);
            *piece = rest;
            if let Some(line) = self.complete(end_of_line) {
                return Some(line);
            }
        }
        let start_of_line = std::mem::take(piece);
        self.keep(start_of_line);
        None
    }

    /// The last line, if it has no line break.
    pub fn finish(mut self) -> Option<Line<'static>> {
        self.complete(b"")
    }

    /// Ends the line with `rest`. `None` if it is blank.
    fn complete<'a>(&mut self, rest: &'a [u8]) -> Option<Line<'a>> {
        let line = if self.incomplete.is_empty() && !self.is_too_long && rest.len() <= self.max_bytes {
            Cow::Borrowed(rest)
        } else {
            self.keep(rest);
            if std::mem::take(&mut self.is_too_long) {
                return Some(Line::TooLong);
            }
            Cow::Owned(std::mem::take(&mut self.incomplete))
        };
        (!line.trim_ascii().is_empty()).then_some(Line::Text(line))
    }

    fn keep(&mut self, part: &[u8]) {
        if self.is_too_long || self.incomplete.len() + part.len() > self.max_bytes {
            self.is_too_long = true;
            self.incomplete = Vec::new();
        } else {
            self.incomplete.extend_from_slice(part);
        }
    }
}
