"""Follows the inbox by cursors. Pure: it says which page to read next and what a page gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from triggers_client import _requests
from triggers_client._models import Page, Received
from triggers_client._wire import Request


class Reader:
    """Where a reader of the inbox is."""

    def __init__(
        self,
        *,
        cursor: str | None,
        event_types: str | Iterable[str],
        wait_seconds: int,
        limit: int,
        include_acknowledged: bool,
    ) -> None:
        self._cursor = cursor
        self._event_types = (event_types,) if isinstance(event_types, str) else tuple(event_types)
        self._wait_seconds = wait_seconds
        self._limit = limit
        self._include_acknowledged = include_acknowledged
        self._gap = False
        self.at_end = False

    def request(self) -> Request:
        """Return the request of the next page."""
        return _requests.inbox(
            cursor=self._cursor,
            limit=self._limit,
            event_types=self._event_types,
            wait_seconds=self._wait_seconds,
            include_acknowledged=self._include_acknowledged,
        )

    def read(self, page: Page) -> Iterator[Received]:
        """Go on behind this page, and return its events. A page may have none, and more may follow all the same."""
        before, after = self._cursor, page.next_cursor or page.resume_cursor
        self._cursor = after
        # Without a wait the reader ends where the inbox ends.
        self.at_end = not page.has_more and self._wait_seconds == 0
        gap, self._gap = self._gap or page.gap, not page.events and (self._gap or page.gap)
        last = len(page.events) - 1
        return iter(
            [
                Received(event, after if index == last else before, gap=gap and index == 0)
                for index, event in enumerate(page.events)
            ]
        )
