//! Timeouts and limits of the HTTP server.

use std::time::Duration;

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
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}
