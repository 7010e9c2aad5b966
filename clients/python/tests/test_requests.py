"""Requests as they are built, without a network."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from triggers_client import NewEvent, _requests

ID = "01a22707-0548-7247-b9e1-13cb295a3980"


def test_an_event_has_only_the_given_members() -> None:
    assert _requests.event_body(NewEvent("a.b", {"x": [1, None, "é"]})) == (
        '{"event_type":"a.b","payload":{"x":[1,null,"é"]}}'.encode()
    )
    full = NewEvent("a", None, "d", "o", "s", {"k": "v"}, datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1))))
    assert json.loads(_requests.event_body(full)) == {
        "event_type": "a",
        "payload": None,
        "dedup_id": "d",
        "ordering_key": "o",
        "source": "s",
        "metadata": {"k": "v"},
        "timestamp": "2026-01-02T00:00:00+01:00",
    }


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), "\ud800", {"x": {1, 2}}, b"bytes"])
def test_a_payload_that_is_no_json_is_refused(payload: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _requests.event_body(NewEvent("a", payload))


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        _requests.event_body(NewEvent("a", 1, timestamp=datetime(2026, 1, 2)))  # noqa: DTZ001


@pytest.mark.parametrize("key", ["", " ", "a\n", "a\r\nx: y", "é", "a" * 256, " a"])
def test_an_idempotency_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        _requests.send(NewEvent("a", 1), key)


@pytest.mark.parametrize("key", ["a", "a b", "a" * 255])
def test_an_idempotency_key_is_a_header(key: str) -> None:
    assert ("idempotency-key", key) in _requests.send(NewEvent("a", 1), key).headers


@pytest.mark.parametrize("event_id", ["", ".", "..", "a/b", "../keys", "a?b", "a%2fb", "a" * 65, "é"])
def test_an_id_cannot_name_another_route(event_id: str) -> None:
    for build in (_requests.event, _requests.status):
        with pytest.raises(ValueError, match="event_id"):
            build(event_id)


def test_the_inbox_query() -> None:
    request = _requests.inbox(cursor="c", limit=7, event_types=["a", "b"], wait_seconds=20)
    assert request.query == (("limit", "7"), ("event_type", "a"), ("event_type", "b"), ("wait", "20"), ("cursor", "c"))
    assert request.wait_seconds == 20
    one = _requests.inbox(cursor=None, limit=1, event_types="order.created", wait_seconds=0)
    assert one.query == (("limit", "1"), ("event_type", "order.created")), "a text is one type, not its letters"
    with pytest.raises(ValueError, match="wait_seconds"):
        _requests.inbox(cursor=None, limit=1, event_types=(), wait_seconds=31)


def test_acks_are_one_json_document() -> None:
    assert _requests.ack([ID]).body == b'{"event_ids":["' + ID.encode() + b'"]}'
