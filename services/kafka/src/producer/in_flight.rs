//! The bytes of records that librdkafka holds. They are given back at the delivery report, even if nobody waits for it:
//! a client that disconnects does not take its record back.

use rdkafka::producer::DeliveryFuture;
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use runtime::budget::Permit;
use tokio::runtime::Handle;

/// About what librdkafka and the wait for the report take for each record.
const RECORD_BYTES: usize = 512;

/// About the bytes that a record without a value takes until its report.
pub(super) fn bytes_without_value(key: Option<&[u8]>, headers: &[(&str, &[u8])]) -> u64 {
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    (RECORD_BYTES + key.map_or(0, <[u8]>::len) + headers) as u64
}

/// The report of one record, and its bytes.
pub(super) struct PendingReport(Option<(DeliveryFuture, Permit)>);

impl PendingReport {
    pub(super) fn new(report: DeliveryFuture, bytes: Permit) -> Self {
        Self(Some((report, bytes)))
    }

    /// Waits for the report, and gives the bytes back. `None`: the producer was closed.
    pub(super) async fn received(&mut self) -> Option<OwnedDeliveryResult> {
        let (report, _) = self.0.as_mut()?;
        let received = report.await;
        self.0 = None;
        received.ok()
    }
}

impl Drop for PendingReport {
    fn drop(&mut self) {
        let Some((report, bytes)) = self.0.take() else { return };
        // Without a runtime the process stops.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                drop(report.await);
                drop(bytes);
            });
        }
    }
}
