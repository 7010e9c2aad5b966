//! The bytes of one page: how many it may have, and how many of the response budget of its organization it takes while
//! it is read and sent.

use http_server::{Holder, Problem, ResponseReservation, response_problem};
use runtime::budget::Permit;

/// Bytes after which a page ends early, over all partitions, so that 1,000 large events do not become one response.
pub(super) const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// The budget is asked for this much at once; a smaller page takes nothing before it is sent.
const STEP_BYTES: usize = 64 * 1024;
/// A page is in memory twice: its rows and the JSON that is made of them.
const COPIES: u64 = 2;

/// Counts the rows of a page while they are read.
pub(super) struct PageBytes {
    holder: Holder,
    permit: Option<Permit>,
    uncounted: usize,
}

impl PageBytes {
    pub(super) fn new(holder: Holder) -> Self {
        Self { holder, permit: None, uncounted: 0 }
    }

    /// Counts a row.
    ///
    /// # Errors
    /// When the organization, or all together, hold too many bytes of responses.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Problem> {
        self.uncounted += bytes;
        if self.uncounted < STEP_BYTES {
            return Ok(());
        }
        let taken = std::mem::take(&mut self.uncounted) as u64 * COPIES;
        match &mut self.permit {
            Some(permit) => permit.grow(taken).map_err(response_problem),
            None => {
                self.permit = Some(self.holder.take_response(taken)?);
                Ok(())
            }
        }
    }

    /// What was taken, for the response.
    pub(super) fn into_reservation(self) -> Option<ResponseReservation> {
        self.permit.map(ResponseReservation::new)
    }
}
