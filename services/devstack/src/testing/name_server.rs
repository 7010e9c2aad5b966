//! A name server: names below `live.test` are 127.0.0.1, names below `dead.test` get no answer, as if their server were
//! dead, and no others exist.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const LIVE_ZONE: &str = ".live.test.";
const DEAD_ZONE: &str = ".dead.test.";
const TTL_SECONDS: u32 = 1;
const MAX_REQUEST_BYTES: usize = 1500;

/// Answers until it is dropped.
pub struct NameServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Listens on a free UDP port of 127.0.0.1.
    ///
    /// # Errors
    /// If there is none.
    pub async fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        Ok(Self { address, task: tokio::spawn(serve(socket)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket) {
    let mut buffer = [0; MAX_REQUEST_BYTES];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { return };
        if let Some(answer) = buffer.get(..length).and_then(answer) {
            // Who asked has gone, or asks again.
            drop(socket.send_to(&answer, from).await);
        }
    }
}

/// `None`: it stays silent.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(request).ok()?.into_response();
    let query = message.queries.first()?.clone();
    let name = query.name().to_string().to_lowercase();
    if name.ends_with(DEAD_ZONE) {
        return None;
    }
    if !name.ends_with(LIVE_ZONE) {
        message.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::A {
        let address = RData::A(A(Ipv4Addr::LOCALHOST));
        message.add_answer(Record::from_rdata(query.name().clone(), TTL_SECONDS, address));
    }
    message.to_vec().ok()
}
