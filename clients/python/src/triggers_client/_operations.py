"""The calls of the clients as operations: which requests, retries and pauses, in which order. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from triggers_client import _answers, _requests
from triggers_client._errors import ApiError, NoAnswerError, TriggersError
from triggers_client._models import Accepted, AckResult, BatchResult, NewEvent
from triggers_client._retry import RetryPolicy
from triggers_client._wire import NoAnswer, Operation, Outcome, Request, Response, Sleep

MAX_BATCH_EVENTS = 1_000
MAX_BATCH_BYTES = 4 * 1024 * 1024
_FRAME_BYTES = len(b'{"events":[]}')
_RETRIED_ITEM_STATUSES = frozenset({429, 503})
_NOT_SENT = BatchResult(status=0, error_code="not_sent", message="an earlier request of this call failed")
_TOO_LARGE = BatchResult(status=413, error_code="payload_too_large", message="the event alone is larger than a batch")

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What an operation needs from outside."""

    retry: RetryPolicy
    #: Seconds of a monotonic clock.
    clock: Callable[[], float]
    #: In [0, 1).
    random: Callable[[], float]
    make_dedup_keys: bool


class _Attempts:
    """The attempts of one request, under the bounds of the policy."""

    def __init__(self, context: Context, policy: RetryPolicy) -> None:
        self._context = context
        self._policy = policy
        self._started = context.clock()
        self._count = 0

    def next(self, request: Request) -> Request:
        self._count += 1
        elapsed = self._context.clock() - self._started
        return request.within(max(0.1, self._policy.total_seconds - elapsed))

    def pause(self, outcome: Outcome) -> Sleep | None:
        """Return the pause before the next attempt; `None`: the outcome is final."""
        elapsed = self._context.clock() - self._started
        delay = self._policy.delay_seconds(self._count, outcome, elapsed, self._context.random())
        return None if delay is None else Sleep(delay)


def exchange(request: Request, read: Callable[[Response], T], context: Context) -> Operation[T]:
    """Send the request until its outcome is final, and read the answer. The request must be safe to repeat."""
    # The server may hold a long poll back: that is no trouble, and takes nothing of the budget.
    policy = replace(context.retry, total_seconds=context.retry.total_seconds + request.wait_seconds)
    attempts = _Attempts(context, policy)
    while True:
        outcome = _outcome((yield attempts.next(request)))
        pause = attempts.pause(outcome)
        if pause is None:
            return read(_answer(outcome))
        yield pause


def send(event: NewEvent, idempotency_key: str | None, context: Context) -> Operation[Accepted]:
    """Send an event. One dedup key covers all attempts: the caller's, or an Idempotency-Key made here."""
    # The server does not look at a dedup_id beside an Idempotency-Key, so none is made then.
    made_key = context.make_dedup_keys and idempotency_key is None and event.dedup_id is None
    key = str(uuid.uuid4()) if made_key else idempotency_key
    request = _requests.send(event, key)
    result = yield from exchange(request, lambda response: _answers.accepted(response, made_key=made_key), context)
    return result if result.event_type else replace(result, event_type=event.event_type)


def ack(event_ids: Iterable[str], context: Context) -> Operation[list[AckResult]]:
    """Acknowledge events, in requests of at most 1,000 ids."""
    distinct = list(dict.fromkeys(event_ids))
    results: list[AckResult] = []
    for start in range(0, len(distinct), _requests.MAX_ACK_IDS):
        request = _requests.ack(distinct[start : start + _requests.MAX_ACK_IDS])
        results += yield from exchange(request, _answers.acks, context)
    return results


@dataclass(frozen=True)
class _Item:
    """An event of a batch."""

    index: int
    body: bytes
    #: This call made the dedup_id: a duplicate is what an earlier attempt stored.
    made_id: bool


def send_batch(events: Iterable[NewEvent], context: Context, *, retry: bool) -> Operation[list[BatchResult]]:
    """Send events in as many requests as they need. An error that is raised carries the results."""
    items = [_item(index, event, make_id=retry and context.make_dedup_keys) for index, event in enumerate(events)]
    results = [_TOO_LARGE if _is_too_large(item) else _NOT_SENT for item in items]
    policy = context.retry if retry else replace(context.retry, max_attempts=1)
    try:
        for part in split([item for item in items if not _is_too_large(item)]):
            yield from _send_part(part, results, _Attempts(context, policy))
    except TriggersError as error:
        error.batch_results = tuple(results)
        raise
    return results


def _item(index: int, event: NewEvent, *, make_id: bool) -> _Item:
    made_id = make_id and event.dedup_id is None
    event = replace(event, dedup_id=str(uuid.uuid4())) if made_id else event
    return _Item(index, _requests.event_body(event), made_id)


def _is_too_large(item: _Item) -> bool:
    return len(item.body) + _FRAME_BYTES > MAX_BATCH_BYTES


def split(items: Sequence[_Item]) -> list[list[_Item]]:
    """Split into parts that fit into one request each, in order."""
    parts: list[list[_Item]] = []
    free_bytes = 0
    for item in items:
        needed_bytes = len(item.body) + len(b",")
        if not parts or len(parts[-1]) == MAX_BATCH_EVENTS or needed_bytes > free_bytes:
            parts.append([])
            free_bytes = MAX_BATCH_BYTES - _FRAME_BYTES + len(b",")
        parts[-1].append(item)
        free_bytes -= needed_bytes
    return parts


def _send_part(part: list[_Item], results: list[BatchResult], attempts: _Attempts) -> Operation[None]:
    """Send one request; send again the events that the server could not take at the moment."""
    pending = part
    while pending:
        outcome = _outcome((yield attempts.next(_requests.batch(item.body for item in pending))))
        try:
            answers = _answers.batch(_answer(outcome), len(pending))
        except TriggersError as error:
            pause = attempts.pause(outcome)
            if pause is None:
                for item in pending:
                    results[item.index] = _failed(error)
                raise
        else:
            for item, answer in zip(pending, answers):
                own = item.made_id and answer.duplicate
                results[item.index] = replace(answer, duplicate=False, status=201) if own else answer
            pending = [item for item in pending if results[item.index].status in _RETRIED_ITEM_STATUSES]
            pause = attempts.pause(Response(503))
            if pause is None:
                return
        if pending:
            yield pause


def _failed(error: TriggersError) -> BatchResult:
    """Return the result of an event whose request failed as a whole."""
    if isinstance(error, ApiError):
        return BatchResult(status=error.status, error_code=error.code, message=error.detail, fields=error.fields)
    if isinstance(error, NoAnswerError) and not error.in_doubt:
        return replace(_NOT_SENT, message=str(error))
    return BatchResult(status=0, error_code="no_answer", message=str(error))


def _outcome(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        raise TypeError("the outcome of a request is missing")
    return outcome


def _answer(outcome: Outcome) -> Response:
    if isinstance(outcome, NoAnswer):
        raise NoAnswerError(outcome.text, outcome.in_doubt)
    return outcome
