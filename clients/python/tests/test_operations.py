"""The order of requests, retries and pauses, with outcomes that the test chooses. No network, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from triggers_client import InvalidRequestError, NewEvent, NoAnswerError, RetryPolicy, UnavailableError, _operations
from triggers_client._operations import Context
from triggers_client._requests import event_body
from triggers_client._wire import NoAnswer, Operation, Outcome, Request, Response, Sleep

T = TypeVar("T")
LOST = NoAnswer("lost", in_doubt=True)
REFUSED = NoAnswer("refused", in_doubt=False)
BUSY = Response(503, {"retry-after": "1"}, b'{"error_code": "unavailable", "detail": "busy"}')
INVALID = Response(400, {}, b'{"error_code": "invalid_request", "detail": "no"}')


class World:
    """Carries out an operation: its clock moves by sleeping only."""

    def __init__(self, answer: Callable[[int, Request], Outcome], retry: RetryPolicy | None = None) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.sleeps: list[float] = []
        self.context = Context(retry or RetryPolicy(), lambda: sum(self.sleeps), lambda: 0.0, make_dedup_keys=True)

    def run(self, operation: Operation[T]) -> T:
        outcome: Outcome | None = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Sleep):
                self.sleeps.append(step.seconds)
                outcome = None
            else:
                self.requests.append(step)
                outcome = self._answer(len(self.requests), step)


def accepted(_: Request | None = None) -> Response:
    return Response(201, {}, b'{"event_id": "e", "event_type": "a", "timestamp": null, "position": "p"}')


def items_of(request: Request) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(request.body or b"")["events"]
    return events


def results(request: Request, statuses: Callable[[int], int] = lambda _: 201) -> Response:
    made = []
    for index, item in enumerate(items_of(request)):
        status = statuses(index)
        made.append({"index": index, "status": status, "event_id": f"id-{item['payload']}" if status < 300 else None})
    return Response(207, {}, json.dumps({"results": made}).encode())


def keys(request: Request) -> list[str]:
    return [value for name, value in request.headers if name == "idempotency-key"]


def test_all_attempts_have_one_key_and_one_body() -> None:
    outcomes: list[Outcome] = [LOST, BUSY, Response(504), REFUSED, accepted()]
    world = World(lambda count, _: outcomes[count - 1])
    assert world.run(_operations.send(NewEvent("a", 1), None, world.context)).event_id == "e"
    assert len(world.requests) == len(outcomes)
    assert len({(request.body, *keys(request)) for request in world.requests}) == 1
    assert len(keys(world.requests[0])) == 1
    assert world.sleeps[1] >= 1, "Retry-After is honoured"


def test_no_key_is_made_beside_a_dedup_id() -> None:
    world = World(lambda _count, _request: accepted())
    world.run(_operations.send(NewEvent("a", 1, dedup_id="d"), None, world.context))
    assert keys(world.requests[0]) == [], "the server does not look at a dedup_id beside an Idempotency-Key"
    world.run(_operations.send(NewEvent("a", 1), "mine", world.context))
    assert keys(world.requests[1]) == ["mine"]
    content = Context(RetryPolicy(), lambda: 0.0, lambda: 0.0, make_dedup_keys=False)
    world.run(_operations.send(NewEvent("a", 1), None, content))
    assert keys(world.requests[2]) == []


def test_the_budget_bounds_attempts_and_pauses() -> None:
    world = World(lambda _count, _request: LOST, RetryPolicy(max_attempts=1_000, total_seconds=20))
    with pytest.raises(NoAnswerError) as raised:
        world.run(_operations.send(NewEvent("a", 1), None, world.context))
    assert raised.value.in_doubt
    assert sum(world.sleeps) < 20
    for number, request in enumerate(world.requests):
        assert request.within_seconds == pytest.approx(20 - sum(world.sleeps[:number]))


def test_a_final_answer_is_not_retried() -> None:
    world = World(lambda _count, _request: INVALID)
    with pytest.raises(InvalidRequestError):
        world.run(_operations.send(NewEvent("a", 1), None, world.context))
    assert len(world.requests) == 1


def test_a_batch_is_split_by_count() -> None:
    world = World(lambda _count, request: results(request))
    done = world.run(_operations.send_batch([NewEvent("a", n) for n in range(2_001)], world.context, retry=True))
    assert [len(items_of(request)) for request in world.requests] == [1_000, 1_000, 1]
    assert [result.event_id for result in done] == [f"id-{n}" for n in range(2_001)]


def test_a_batch_is_split_by_bytes() -> None:
    world = World(lambda _count, request: results(request))
    sizes = [_operations.MAX_BATCH_BYTES // 4] * 9 + [5, 6]
    world.run(_operations.send_batch([NewEvent("a", "x" * size) for size in sizes], world.context, retry=True))
    bodies = [len(request.body or b"") for request in world.requests]
    assert max(bodies) <= _operations.MAX_BATCH_BYTES
    assert sum(len(items_of(request)) for request in world.requests) == len(sizes)
    assert len(bodies) == 3


def test_the_largest_batch_is_exactly_the_bound() -> None:
    empty = len(event_body(NewEvent("a", "", dedup_id="d"))) + len(b'{"events":[]}')
    room = _operations.MAX_BATCH_BYTES - empty
    world = World(lambda _count, request: results(request))
    fits, too_large = (NewEvent("a", "x" * size, dedup_id="d") for size in (room, room + 1))
    first, second = world.run(_operations.send_batch([fits, too_large], world.context, retry=True))
    assert [len(request.body or b"") for request in world.requests] == [_operations.MAX_BATCH_BYTES]
    assert first.is_stored
    assert (second.status, second.error_code) == (413, "payload_too_large"), "one event does not stop the others"


def test_only_the_refused_events_are_sent_again() -> None:
    def answer(count: int, request: Request) -> Outcome:
        return results(request, lambda index: 503 if count == 1 and index in {1, 3} else 201)

    world = World(answer)
    done = world.run(_operations.send_batch([NewEvent("a", n) for n in range(5)], world.context, retry=True))
    assert [[item["payload"] for item in items_of(request)] for request in world.requests] == [[0, 1, 2, 3, 4], [1, 3]]
    assert [result.event_id for result in done] == [f"id-{n}" for n in range(5)]


def test_a_lost_answer_to_a_batch_repeats_no_event() -> None:
    def answer(count: int, request: Request) -> Outcome:
        if count == 1:
            return LOST
        items = items_of(request)
        duplicates = [{"status": 409, "event_id": "e", "error_code": "duplicate_event"} for _ in items]
        return Response(207, {}, json.dumps({"results": duplicates}).encode())

    world = World(answer)
    events = [NewEvent("a", 1), NewEvent("a", 2, dedup_id="mine")]
    made, mine = world.run(_operations.send_batch(events, world.context, retry=True))
    assert world.requests[0].body == world.requests[1].body, "the made dedup_id is the same in each attempt"
    assert (made.status, made.duplicate) == (201, False), "the original is this call's own first attempt"
    assert (mine.status, mine.duplicate) == (409, True)


def test_without_retry_nothing_is_sent_twice_or_changed() -> None:
    world = World(lambda _count, _request: LOST)
    with pytest.raises(NoAnswerError) as raised:
        world.run(_operations.send_batch([NewEvent("a", 1)], world.context, retry=False))
    assert items_of(world.requests[0]) == [{"event_type": "a", "payload": 1}]
    assert len(world.requests) == 1
    assert [result.error_code for result in raised.value.batch_results] == ["no_answer"]


def test_an_error_carries_the_results_so_far() -> None:
    world = World(lambda count, request: results(request) if count == 1 else BUSY)
    with pytest.raises(UnavailableError) as raised:
        world.run(_operations.send_batch([NewEvent("a", n) for n in range(2_500)], world.context, retry=True))
    states = [result.error_code for result in raised.value.batch_results]
    assert states == [None] * 1_000 + ["unavailable"] * 1_000 + ["not_sent"] * 500


def test_nothing_is_sent_if_an_event_is_no_json() -> None:
    world = World(lambda _count, request: results(request))
    with pytest.raises(ValueError, match="JSON"):
        world.run(_operations.send_batch([NewEvent("a", 1), NewEvent("a", float("nan"))], world.context, retry=True))
    assert world.requests == []


def test_acks_are_sent_in_parts_and_each_id_once() -> None:
    def answer(_: int, request: Request) -> Outcome:
        ids = json.loads(request.body or b"")["event_ids"]
        done = [{"event_id": event_id, "status": "acknowledged"} for event_id in ids]
        return Response(200, {}, json.dumps({"results": done}).encode())

    world = World(answer)
    ids = [str(n) for n in range(2_300)]
    done = world.run(_operations.ack(ids + ids, world.context))
    assert [len(json.loads(request.body or b"")["event_ids"]) for request in world.requests] == [1_000, 1_000, 300]
    assert [result.event_id for result in done] == ids
    assert world.run(_operations.ack([], world.context)) == []
    assert len(world.requests) == 3


def test_a_long_poll_does_not_use_up_the_budget() -> None:
    world = World(lambda _count, _request: accepted(), RetryPolicy(total_seconds=5))
    request = Request("GET", "/v1/inbox", wait_seconds=30)
    world.run(_operations.exchange(request, lambda response: response.status, world.context))
    assert world.requests[0].within_seconds == 35
