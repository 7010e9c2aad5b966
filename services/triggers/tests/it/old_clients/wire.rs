//! HTTP/1.1 as old clients write it: the text of a request goes to the socket as it stands here, and the answer is read
//! by its `Content-Length`.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How long one exchange may take on a busy machine.
const EXCHANGE: Duration = Duration::from_secs(30);

/// The HTTP library of an old client, which adds headers of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Library {
    Curl,
    /// Python's requests.
    Requests,
    /// Python's httpx, which writes names of headers in lower case.
    Httpx,
    /// Node's axios.
    Axios,
}

impl Library {
    /// The line with the host, and the headers that the library adds to every request.
    fn headers(self, host: &str) -> String {
        match self {
            Self::Curl => format!("Host: {host}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"),
            Self::Requests => format!(
                "Host: {host}\r\nUser-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\n\
                 Accept: */*\r\nConnection: keep-alive\r\n"
            ),
            Self::Httpx => format!(
                "host: {host}\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\n\
                 user-agent: python-httpx/0.27.0\r\n"
            ),
            Self::Axios => format!(
                "Accept: application/json, text/plain, */*\r\nUser-Agent: axios/1.7.2\r\n\
                 Accept-Encoding: gzip, compress, deflate, br\r\nHost: {host}\r\nConnection: keep-alive\r\n"
            ),
        }
    }

    /// The length of a body. curl does not say that there is none; the others do for a POST.
    fn length(self, method: &str, body: &str) -> String {
        match self {
            _ if !body.is_empty() => format!("Content-Length: {}\r\n", body.len()),
            Self::Requests | Self::Httpx | Self::Axios if method == "POST" => "Content-Length: 0\r\n".to_owned(),
            _ => String::new(),
        }
    }
}

/// A client that sends the same header lines with each request.
#[derive(Clone)]
pub(super) struct OldClient {
    host: String,
    library: Library,
    headers: String,
}

impl OldClient {
    pub(super) fn new(base_url: &str, library: Library) -> Self {
        let host = base_url.strip_prefix("http://").unwrap().to_owned();
        Self { host, library, headers: String::new() }
    }

    /// Sends this header line too.
    pub(super) fn with_header(&self, line: &str) -> Self {
        Self { headers: format!("{}{line}\r\n", self.headers), ..self.clone() }
    }

    /// Sends `request`, such as `GET /inbox`, with the body.
    pub(super) async fn send(&self, request: &str, body: &str) -> Answer {
        let exchange = tokio::time::timeout(EXCHANGE, self.exchange(request, body)).await;
        exchange.unwrap_or_else(|_| panic!("{request} has no answer after {EXCHANGE:?}"))
    }

    async fn exchange(&self, request: &str, body: &str) -> Answer {
        let (method, _) = request.split_once(' ').unwrap();
        let library = self.library.headers(&self.host);
        let length = self.library.length(method, body);
        let text = format!("{request} HTTP/1.1\r\n{library}{}{length}\r\n{body}", self.headers);
        let mut socket = BufReader::new(TcpStream::connect(&self.host).await.unwrap());
        socket.write_all(text.as_bytes()).await.unwrap();
        read_answer(&mut socket, method).await
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(super) text: String,
}

impl Answer {
    /// The only header with this name; empty when there is none.
    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_default();
        assert_eq!(values.next(), None, "{name} is given twice");
        value
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {} {}", self.status, self.text))
    }

    /// Fails unless the status is `status`.
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

async fn read_answer(socket: &mut BufReader<TcpStream>, method: &str) -> Answer {
    let status_line = read_line(socket).await;
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap().parse().unwrap();
    let mut answer = Answer { status, headers: Vec::new(), text: String::new() };
    loop {
        let line = read_line(socket).await;
        let Some((name, value)) = line.split_once(": ") else { break };
        answer.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    // These have no body, whatever length the headers announce.
    if method != "HEAD" && status != 204 {
        let length: usize = answer.header("content-length").parse().unwrap();
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await.unwrap();
        answer.text = String::from_utf8(body).unwrap();
    }
    answer
}

async fn read_line(socket: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    socket.read_line(&mut line).await.unwrap();
    assert!(line.ends_with("\r\n"), "the answer ends in its headers: {line:?}");
    line.truncate(line.len() - 2);
    line
}
