//! Ports on 127.0.0.1: finds free ones, and refuses one in use.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use crate::Error;

/// The lowest port that is chosen.
const LOWEST: u16 = 20_000;
/// Attempts to find a free port before the system chooses one.
const ATTEMPTS: u32 = 200;
/// Ports that stay reserved at most, the newest.
const RESERVED: usize = 256;

/// The ports that this process has chosen: no other process that asks [`free`] gets one of them, although the server
/// that it is for does not listen yet, or is being restarted.
static CHOSEN: Mutex<VecDeque<UnixListener>> = Mutex::new(VecDeque::new());

/// A port that was just free, below the range of outgoing connections.
///
/// Within that range, a client that retries the port of a stopped server can get this port as its local port and
/// connect to itself; then the server cannot bind it again.
pub(crate) fn free() -> Result<u16, Error> {
    let end = first_outgoing_port().max(LOWEST + 1000);
    for _ in 0..ATTEMPTS {
        let random = uuid::Uuid::new_v4().as_u128() % u128::from(end - LOWEST);
        let port = LOWEST + u16::try_from(random).unwrap_or(0);
        // Reserved first: looking for a listener is a listener for a moment.
        if let Some(reservation) = reserve(port)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            keep(reservation);
            return Ok(port);
        }
    }
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    any.map(|address| address.port()).map_err(Error::io("find a free port on 127.0.0.1"))
}

/// Reserves a port; `None`: it is reserved. A socket with an abstract name is the reservation, since it belongs to one
/// network namespace, as ports do, and ends with the process.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("triggers-devstack-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn keep(reservation: UnixListener) {
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if chosen.len() == RESERVED {
        chosen.pop_front();
    }
    chosen.push_back(reservation);
}

/// `wanted`, or a free port if it is 0.
pub(crate) fn choose(server: &'static str, wanted: u16) -> Result<u16, Error> {
    if wanted == 0 {
        return free();
    }
    ensure_free(server, wanted)?;
    Ok(wanted)
}

/// Refuses a port on which a program listens.
pub(crate) fn ensure_free(server: &'static str, port: u16) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::PortInUse { server, port }),
        Err(error) => Err(Error::io(format!("bind 127.0.0.1:{port} for {server}"))(error)),
    }
}

fn first_outgoing_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_port_is_not_chosen_again_although_nobody_listens() {
        let port = free().unwrap();
        assert!(reserve(port).is_none());
        ensure_free("test", port).unwrap();
    }
}
