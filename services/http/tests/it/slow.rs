//! Log lines of slow requests.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use http_server::{LongPollWait, MountOptions, ServerLimits, mount};
use tracing::subscriber::DefaultGuard;

use super::Server;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Captures the log of this thread, on which the server of the test runs too.
    fn start() -> (Self, DefaultGuard) {
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (captured, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn ask(options: MountOptions, path: &str) -> String {
    let (captured, _guard) = Captured::start();
    let api = Router::new()
        .route("/things", get(|| async { "things" }))
        .route("/poll", get(|| async { (Extension(LongPollWait(Duration::from_secs(3600))), "waited") }));
    let server = Server::start_with(mount(api, options), ServerLimits::default()).await;
    let response = server.request(&format!("GET {path}"), &["x-request-id: slow-1"], b"").await;
    assert_eq!(response.status, 200);
    captured.text()
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_slow_request_is_a_warning_with_its_id_and_template() {
    let text =
        ask(MountOptions { slow_warn: Duration::ZERO, slow_error: NEVER, ..MountOptions::default() }, "/v1/things")
            .await;
    let line = text.lines().find(|line| line.contains("slow-1")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("WARN") && line.contains("/v1/things") && line.contains("duration_ms"), "{line}");
}

#[tokio::test]
async fn a_request_over_the_error_threshold_is_an_error() {
    let text = ask(
        MountOptions { slow_warn: Duration::ZERO, slow_error: Duration::ZERO, ..MountOptions::default() },
        "/v1/things",
    )
    .await;
    assert!(text.lines().any(|line| line.contains("slow-1") && line.contains("ERROR")), "{text}");
}

#[tokio::test]
async fn the_wait_of_a_long_poll_does_not_count_as_slow() {
    let text = ask(
        MountOptions { slow_warn: Duration::ZERO, slow_error: Duration::ZERO, ..MountOptions::default() },
        "/v1/poll",
    )
    .await;
    assert!(!text.contains("slow-1"), "{text}");
}
