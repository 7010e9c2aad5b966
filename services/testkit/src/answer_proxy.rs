//! A proxy before an HTTP server that loses answers: the server has done what it was asked for, and the client cannot
//! know it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1024;

/// Forwards until it is dropped.
pub struct AnswerProxy {
    /// The base URL of the server, through this proxy.
    pub url: String,
    answers: Arc<Answers>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Answers {
    to_lose: AtomicUsize,
    forwarded: AtomicUsize,
}

impl Drop for AnswerProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl AnswerProxy {
    /// Starts before the server at `http://HOST:PORT`.
    pub async fn start(base_url: &str) -> Self {
        let address = base_url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Arc<Answers> = Arc::default();
        let counts = answers.clone();
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counts, address) = (counts.clone(), address.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(address).await {
                        // Both connections end here. Why does not matter: either side sees the other one closed.
                        drop(forward(client, server, &counts).await);
                    }
                });
            }
        });
        Self { url, answers, server }
    }

    /// Closes the connections of the next answers instead of forwarding them.
    pub fn lose_answers(&self, count: usize) {
        self.answers.to_lose.store(count, Ordering::Relaxed);
    }

    /// How many answers are still to be lost.
    pub fn left(&self) -> usize {
        self.answers.to_lose.load(Ordering::Relaxed)
    }

    /// Whether an answer, or a piece of one, was forwarded.
    pub fn has_answered(&self) -> bool {
        self.answers.forwarded.load(Ordering::Relaxed) > 0
    }
}

/// Forwards both ways until a side closes its connection or an answer is lost.
async fn forward(mut client: TcpStream, mut server: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let (mut request, mut answer) = (Vec::with_capacity(BUFFER_BYTES), Vec::with_capacity(BUFFER_BYTES));
    loop {
        tokio::select! {
            read = client.read_buf(&mut request) => {
                if read? == 0 {
                    return Ok(());
                }
                server.write_all(&request).await?;
                request.clear();
            }
            read = server.read_buf(&mut answer) => {
                if read? == 0 {
                    return Ok(());
                }
                let take = |left: usize| left.checked_sub(1);
                if answers.to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    return Ok(());
                }
                client.write_all(&answer).await?;
                answers.forwarded.fetch_add(1, Ordering::Relaxed);
                answer.clear();
            }
        }
    }
}
