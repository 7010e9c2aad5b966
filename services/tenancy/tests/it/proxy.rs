//! A TCP proxy before PostgreSQL, to take it away from one instance while others still reach it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections that listen for notifications stay open, and nothing comes through them any more.
    MuteListeners,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// In front of the server that `url` names.
    pub(crate) async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, watching) = watch::channel(Mode::Pass);
        let server = server_of(url).to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), watching.clone()));
            }
        });
        Self { address, mode }
    }

    /// `url`, through this proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(server_of(url), &self.address.to_string())
    }

    pub(crate) fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub(crate) fn mute_listeners(&self) {
        self.mode.send_replace(Mode::MuteListeners);
    }
}

/// `host:port` in a URL.
fn server_of(url: &str) -> &str {
    let after_user = url.rsplit_once('@').map_or_else(|| url.split_once("//").unwrap().1, |(_, rest)| rest);
    after_user.split(['/', '?']).next().unwrap()
}

async fn forward(mut client: TcpStream, server: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow_and_update() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 16_384], vec![0; 16_384]);
    let mut listens = false;
    loop {
        let (source_is_client, count) = tokio::select! {
            _ = mode.changed() => {
                if *mode.borrow_and_update() == Mode::Cut {
                    return;
                }
                continue;
            }
            read = client.read(&mut from_client) => (true, read),
            read = server.read(&mut from_server) => (false, read),
        };
        let Ok(count @ 1..) = count else { return };
        listens |= source_is_client && from_client[..count].windows(6).any(|word| word == b"LISTEN");
        if listens && *mode.borrow() == Mode::MuteListeners {
            continue;
        }
        let written = if source_is_client {
            server.write_all(&from_client[..count]).await
        } else {
            client.write_all(&from_server[..count]).await
        };
        if written.is_err() {
            return;
        }
    }
}
