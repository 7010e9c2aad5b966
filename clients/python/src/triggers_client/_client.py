"""The client for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

import httpx
from typing_extensions import Self

from triggers_client import _answers, _operations, _requests
from triggers_client._http import AnswerBody, ClientBase, no_answer
from triggers_client._models import Accepted, AckResult, BatchResult, Event, EventStatus, NewEvent, Page, Received
from triggers_client._reader import Reader
from triggers_client._wire import Operation, Outcome, Request, Sleep

T = TypeVar("T")


class Client(ClientBase):
    """A client of one system. Threads may share it. It is a context manager."""

    def _open(self, settings: dict[str, Any]) -> None:
        self._http = httpx.Client(**settings)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(
        self,
        event_type: str,
        payload: Any,  # noqa: ANN401
        *,
        dedup_id: str | None = None,
        ordering_key: str | None = None,
        source: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timestamp: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> Accepted:
        """Send one event; when this returns, the log has it.

        A retry does not store the event twice: all attempts have the same `idempotency_key` or `dedup_id`; without
        either, the client makes a key. An event whose `dedup_id` was accepted within the last 24 hours is no error:
        the result has `duplicate=True` and the id of the original. (If an attempt with a `dedup_id` got no answer, the
        original may be that attempt's event.) The server ignores a `dedup_id` beside an `idempotency_key`.
        """
        event = NewEvent(event_type, payload, dedup_id, ordering_key, source, metadata, timestamp)
        return self._run(_operations.send(event, idempotency_key, self._context))

    def send_batch(self, events: Iterable[NewEvent], *, retry: bool = True) -> list[BatchResult]:
        """Send many events, in requests of at most 1,000 events and 4 MiB. Returns a result for each, in order.

        Nothing is sent if the payload of an event is no JSON. An event that the server refuses does not stop the
        others. If a request fails as a whole, its error is raised, and `error.batch_results` has the results so far.

        With `retry`, the client makes a `dedup_id` for each event without one, which the event keeps: so a retry after
        a lost answer stores no event twice. Without, each request is sent once and the events stay as they are.
        """
        return self._run(_operations.send_batch(events, self._context, retry=retry))

    def page(
        self,
        *,
        cursor: str | None = None,
        event_types: str | Iterable[str] = (),
        limit: int = 100,
        wait_seconds: int = 0,
        order: str | None = None,
        include_acknowledged: bool = False,
        min_position: str | None = None,
    ) -> Page:
        """Read one page of the inbox. `min_position`: wait until the inbox shows what `send` returned it for."""
        request = _requests.inbox(
            cursor=cursor,
            event_types=event_types,
            limit=limit,
            wait_seconds=wait_seconds,
            order=order,
            include_acknowledged=include_acknowledged,
            min_position=min_position,
        )
        return self._run(_operations.exchange(request, _answers.page, self._context))

    def events(
        self,
        *,
        cursor: str | None = None,
        event_types: str | Iterable[str] = (),
        wait_seconds: int = 20,
        limit: int = 100,
        include_acknowledged: bool = False,
    ) -> Iterator[Received]:
        """Follow the inbox, from `cursor` or from its start: each event with the cursor to store after it.

        It waits for events by long polls of `wait_seconds` and never ends; with 0 it ends where the inbox ends.
        """
        reader = Reader(
            cursor=cursor,
            event_types=event_types,
            wait_seconds=wait_seconds,
            limit=limit,
            include_acknowledged=include_acknowledged,
        )
        while not reader.at_end:
            yield from reader.read(self._run(_operations.exchange(reader.request(), _answers.page, self._context)))

    def ack(self, event_ids: Iterable[str]) -> list[AckResult]:
        """Acknowledge events: they leave the inbox. Returns a result for each distinct id."""
        return self._run(_operations.ack(event_ids, self._context))

    def consume(
        self,
        handler: Callable[[Event], object],
        *,
        event_types: str | Iterable[str] = (),
        wait_seconds: int = 20,
        limit: int = 100,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Call `handler` with each event that is not acknowledged, oldest first, and acknowledge it afterwards.

        At least once: after a crash, events of the last page come again; their `event_id` is the same. If the handler
        raises, the events before are acknowledged and its exception is raised; that event comes again in the next
        `consume`. Ends when `stop()` is true, which is asked before each event and each poll, or, with
        `wait_seconds=0`, where the inbox ends. Returns the number of handled events.
        """
        reader = Reader(
            cursor=None, event_types=event_types, wait_seconds=wait_seconds, limit=limit, include_acknowledged=False
        )
        count = 0
        while not reader.at_end and not stop():
            page = self._run(_operations.exchange(reader.request(), _answers.page, self._context))
            handled: list[str] = []
            try:
                for received in reader.read(page):
                    if stop():
                        break
                    handler(received.event)
                    handled.append(received.event.event_id)
            except Exception:
                self.ack(handled)
                raise
            self.ack(handled)
            count += len(handled)
        return count

    def get(self, event_id: str) -> Event:
        """Read one event, acknowledged or not. Raises `NotFoundError`."""
        return self._run(_operations.exchange(_requests.event(event_id), _answers.event, self._context))

    def status(self, event_id: str) -> EventStatus:
        """Read the webhook deliveries of one event. Raises `NotFoundError`."""
        return self._run(_operations.exchange(_requests.status(event_id), _answers.status, self._context))

    def _run(self, operation: Operation[T]) -> T:
        """Carry out the steps of an operation."""
        outcome: Outcome | None = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Sleep):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._exchange(step)

    def _exchange(self, request: Request) -> Outcome:
        body = AnswerBody(self._attempt_seconds(request))
        try:
            with self._http.stream(**self._arguments(request)) as response:
                for chunk in response.iter_raw():
                    body.add(chunk)
                return body.response(response)
        except (httpx.HTTPError, httpx.StreamError) as error:
            return no_answer(self.base_url, error)
