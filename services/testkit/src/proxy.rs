//! A proxy before PostgreSQL that disconnects one instance while others still reach the server, or cuts connections
//! around their COMMIT: before it is forwarded, so that it never happened, or after its answer came and before that is
//! forwarded, so that the client cannot know the outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One commit of this many is cut, in turn before and after it.
const CUT_ONE_IN: usize = 7;
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Closes open and new connections.
    Disconnect,
    /// Keeps connections with LISTEN open and forwards nothing through them.
    MuteListeners,
    CutCommits,
}

/// Forwards until it is dropped.
pub struct DatabaseProxy {
    /// The URL of the database, through this proxy.
    pub url: String,
    mode: watch::Sender<Mode>,
    commits: Arc<Commits>,
    server: JoinHandle<()>,
}

impl Drop for DatabaseProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl DatabaseProxy {
    /// Starts before the server of `database_url`, which must have a user and `sslmode=disable`.
    pub async fn start(database_url: &str) -> Self {
        let (user, rest) = database_url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
        let (mode, watching) = watch::channel(Mode::Forward);
        let (commits, address) = (Arc::new(Commits::default()), server.to_owned());
        let counts = commits.clone();
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watching.borrow() == Mode::Disconnect {
                    continue;
                }
                let (mode, counts, address) = (watching.clone(), counts.clone(), address.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(address).await {
                        // Both connections end here. Why does not matter: either side sees the other one closed.
                        drop(forward(client, server, mode, &counts).await);
                    }
                });
            }
        });
        Self { url, mode, commits, server }
    }

    pub fn reconnect(&self) {
        self.mode.send_replace(Mode::Forward);
    }

    pub fn disconnect(&self) {
        self.mode.send_replace(Mode::Disconnect);
    }

    /// Keeps connections with LISTEN open and forwards nothing through them.
    pub fn mute_listeners(&self) {
        self.mode.send_replace(Mode::MuteListeners);
    }

    /// From now on cuts the connections of some commits.
    pub fn cut_commits(&self) {
        self.mode.send_replace(Mode::CutCommits);
    }

    /// Connections that were cut before their commit, and after it.
    pub fn cuts(&self) -> (usize, usize) {
        (self.commits.cut_before.load(Ordering::Relaxed), self.commits.cut_after.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Commits {
    seen: AtomicUsize,
    cut_before: AtomicUsize,
    cut_after: AtomicUsize,
}

#[derive(PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

impl Commits {
    /// Whether the next commit is cut.
    fn next(&self) -> Option<Cut> {
        let nth = self.seen.fetch_add(1, Ordering::Relaxed);
        let (cut, count) = match (nth % CUT_ONE_IN, nth / CUT_ONE_IN % 2) {
            (0, 0) => (Cut::Before, &self.cut_before),
            (0, _) => (Cut::After, &self.cut_after),
            _ => return None,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(cut)
    }
}

/// Forwards both ways until a side closes its connection or the mode cuts it.
async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    mut mode: watch::Receiver<Mode>,
    commits: &Commits,
) -> std::io::Result<()> {
    // Small writes must not wait for each other's acknowledgement, nor answers be read in small pieces.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut requests, mut answers) = (Vec::with_capacity(BUFFER_BYTES), Vec::with_capacity(BUFFER_BYTES));
    // The first message has no type.
    let (mut is_typed, mut listens) = (false, false);
    loop {
        tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() || *mode.borrow_and_update() == Mode::Disconnect {
                    return Ok(());
                }
            }
            read = client.read_buf(&mut requests) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            read = server.read_buf(&mut answers) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
        let now = *mode.borrow();
        while let Some(message) = next_message(&mut requests, is_typed) {
            is_typed = true;
            listens |= message.windows(6).any(|word| word == b"LISTEN");
            let is_commit = message[0] == b'Q' && message[5..].starts_with(b"COMMIT");
            let cut = if is_commit && now == Mode::CutCommits { commits.next() } else { None };
            if cut == Some(Cut::Before) {
                return Ok(());
            }
            if !(listens && now == Mode::MuteListeners) {
                server.write_all(&message).await?;
            }
            if cut == Some(Cut::After) {
                // PostgreSQL answers when the commit has happened.
                return server.read_buf(&mut answers).await.map(drop);
            }
        }
        if !(listens && now == Mode::MuteListeners) {
            client.write_all(&answers).await?;
        }
        answers.clear();
    }
}

/// Removes the first message from the bytes, if it is complete.
fn next_message(bytes: &mut Vec<u8>, is_typed: bool) -> Option<Vec<u8>> {
    let length_at = usize::from(is_typed);
    let length = bytes.get(length_at..length_at + 4)?;
    let end = length_at + u32::from_be_bytes(length.try_into().unwrap()) as usize;
    (bytes.len() >= end).then(|| bytes.drain(..end).collect())
}
