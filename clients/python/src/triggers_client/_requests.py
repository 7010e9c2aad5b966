"""Builds the requests. Pure: the API key and the URL of the system are the client's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from triggers_client._json import encode, timestamp_text
from triggers_client._models import NewEvent
from triggers_client._wire import Request

MAX_ACK_IDS = 1_000
MAX_WAIT_SECONDS = 30
_JSON = ("content-type", "application/json")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def event_body(event: NewEvent) -> bytes:
    """Return the JSON text of an event. Raises `TypeError` or `ValueError` if its payload is no JSON."""
    members: dict[str, Any] = {"event_type": event.event_type, "payload": event.payload}
    optional = {
        "dedup_id": event.dedup_id,
        "ordering_key": event.ordering_key,
        "source": event.source,
        "metadata": None if event.metadata is None else dict(event.metadata),
        "timestamp": None if event.timestamp is None else timestamp_text(event.timestamp),
    }
    members.update((name, value) for name, value in optional.items() if value is not None)
    return encode(members)


def send(event: NewEvent, idempotency_key: str | None) -> Request:
    headers = [_JSON]
    if idempotency_key is not None:
        if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise ValueError("idempotency_key must have 1 to 255 visible ASCII characters")
        headers.append(("idempotency-key", idempotency_key))
    return Request("POST", "/v1/events", headers=tuple(headers), body=event_body(event))


def batch(bodies: Iterable[bytes]) -> Request:
    return Request("POST", "/v1/events/batch", headers=(_JSON,), body=b'{"events":[' + b",".join(bodies) + b"]}")


def inbox(
    *,
    cursor: str | None,
    limit: int,
    event_types: str | Iterable[str],
    wait_seconds: int,
    order: str | None = None,
    include_acknowledged: bool = False,
    min_position: str | None = None,
) -> Request:
    if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
        raise ValueError(f"wait_seconds must be between 0 and {MAX_WAIT_SECONDS}")
    types = [event_types] if isinstance(event_types, str) else event_types
    query = [("limit", str(limit)), *(("event_type", kind) for kind in types)]
    if wait_seconds:
        query.append(("wait", str(wait_seconds)))
    if include_acknowledged:
        query.append(("include_acknowledged", "true"))
    optional = {"cursor": cursor, "order": order, "min_position": min_position}
    query.extend((name, value) for name, value in optional.items() if value is not None)
    return Request("GET", "/v1/inbox", query=tuple(query), wait_seconds=wait_seconds)


def ack(event_ids: Sequence[str]) -> Request:
    return Request("POST", "/v1/inbox/ack", headers=(_JSON,), body=encode({"event_ids": list(event_ids)}))


def event(event_id: str) -> Request:
    return Request("GET", f"/v1/events/{_path_id(event_id)}")


def status(event_id: str) -> Request:
    return Request("GET", f"/v1/events/{_path_id(event_id)}/status")


def _path_id(event_id: str) -> str:
    # Anything else, such as `..`, could name another route.
    if not _ID.fullmatch(event_id):
        raise ValueError("event_id must have 1 to 64 letters, digits, '-' or '_'")
    return event_id
