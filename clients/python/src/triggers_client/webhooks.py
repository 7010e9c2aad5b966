"""Signatures of webhook requests by Standard Webhooks, version `v1`: HMAC-SHA256 over `id.timestamp.body`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from triggers_client._errors import ConfigurationError, InvalidAnswerError, WebhookVerificationError
from triggers_client._json import Members, decode

SECRET_PREFIX = "whsec_"  # noqa: S105 (the prefix of every secret, no secret)
# A rotation sends two signatures. The bound keeps a stranger from making the receiver compare many.
_MAX_SIGNATURES = 16
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Headers(Protocol):
    """Header names and values, as each HTTP library has them: a `dict`, `email.message.Message`, a multi-dict."""

    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True)
class WebhookEvent:
    """An event that a verified webhook request carries."""

    event_id: str
    event_type: str
    payload: Any
    #: When the log took the event.
    timestamp: datetime
    #: `base64`: the payload is the base64 text of binary data.
    payload_encoding: str | None = None


def sign(body: bytes, *, webhook_id: str, timestamp: int, secret: str) -> str:
    """Return the value of `webhook-signature`, as the server makes it. For tests of receivers."""
    return _signature(_key(secret), webhook_id, str(timestamp), body)


def verify_webhook(
    body: bytes,
    headers: Headers,
    secret: str,
    *,
    tolerance_seconds: float = 300,
    now: float | None = None,
) -> WebhookEvent:
    """Verify a webhook request and return its event.

    `body` are the bytes as they arrived: JSON that was read and written again has another signature. Names of
    `headers` may be in any case. `now` is in Unix seconds, by default the clock's. A request may arrive more
    than once; its `event_id` tells which event it is.

    Raises `WebhookVerificationError`, and `ConfigurationError` if the secret itself is malformed.
    """
    _verify(body, headers, secret, tolerance_seconds, now)
    try:
        return _event(decode(body))
    except (InvalidAnswerError, ValueError):
        raise WebhookVerificationError("the body is signed, but it is not an event of Triggers") from None


def verify_webhook_batch(
    body: bytes,
    headers: Headers,
    secret: str,
    *,
    tolerance_seconds: float = 300,
    now: float | None = None,
) -> list[WebhookEvent]:
    """Verify a webhook of an endpoint with `batch`, as `verify_webhook` does, and return its events, of either format.

    They have one signature, and your answer is for all of them. A batch may come again with other companions:
    recognize events by their `event_id`.

    Raises `WebhookVerificationError`, and `ConfigurationError` if the secret itself is malformed.
    """
    _verify(body, headers, secret, tolerance_seconds, now)
    try:
        items = decode(body)
        if isinstance(items, list):
            return [_cloud_event(item) if "specversion" in item else _event(item) for item in items]
    except (InvalidAnswerError, TypeError, ValueError):
        pass
    raise WebhookVerificationError("the body is signed, but it is no list of events of Triggers")


def _verify(body: bytes, headers: Headers, secret: str, tolerance_seconds: float, now: float | None) -> None:
    key = _key(secret)
    webhook_id, sent_at, signatures = (
        _header(headers, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    if not _TIMESTAMP.fullmatch(sent_at):
        raise WebhookVerificationError("webhook-timestamp is not in Unix seconds")
    given = signatures.split(" ")
    if len(given) > _MAX_SIGNATURES:
        raise WebhookVerificationError(f"webhook-signature has more than {_MAX_SIGNATURES} signatures")
    expected = _signature(key, webhook_id, sent_at, body).encode()
    matches = [hmac.compare_digest(expected, signature.encode(errors="replace")) for signature in given]
    if not any(matches):
        raise WebhookVerificationError("no signature of webhook-signature is of this secret and body")
    if not abs((time.time() if now is None else now) - int(sent_at)) <= tolerance_seconds:
        raise WebhookVerificationError(f"webhook-timestamp is more than {tolerance_seconds:g} s from now")


def _event(item: Any) -> WebhookEvent:  # noqa: ANN401
    members = Members(item, "the event")
    return WebhookEvent(
        event_id=members.text("event_id"),
        event_type=members.text("event_type"),
        payload=members.any("data"),
        timestamp=members.time("timestamp"),
        payload_encoding=members.optional_text("payload_encoding"),
    )


def _cloud_event(item: Any) -> WebhookEvent:  # noqa: ANN401
    members = Members(item, "the event")
    binary = members.optional_text("data_base64")
    return WebhookEvent(
        event_id=members.text("id"),
        event_type=members.text("type"),
        payload=members.any("data") if binary is None else binary,
        timestamp=members.time("time"),
        payload_encoding=None if binary is None else "base64",
    )


def _header(headers: Headers, name: str) -> str:
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) != 1 or not values[0]:
        raise WebhookVerificationError(f"the request has no {name}, or more than one")
    return values[0]


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret[len(SECRET_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not _MIN_SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES:
        raise ConfigurationError("the webhook secret is not whsec_ and the base64 text of 24 to 64 bytes")
    return key


def _signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join([webhook_id.encode(errors="replace"), timestamp.encode(), body])
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
