//! The pause between two rounds of a periodic task.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Sleeps; `false` when `shutdown` came first.
pub(super) async fn sleep_unless_shutdown(pause: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}
