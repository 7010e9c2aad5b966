//! A keep-alive HTTP/1.1 connection that sends prebuilt bytes and reads only status, length and `event_id` of the
//! reply.
//!
//! It uses no HTTP library, because the generator shares the cores with the system that it measures: a request costs
//! one write, one read and a scan of about two hundred bytes. It supports only replies with `content-length`, as the
//! accept route sends them. All other requests use `control_client`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

/// Maximum length of a reply: a page of the inbox has 2 MiB at most.
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The connection failed; the request may have been served.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// The reply is not HTTP as it is supported here.
    #[error("unreadable reply: {0}")]
    Unreadable(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `event_id` of the body, if there is one.
    pub event_id: Option<Uuid>,
    /// Whether the connection can be used again.
    pub reusable: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `address` (`host:port`).
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Whether the server has not closed it, as it does with one that is idle for long.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends one request and reads its reply. After an error, or when the future is dropped, the connection must not be
    /// used again.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Reply, ExchangeError> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let Some(head) = parse_head(&self.buffer)? else {
                if self.buffer.len() > MAX_REPLY_BYTES {
                    return Err(ExchangeError::Unreadable("the head does not end"));
                }
                continue;
            };
            if head.content_length > MAX_REPLY_BYTES {
                return Err(ExchangeError::Unreadable("the body is too long"));
            }
            let end = head.body_at + head.content_length;
            if self.buffer.len() < end {
                continue;
            }
            let event_id = event_id(&self.buffer[head.body_at..end]);
            return Ok(Reply { status: head.status, event_id, reusable: !head.close && self.buffer.len() == end });
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_at: usize,
    content_length: usize,
    close: bool,
}

/// The head of a reply; `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ExchangeError> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or(ExchangeError::Unreadable("no HTTP/1.1 status line"))?;
    let (mut content_length, mut close) = (None, false);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            content_length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    let content_length = match (content_length, status) {
        (Some(length), _) => length,
        (None, 204 | 304) => 0,
        (None, _) => return Err(ExchangeError::Unreadable("no content-length")),
    };
    Ok(Some(Head { status, body_at: end + 4, content_length, close }))
}

/// The value of the first `"event_id"` in a JSON text, without parsing the rest.
fn event_id(body: &[u8]) -> Option<Uuid> {
    const NAME: &[u8] = b"\"event_id\"";
    let after = body.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let value = body[after..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    Uuid::try_parse_ascii(value.get(..36)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    #[test]
    fn a_head_is_parsed_when_it_is_complete() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\
              Content-Length: 17\r\nConnection: close\r\n\r\n{}";
        assert_eq!(
            parse_head(text).unwrap(),
            Some(Head { status: 201, body_at: text.len() - 2, content_length: 17, close: true })
        );
        assert_eq!(parse_head(&text[..40]).unwrap(), None);
        assert!(parse_head(b"SSH-2.0-server\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert_eq!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().content_length, 0);
    }

    #[test]
    fn the_event_id_is_found_with_any_spacing() {
        let id = Uuid::parse_str(ID).unwrap();
        assert_eq!(event_id(format!(r#"{{"event_id":"{ID}","id":"x"}}"#).as_bytes()), Some(id));
        assert_eq!(event_id(format!(r#"{{ "status": "accepted", "event_id" : "{ID}" }}"#).as_bytes()), Some(id));
        for none in [r#"{"id":"x"}"#, r#"{"event_id":null}"#, r#"{"event_id":"short"}"#, ""] {
            assert_eq!(event_id(none.as_bytes()), None, "{none}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_reused_until_the_server_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0_u8; 4];
            let body = format!(r#"{{"event_id":"{ID}"}}"#);
            let reply = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.read_exact(&mut byte).await.unwrap();
            // In two pieces: a reply may come in any.
            stream.write_all(&reply.as_bytes()[..30]).await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(&reply.as_bytes()[30..]).await.unwrap();
            stream.read_exact(&mut byte).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        });
        let mut connection = Connection::open(&address).await.unwrap();
        let first = connection.exchange(b"ping").await.unwrap();
        assert!(connection.is_open());
        assert_eq!(first, Reply { status: 201, event_id: Some(Uuid::parse_str(ID).unwrap()), reusable: true });
        let second = connection.exchange(b"ping").await.unwrap();
        assert_eq!(second, Reply { status: 503, event_id: None, reusable: false });
        server.await.unwrap();
        connection.stream.readable().await.unwrap();
        assert!(!connection.is_open());
        assert!(matches!(connection.exchange(b"ping").await, Err(ExchangeError::Connection(_))));
    }
}
