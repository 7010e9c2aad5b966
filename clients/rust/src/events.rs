//! A stream of the inbox's events by long polls.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::error::Error;
use crate::inbox::{InboxEvent, InboxRequest, Page};

type Reading = Pin<Box<dyn Future<Output = Result<Page, Error>> + Send>>;

/// The events of the inbox, the oldest first, and then each one that arrives.
///
/// It is also a [`Stream`]. After an error that a retry can help with, it reads the same page again. After another one
/// it ends: an invalid key does not get better.
///
/// ```no_run
/// # fn load() -> Option<String> { None }
/// # fn store(cursor: &str) {}
/// # fn handle(event: &triggers_client::InboxEvent) {}
/// # async fn example(client: triggers_client::Client) -> Result<(), triggers_client::Error> {
/// let mut request = client.inbox().limit(100);
/// if let Some(cursor) = load() {
///     request = request.cursor(cursor);
/// }
/// let mut events = request.events();
/// loop {
///     let event = events.next().await?;
///     handle(&event);
///     if let Some(cursor) = events.cursor() {
///         store(cursor);
///     }
/// }
/// # }
/// ```
pub struct Events {
    /// The read of the page after the one that is handed out now, once that page is over.
    request: InboxRequest,
    page: VecDeque<InboxEvent>,
    /// Set while the page has events left.
    after_page: Option<String>,
    reading: Option<Reading>,
    gap: bool,
    /// Set by the stream, after an error that a retry cannot help with.
    has_ended: bool,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(request: InboxRequest) -> Self {
        let (request, page) = (request.of_stream(), VecDeque::new());
        Self { request, page, after_page: None, reading: None, gap: false, has_ended: false }
    }

    /// Waits for the next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A page could not be read. The next call reads it again.
    pub async fn next(&mut self) -> Result<InboxEvent, Error> {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// The cursor to store after you have handled every event so far: a stream that starts there continues after them.
    ///
    /// It moves when the last event of a page has been handed out. So after a restart a stream repeats at most the
    /// events of one page: handle events so that a repetition does no harm, or acknowledge each, which takes it out of
    /// the stream. `None`: the stream started without a cursor, and no page is over yet.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.request.current_cursor()
    }

    /// Whether events expired before this stream read them.
    #[must_use]
    pub const fn gap(&self) -> bool {
        self.gap
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<InboxEvent, Error>> {
        loop {
            if let Some(event) = self.take() {
                return Poll::Ready(Ok(event));
            }
            let request = &self.request;
            let reading = self.reading.get_or_insert_with(|| {
                let request = request.clone();
                Box::pin(async move { request.page().await })
            });
            let page = ready!(reading.as_mut().poll(context));
            self.reading = None;
            match page {
                Ok(page) => self.add(page),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn add(&mut self, page: Page) {
        self.gap |= page.gap;
        self.page = page.events.into();
        if self.page.is_empty() {
            self.request.continue_after(page.resume_cursor);
        } else {
            self.after_page = Some(page.resume_cursor);
        }
    }

    fn take(&mut self) -> Option<InboxEvent> {
        let event = self.page.pop_front()?;
        if self.page.is_empty()
            && let Some(cursor) = self.after_page.take()
        {
            self.request.continue_after(cursor);
        }
        Some(event)
    }
}

impl Stream for Events {
    type Item = Result<InboxEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let polled = this.poll_event(context);
        this.has_ended = matches!(&polled, Poll::Ready(Err(error)) if !error.is_retryable());
        polled.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::client::Client;

    fn page(ids: &[&str], resume_cursor: &str, gap: bool) -> Page {
        let event =
            |id: &&str| json!({"event_id": id, "event_type": "a", "payload": 1, "timestamp": "t", "status": "pending"});
        let events: Vec<Value> = ids.iter().map(event).collect();
        let page = json!({"events": events, "resume_cursor": resume_cursor, "gap": gap, "pagination": {}});
        serde_json::from_str(&page.to_string()).unwrap()
    }

    #[test]
    fn the_cursor_moves_when_a_page_is_over() {
        let client = Client::builder().url("http://127.0.0.1:1").key("k").build().unwrap();
        let mut events = client.inbox().events();
        let mut step = |added: Option<Page>| {
            added.into_iter().for_each(|page| events.add(page));
            let id = events.take().map(|event| event.event_id);
            (id, events.cursor().map(str::to_owned), events.gap())
        };
        let of = |id: &str, cursor: Option<&str>, gap| (Some(id.to_owned()), cursor.map(str::to_owned), gap);
        assert_eq!(step(Some(page(&["1", "2"], "c2", false))), of("1", None, false));
        assert_eq!(step(None), of("2", Some("c2"), false), "with the last event of the page");
        assert_eq!(step(Some(page(&["3", "4"], "c4", true))), of("3", Some("c2"), true));
        assert_eq!(step(None), of("4", Some("c4"), true), "a gap is remembered");
        let empty = (None, Some("c5".to_owned()), true);
        assert_eq!(step(Some(page(&[], "c5", false))), empty, "an empty page moves it at once");
    }
}
