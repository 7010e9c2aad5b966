//! Timeouts and limits of the HTTP server.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Limits of a server. Tests set shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// From the first byte of a request (or the opening of the connection) to the end of its headers. Default 10 s.
    pub header_read_timeout: Duration,
    /// For the whole body. Default 30 s.
    pub body_read_timeout: Duration,
    /// How long a connection may be idle between two requests. Default 75 s.
    pub idle_timeout: Duration,
    /// How long the client may accept no byte of a response. Default 30 s.
    pub write_stall_timeout: Duration,
    /// Size of request line and headers. Default 32 KiB; above it hyper answers 431 without a body.
    pub max_header_bytes: usize,
    /// Number of open connections; the server answers 503 to further ones. Default 20,000.
    pub max_connections: usize,
    /// Number of open connections of one peer (an address, or an IPv6 /64). Default 2,000.
    pub max_connections_per_peer: usize,
    /// How long a connection may be idle that never sent a valid key. Default 20 s.
    pub idle_timeout_without_key: Duration,
    /// How long a connection may be idle while three quarters of all places for connections are taken. Default 2 s.
    pub idle_timeout_when_crowded: Duration,
    /// Bytes of request bodies that are held in all. Default 64 MiB.
    pub max_body_bytes: u64,
    /// Bytes of request bodies that one organization or address holds. Default 24 MiB.
    pub max_body_bytes_per_holder: u64,
    /// Bytes of responses to organizations that are held in all until they are sent: all of HTTP/2, and those of 16 KiB
    /// and more of HTTP/1. Default 64 MiB.
    pub max_response_bytes: u64,
    /// Bytes of responses that one organization holds. Default 24 MiB.
    pub max_response_bytes_per_holder: u64,
    /// The same for all clients without a key. Default 32 MiB.
    pub max_response_bytes_without_key: u64,
    /// Bytes of responses that one address holds without a key. Default 12 MiB.
    pub max_response_bytes_per_address: u64,
    /// How long a response may take besides the time that its size allows. Default 10 s.
    pub response_grace: Duration,
    /// The least rate at which a client must read a response, bytes a second. Default 64 KiB.
    pub min_response_bytes_per_second: u64,
    /// How long open requests may take after the shutdown started. Default 10 s.
    pub shutdown_deadline: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(30),
            max_header_bytes: 32 * 1024,
            max_connections: 20_000,
            max_connections_per_peer: 2_000,
            idle_timeout_without_key: Duration::from_secs(20),
            idle_timeout_when_crowded: Duration::from_secs(2),
            max_body_bytes: 64 * MIB,
            max_body_bytes_per_holder: 24 * MIB,
            max_response_bytes: 64 * MIB,
            max_response_bytes_per_holder: 24 * MIB,
            max_response_bytes_without_key: 32 * MIB,
            max_response_bytes_per_address: 12 * MIB,
            response_grace: Duration::from_secs(10),
            min_response_bytes_per_second: 64 * 1024,
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}
