//! Reads an HTTP/1.1 request with a content length. Webhooks need no more.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

/// Webhooks of the product have no longer lines.
const MAX_LINE_BYTES: usize = 16 * 1024;
const MAX_BODY_BYTES: usize = 1024 * 1024;
const MAX_HEADERS: usize = 100;

pub(super) struct Request {
    /// With its leading slash.
    pub path: String,
    headers: Vec<(String, String)>,
    /// The signed bytes.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, named in lower case; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }
}

/// The next request; `None` when the client has closed the connection.
pub(super) async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let first = line(stream).await?;
    let Some(path) = first.split(' ').nth(1) else { return Ok(None) };
    let mut request = Request { path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
    loop {
        let line = line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        if request.headers.len() >= MAX_HEADERS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    if length > MAX_BODY_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).await?;
    Ok(Some(request))
}

/// A line without its terminator; empty at the end of the headers and of the connection.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE_BYTES as u64).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}
