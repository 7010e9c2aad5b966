"""Both clients against a real system."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest
from conftest import System
from support import AnyClient, DroppingProxy, Receiver, wait_for

from triggers_client import (
    AuthenticationError,
    Event,
    InvalidRequestError,
    NewEvent,
    NoAnswerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RetryPolicy,
    verify_webhook,
    verify_webhook_batch,
)

UNKNOWN_ID = "01a22707-0548-7247-b9e1-13cb295a3980"
Connect = Callable[..., AnyClient]


def payloads(client: AnyClient, **options: Any) -> list[Any]:
    return [received.event.payload for received in client.events(wait_seconds=0, **options)]


def test_an_event_arrives_as_it_was_sent(client: AnyClient) -> None:
    occurred_at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
    payload = {"id": 7, "name": "Zoë \u0000 \u2028", "list": [1.5, None, True], "big": 10**30}
    sent = client.send(
        "order.created",
        payload,
        dedup_id="ord-7",
        ordering_key="customer-9",
        source="shop",
        metadata={"k": "v"},
        timestamp=occurred_at,
    )
    assert not sent.duplicate
    assert sent.timestamp
    event = client.get(sent.event_id)
    assert event == client.page(min_position=sent.position).events[0]
    assert (event.event_id, event.event_type, event.payload) == (sent.event_id, "order.created", payload)
    assert (event.dedup_id, event.ordering_key, event.source) == ("ord-7", "customer-9", "shop")
    assert (event.metadata, event.occurred_at, event.timestamp) == ({"k": "v"}, occurred_at, sent.timestamp)


def test_a_duplicate_is_an_answer_with_the_original(client: AnyClient) -> None:
    first = client.send("a", 1, dedup_id="d")
    again = client.send("a", 2, dedup_id="d")
    assert (again.duplicate, again.event_id, again.event_type) == (True, first.event_id, "a")
    keyed = client.send("a", 1, idempotency_key="k")
    replayed = client.send("a", 1, idempotency_key="k")
    assert (keyed.duplicate, replayed.duplicate, replayed.event_id) == (False, True, keyed.event_id)
    with pytest.raises(InvalidRequestError) as raised:
        client.send("a", 2, idempotency_key="k")
    assert raised.value.code == "idempotency_key_reused"
    one, other = client.send("a", 1), client.send("a", 1)
    assert one.event_id != other.event_id, "each call makes a key of its own"


def test_equal_content_is_recognized(connect: Connect, system: System) -> None:
    client = connect(system.url, system.new_key("content", content_dedup=True), make_dedup_keys=False)
    first, again = client.send("a", {"x": 1}), client.send("a", {"x": 1})
    assert (first.duplicate, again.duplicate, again.event_id) == (False, True, first.event_id)
    (in_batch,) = client.send_batch([NewEvent("a", {"x": 1})])
    assert (in_batch.duplicate, in_batch.event_id) == (True, first.event_id)


def test_a_lost_answer_stores_the_event_once(connect: Connect, system: System, key: str) -> None:
    with DroppingProxy(system.url, drops=1) as proxy:
        sent = connect(proxy.url, key).send("a", "once")
        assert [answer[:12] for answer in proxy.dropped] == [b"HTTP/1.1 201"], "the first attempt was stored"
    assert not sent.duplicate
    client = connect(system.url, key)
    (event,) = client.page(min_position=sent.position).events
    assert (event.event_id, event.payload) == (sent.event_id, "once")


def test_a_lost_answer_stores_a_batch_once(connect: Connect, system: System, key: str) -> None:
    with DroppingProxy(system.url, drops=1) as proxy:
        results = connect(proxy.url, key).send_batch([NewEvent("a", n) for n in range(3)])
        assert [answer[:12] for answer in proxy.dropped] == [b"HTTP/1.1 200"]
    assert [(result.is_stored, result.duplicate) for result in results] == [(True, False)] * 3
    client = connect(system.url, key)
    last = client.send("a", "last")
    events = client.page(min_position=last.position).events
    assert [event.event_id for event in events] == [*(result.event_id for result in results), last.event_id]


def test_without_retries_a_lost_answer_is_an_error(connect: Connect, system: System, key: str) -> None:
    with DroppingProxy(system.url, drops=1) as proxy:
        client = connect(proxy.url, key, retry=RetryPolicy(max_attempts=1))
        with pytest.raises(NoAnswerError) as raised:
            client.send("a", 1)
    assert raised.value.in_doubt


def test_nobody_listening_is_an_error_without_doubt(connect: Connect, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = connect(f"http://127.0.0.1:{port}", key, retry=RetryPolicy(max_attempts=3, base_delay_seconds=0.01))
    with pytest.raises(NoAnswerError, match="did not answer") as raised:
        client.send("a", 1)
    assert not raised.value.in_doubt
    text = "".join(traceback.format_exception(None, raised.value, raised.value.__traceback__))
    assert key not in text
    assert raised.value.__context__ is None, "httpx' error has the request, and so the key"


def test_a_silent_server_is_left_in_time(connect: Connect, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = connect(url, key, timeout_seconds=0.2, retry=RetryPolicy(max_attempts=2, base_delay_seconds=0.01))
        with pytest.raises(NoAnswerError, match="ReadTimeout") as raised:
            client.send("a", 1)
    assert raised.value.in_doubt


def test_a_batch_has_a_result_for_each_event(client: AnyClient) -> None:
    client.send("a", 0, dedup_id="known")
    events = [
        NewEvent("a", 1),
        NewEvent("", 2),
        NewEvent("a", 3, dedup_id="known"),
        NewEvent("a", "x" * 300_000),
        NewEvent("a", 5, dedup_id="twice"),
        NewEvent("a", 6, dedup_id="twice"),
    ]
    results = client.send_batch(events)
    assert [result.status for result in results] == [201, 400, 409, 413, 201, 409]
    assert [result.duplicate for result in results] == [False, False, True, False, False, True]
    assert [result.is_stored for result in results] == [True, False, True, False, True, True]
    assert results[1].fields[0].field == "event_type"
    assert client.send_batch([]) == []


def test_a_long_batch_arrives_in_order(client: AnyClient) -> None:
    results = client.send_batch(NewEvent("a", n, ordering_key="one") for n in range(2_100))
    assert all(result.status == 201 for result in results)
    client.page(min_position=results[-1].position, limit=1)
    received = payloads(client, limit=1_000)
    assert received == list(range(2_100))


def test_a_stored_cursor_continues_where_it_was(client: AnyClient) -> None:
    for n in range(5):
        last = client.send("a" if n % 2 else "b", n)
    client.page(min_position=last.position)
    seen, cursor = [], None
    for received in client.events(wait_seconds=0, limit=2):
        seen.append(received.event.payload)
        cursor = received.cursor
        if len(seen) == 4:
            break
    assert seen == [0, 1, 2, 3]
    assert payloads(client, cursor=cursor) == [4]
    assert payloads(client, event_types="b") == [0, 2, 4]
    assert payloads(client, event_types=["a", "b"]) == [0, 1, 2, 3, 4]
    follower = client.events(cursor=cursor, wait_seconds=20)
    assert next(follower).event.payload == 4
    client.send("a", 5)
    assert next(follower).event.payload == 5, "the follower waits for events"


def test_an_acknowledged_event_leaves_the_inbox(client: AnyClient) -> None:
    ids = [client.send("a", n).event_id for n in range(3)]
    client.get(ids[2])
    done = client.ack([ids[0], UNKNOWN_ID, ids[0], ids[2]])
    assert [(result.event_id, result.is_acknowledged) for result in done] == [
        (ids[0], True),
        (UNKNOWN_ID, False),
        (ids[2], True),
    ]
    assert payloads(client) == [1]
    assert payloads(client, include_acknowledged=True) == [0, 1, 2]
    assert client.get(ids[0]).acknowledged_at
    assert client.status(ids[0]).acknowledged_at


def test_consume_handles_and_acknowledges(client: AnyClient) -> None:
    for n in range(5):
        last = client.send("a", n)
    client.page(min_position=last.position)
    handled: list[Event] = []
    assert client.consume(handled.append, wait_seconds=0, limit=2, stop=lambda: len(handled) == 3) == 3
    assert payloads(client) == [3, 4]
    assert client.consume(handled.append, wait_seconds=0) == 2
    assert [event.payload for event in handled] == [0, 1, 2, 3, 4]
    assert client.consume(handled.append, wait_seconds=0) == 0


def test_a_failed_handler_gets_its_event_again(client: AnyClient) -> None:
    for n in range(3):
        last = client.send("a", n)
    client.page(min_position=last.position)

    def fail(event: Event) -> None:
        if event.payload == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.consume(fail, wait_seconds=0)
    assert payloads(client) == [1, 2], "the events before are acknowledged, the failed one is not"


def test_errors_are_typed(client: AnyClient, connect: Connect, system: System) -> None:
    with pytest.raises(NotFoundError) as missing:
        client.get(UNKNOWN_ID)
    assert missing.value.request_id
    with pytest.raises(InvalidRequestError) as invalid:
        client.send("", 1)
    assert (invalid.value.status, invalid.value.fields[0].field) == (400, "event_type")
    with pytest.raises(InvalidRequestError, match="cursor"):
        client.page(cursor="made-up")
    unknown = "zap_test_unknownunknownunknown"
    with pytest.raises(AuthenticationError) as refused:
        connect(system.url, unknown).send("a", 1)
    assert unknown not in repr(refused.value)
    with pytest.raises(AuthenticationError) as batch_refused:
        connect(system.url, unknown).send_batch([NewEvent("a", 1)])
    assert [result.status for result in batch_refused.value.batch_results] == [401]
    reader = connect(system.url, system.new_key("reader", role="consume"))
    with pytest.raises(PermissionDeniedError):
        reader.send("a", 1)


def test_a_rate_limit_is_reported_with_its_end(connect: Connect, system: System) -> None:
    limited = system.new_key("limited", rate_limit_per_minute=3)
    client = connect(system.url, limited, retry=RetryPolicy(total_seconds=0.5))
    for n in range(3):
        client.send("a", n)
    with pytest.raises(RateLimitedError) as raised:
        client.send("a", 3)
    assert raised.value.retry_after_seconds
    assert raised.value.retry_after_seconds >= 1


def test_a_webhook_is_verified(client: AnyClient, system: System, key: str) -> None:
    with Receiver() as receiver:
        headers = {"authorization": f"Bearer {key}"}
        made = httpx.post(f"{system.url}/v1/endpoints", json={"url": receiver.url}, headers=headers, trust_env=False)
        secret = made.json()["secret"]
        sent = client.send("order.created", {"id": 7, "text": "é"})
        body, signed = wait_for(lambda: receiver.requests and receiver.requests[0], "the webhook arrives")
        event = verify_webhook(body, signed, secret)
        assert (event.event_id, event.event_type, event.payload) == (
            sent.event_id,
            "order.created",
            {"id": 7, "text": "é"},
        )
        assert event.timestamp == sent.timestamp
        status = wait_for(
            lambda: (found := client.status(sent.event_id)).status == "delivered" and found, "the delivery is reported"
        )
    assert [(delivery.status, delivery.last_status_code) for delivery in status.deliveries] == [("delivered", 204)]


@pytest.mark.parametrize("batch_format", ["json", "cloudevents"])
def test_a_batch_is_verified(client: AnyClient, system: System, key: str, batch_format: str) -> None:
    with Receiver() as receiver:
        endpoint = {"url": receiver.url, "batch": {"format": batch_format}}
        headers = {"authorization": f"Bearer {key}"}
        made = httpx.post(f"{system.url}/v1/endpoints", json=endpoint, headers=headers, trust_env=False)
        sent = client.send("order.created", {"id": 7, "text": "é"})
        body, signed = wait_for(lambda: receiver.requests and receiver.requests[0], "the webhook arrives")
    (event,) = verify_webhook_batch(body, signed, made.json()["secret"])
    assert (event.event_id, event.event_type, event.payload) == (
        sent.event_id,
        "order.created",
        {"id": 7, "text": "é"},
    )
    assert event.timestamp == sent.timestamp
