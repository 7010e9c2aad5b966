"""Answers as they are read, without a network."""

from __future__ import annotations

import json
import pickle
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from triggers_client import (
    ApiError,
    AuthenticationError,
    FieldError,
    InvalidAnswerError,
    InvalidRequestError,
    NoAnswerError,
    ServerError,
    UnavailableError,
    _answers,
)
from triggers_client._wire import Response

EVENT: dict[str, Any] = {
    "event_id": "e1",
    "event_type": "a.b",
    "payload": {"x": 1},
    "timestamp": "2026-11-29T11:18:21.266Z",
    "status": "pending",
}


def response(status: int, document: Any, **headers: str) -> Response:
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(document).encode()
    )


def problem(status: int, code: str, **members: Any) -> Response:
    return response(status, {"status": status, "error_code": code, "detail": "why", "request_id": "r", **members})


def test_an_event() -> None:
    event = _answers.event(
        response(200, {**EVENT, "metadata": None, "occurred_at": "0001-01-01T00:00:00.000Z", "new": 1})
    )
    assert (event.event_id, event.payload, event.metadata) == ("e1", {"x": 1}, {})
    assert event.timestamp == datetime(2026, 11, 29, 11, 18, 21, 266_000, tzinfo=timezone.utc)
    assert event.occurred_at == datetime(1, 1, 1, tzinfo=timezone.utc)


def test_a_huge_number_does_not_block_the_inbox() -> None:
    digits = "9" * 5_000
    body = json.dumps({**EVENT, "payload": "N"}).replace('"N"', digits).encode()
    assert _answers.event(Response(200, {}, body)).payload == Decimal(digits)


@pytest.mark.parametrize(
    "broken",
    [{"event_id": None}, {"event_id": 7}, {"timestamp": "yesterday"}, {"attempts": True}, {"metadata": []}],
)
def test_a_malformed_member_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidAnswerError, match=next(iter(broken))):
        _answers.event(response(200, {**EVENT, **broken}))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_an_answer_of_something_else_is_an_error(body: bytes) -> None:
    with pytest.raises(InvalidAnswerError):
        _answers.page(Response(200, {}, body))
    with pytest.raises(ServerError, match="500 unknown"):
        _answers.page(Response(500, {}, body))


def test_a_problem_document() -> None:
    details = [{"field": "event_type", "reason": "must not be empty"}]
    with pytest.raises(InvalidRequestError) as raised:
        _answers.event(problem(400, "invalid_event", details=details))
    error = raised.value
    assert (error.status, error.code, error.detail, error.request_id) == (400, "invalid_event", "why", "r")
    assert error.fields == (FieldError("event_type", "must not be empty"),)
    assert str(error) == "400 invalid_event: why (request r)"


def test_errors_by_status() -> None:
    for status, kind in [
        (401, AuthenticationError),
        (418, ApiError),
        (422, InvalidRequestError),
        (502, UnavailableError),
    ]:
        with pytest.raises(kind) as raised:
            _answers.event(problem(status, "x"))
        assert type(raised.value) is kind
    with pytest.raises(ApiError, match="redirects are not followed"):
        _answers.event(Response(302, {"location": "https://elsewhere"}, b""))


def test_errors_survive_a_copy_between_processes() -> None:
    with pytest.raises(ApiError) as raised:
        _answers.event(problem(404, "not_found"))
    copied = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 (made a line above)
    assert copied.problem == raised.value.problem
    assert pickle.loads(pickle.dumps(NoAnswerError("lost", True))).in_doubt  # noqa: FBT003, S301 (as above)


def test_an_accepted_event_and_its_duplicates() -> None:
    body = {"event_id": "e1", "event_type": "a", "timestamp": EVENT["timestamp"], "position": "p"}
    replayed = response(201, body, idempotency_replayed="true")
    assert not _answers.accepted(response(201, body), made_key=True).duplicate
    assert not _answers.accepted(replayed, made_key=True).duplicate, "the replay is of this call's own first attempt"
    assert _answers.accepted(replayed, made_key=False).duplicate, "a caller's key may be of an earlier call"
    assert _answers.accepted(response(200, {**body, "duplicate": True}), made_key=False).duplicate
    by_dedup_id = _answers.accepted(problem(409, "duplicate_event", event_id="e0"), made_key=False)
    assert (by_dedup_id.duplicate, by_dedup_id.event_id, by_dedup_id.position) == (True, "e0", None)
    with pytest.raises(ApiError):
        _answers.accepted(problem(409, "something_else", event_id="e0"), made_key=False)


def test_batch_results_belong_to_their_events() -> None:
    items = [
        {"index": 0, "status": 201, "event_id": "a", "position": "p", "message": "event accepted"},
        {"index": 1, "status": 409, "event_id": "b", "error_code": "duplicate_event"},
        {"index": 2, "status": 400, "error_code": "invalid_event", "details": [{"field": "f", "reason": "r"}]},
    ]
    first, second, third = _answers.batch(response(207, {"results": items}), 3)
    assert (first.is_stored, first.duplicate, first.position) == (True, False, "p")
    assert (second.is_stored, second.duplicate, second.error_code) == (True, True, None)
    assert (third.is_stored, third.error_code, third.fields) == (False, "invalid_event", (FieldError("f", "r"),))
    with pytest.raises(InvalidAnswerError, match="4 events has 3 results"):
        _answers.batch(response(207, {"results": items}), 4)
