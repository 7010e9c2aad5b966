//! A proxy before PostgreSQL that cuts connections around their COMMIT: just before it is passed on, so that it never
//! happened, or when the answer has come and was not passed on, so that the client cannot know.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Of so many commits one is cut, in turn before and after.
const ONE_IN: usize = 7;

/// Serves until dropped.
pub(crate) struct DatabaseProxy {
    pub url: String,
    counts: Arc<Counts>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    commits: AtomicUsize,
    before: AtomicUsize,
    after: AtomicUsize,
}

enum Fate {
    Passed,
    CutBefore,
    CutAfter,
}

impl Drop for DatabaseProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl DatabaseProxy {
    /// Before the server of `database_url`.
    pub(crate) async fn start(database_url: &str) -> Self {
        let (head, rest) = database_url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{head}@{}/{database}", listener.local_addr().unwrap());
        let (counts, server) = (Arc::new(Counts::default()), server.to_owned());
        let counted = counts.clone();
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counts, server) = (counted.clone(), TcpStream::connect(&server).await.unwrap());
                tokio::spawn(async move { serve(client, server, &counts).await });
            }
        });
        Self { url, counts, server }
    }

    /// Connections that were cut before their commit, and after it.
    pub(crate) fn cuts(&self) -> (usize, usize) {
        (self.counts.before.load(Ordering::Relaxed), self.counts.after.load(Ordering::Relaxed))
    }
}

impl Counts {
    fn next(&self) -> Fate {
        let nth = self.commits.fetch_add(1, Ordering::Relaxed);
        match (nth % ONE_IN, nth / ONE_IN % 2) {
            (0, 0) => {
                self.before.fetch_add(1, Ordering::Relaxed);
                Fate::CutBefore
            }
            (0, _) => {
                self.after.fetch_add(1, Ordering::Relaxed);
                Fate::CutAfter
            }
            _ => Fate::Passed,
        }
    }
}

/// Both connections end with this: either side sees the other one gone.
async fn serve(client: TcpStream, server: TcpStream, counts: &Counts) {
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    let silence = Arc::new(Silence::default());
    let answers = tokio::spawn(pass_answers(server_reads, client_writes, silence.clone()));
    // A side that hangs up is the end, as any other cut.
    let _ended = pass_requests(client_reads, server_writes, &silence, counts).await;
    answers.abort();
}

/// From when on answers are held back, and that one came.
#[derive(Default)]
struct Silence {
    is_on: std::sync::atomic::AtomicBool,
    answered: Notify,
}

async fn pass_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, silence: Arc<Silence>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if silence.is_on.load(Ordering::SeqCst) {
            silence.answered.notify_one();
        } else {
            to.write_all(&buffer[..read]).await?;
        }
    }
}

async fn pass_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    silence: &Silence,
    counts: &Counts,
) -> std::io::Result<()> {
    // The first message has no type.
    let mut message = Vec::new();
    read_message(&mut from, &mut message).await?;
    to.write_all(&message).await?;
    loop {
        message.clear();
        message.push(from.read_u8().await?);
        read_message(&mut from, &mut message).await?;
        let fate = if message[0] == b'Q' && message[5..].starts_with(b"COMMIT") { counts.next() } else { Fate::Passed };
        match fate {
            Fate::Passed => to.write_all(&message).await?,
            Fate::CutBefore => return Ok(()),
            Fate::CutAfter => {
                silence.is_on.store(true, Ordering::SeqCst);
                to.write_all(&message).await?;
                silence.answered.notified().await;
                return Ok(());
            }
        }
    }
}

/// Appends length and body.
async fn read_message(from: &mut OwnedReadHalf, message: &mut Vec<u8>) -> std::io::Result<()> {
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    let begin = message.len();
    message.resize(begin + length as usize - 4, 0);
    from.read_exact(&mut message[begin..]).await.map(drop)
}
