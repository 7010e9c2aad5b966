"""Webhook signatures, without a network."""

from __future__ import annotations

import base64
import json

import pytest

from triggers_client import ConfigurationError, WebhookVerificationError, sign, verify_webhook, verify_webhook_batch

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(24)).decode()
NOW = 1_764_414_000
BODY = json.dumps(
    {
        "type": "order.created",
        "timestamp": "2026-11-29T11:00:00.000Z",
        "data": {"id": 7},
        "event_id": "e1",
        "event_type": "order.created",
        "id": "e1",
    }
).encode()

# As the dispatcher writes them; the Rust client has the same in its tests.
BATCH = (
    b'[{"type":"order.created","timestamp":"2026-11-29T11:00:00.000Z","data":{"n": 1.0},"event_id":"e1",'
    b'"event_type":"order.created","id":"e1"},'
    b'{"type":"scan","timestamp":"2026-11-29T11:00:01.000Z","data":"AAE=","payload_encoding":"base64",'
    b'"event_id":"e2","event_type":"scan","id":"e2"}]'
)
CLOUD_EVENTS = (
    b'[{"specversion":"1.0","id":"e1","source":"/v1/organizations/o","type":"order.created",'
    b'"time":"2026-11-29T11:00:00.000Z","datacontenttype":"application/json","data":{"n": 1.0}},'
    b'{"specversion":"1.0","id":"e2","source":"/v1/organizations/o","type":"scan",'
    b'"time":"2026-11-29T11:00:01.000Z","data_base64":"AAE="}]'
)


def headers(secret: str = SECRET, body: bytes = BODY, timestamp: int = NOW) -> dict[str, str]:
    return {
        "Webhook-Id": "e1",
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": sign(body, webhook_id="e1", timestamp=timestamp, secret=secret),
    }


@pytest.mark.parametrize(
    ("secret", "webhook_id", "timestamp", "body", "signature"),
    [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            b'{"email":"test@example.com","username":"test_user"}',
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ],
)
def test_the_published_vectors(secret: str, webhook_id: str, timestamp: int, body: bytes, signature: str) -> None:
    assert sign(body, webhook_id=webhook_id, timestamp=timestamp, secret=secret) == signature


def test_a_signed_event_is_returned() -> None:
    event = verify_webhook(BODY, headers(), SECRET, now=NOW)
    assert (event.event_id, event.event_type, event.payload, event.payload_encoding) == (
        "e1",
        "order.created",
        {"id": 7},
        None,
    )


def test_one_of_several_signatures_is_enough() -> None:
    given = headers()
    old = headers(OTHER)["Webhook-Signature"]
    given["Webhook-Signature"] = f"v1a,x {old} {given['Webhook-Signature']}"
    for secret in (SECRET, OTHER):
        assert verify_webhook(BODY, given, secret, now=NOW).event_id == "e1"
    given["Webhook-Signature"] = " ".join([old] * 16 + [given["Webhook-Signature"]])
    with pytest.raises(WebhookVerificationError, match="more than 16"):
        verify_webhook(BODY, given, SECRET, now=NOW)


def test_whatever_is_changed_is_refused() -> None:
    good = headers()
    changed = [
        (BODY + b" ", good),
        (BODY, {**good, "Webhook-Id": "e2"}),
        (BODY, {**good, "Webhook-Timestamp": str(NOW + 1)}),
        (BODY, headers(OTHER)),
        (BODY, {**good, "Webhook-Signature": good["Webhook-Signature"][:-1]}),
        (BODY, {**good, "Webhook-Signature": good["Webhook-Signature"].replace("v1,", "v2,")}),
        (BODY, {**good, "Webhook-Signature": good["Webhook-Signature"].replace("v1,", "")}),
        (BODY, {**good, "Webhook-Signature": "v1,é\ud800"}),
        (BODY, {**good, "Webhook-Signature": ""}),
        (BODY, {**good, "webhook-id": "e1"}),
        *[(BODY, {key: value for key, value in good.items() if key != name}) for name in good],
    ]
    for body, given in changed:
        with pytest.raises(WebhookVerificationError):
            verify_webhook(body, given, SECRET, now=NOW)


@pytest.mark.parametrize("timestamp", ["", "x", "-1", "+1", " 1", "1.0", "1_0", "\u0661", "9" * 13])
def test_a_timestamp_is_digits(timestamp: str) -> None:
    with pytest.raises(WebhookVerificationError, match="webhook-timestamp"):
        verify_webhook(BODY, {**headers(), "Webhook-Timestamp": timestamp}, SECRET, now=NOW)


def test_the_tolerance_holds_both_ways() -> None:
    for just_in_time in (NOW - 300, NOW + 300):
        verify_webhook(BODY, headers(), SECRET, now=just_in_time)
    for late in (NOW - 301, NOW + 301, float("nan")):
        with pytest.raises(WebhookVerificationError, match="from now"):
            verify_webhook(BODY, headers(), SECRET, now=late)
    assert verify_webhook(BODY, headers(), SECRET, now=NOW + 900, tolerance_seconds=900)
    with pytest.raises(WebhookVerificationError, match="300 s from now"):
        verify_webhook(BODY, headers(), SECRET)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"x", b'{"event_id": "e1"}'])
def test_a_signed_body_of_another_kind_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="not an event"):
        verify_webhook(body, headers(body=body), SECRET, now=NOW)


@pytest.mark.parametrize("body", [BATCH, CLOUD_EVENTS])
def test_a_batch_is_its_events(body: bytes) -> None:
    first, second = verify_webhook_batch(body, headers(body=body), SECRET, now=NOW)
    assert (first.event_id, first.event_type, first.payload, first.payload_encoding) == (
        "e1",
        "order.created",
        {"n": 1.0},
        None,
    )
    assert (second.event_id, second.event_type, second.payload, second.payload_encoding) == (
        "e2",
        "scan",
        "AAE=",
        "base64",
    )
    assert (second.timestamp - first.timestamp).total_seconds() == 1
    with pytest.raises(WebhookVerificationError, match="no signature"):
        verify_webhook_batch(body, headers(), SECRET, now=NOW)


@pytest.mark.parametrize("body", [BODY, b"x", b"[1]", b"[{}]", b'["specversion"]', b'[{"specversion":"1.0","id":"e"}]'])
def test_a_signed_body_that_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="no list of events"):
        verify_webhook_batch(body, headers(body=body), SECRET, now=NOW)
    assert verify_webhook_batch(b"[]", headers(body=b"[]"), SECRET, now=NOW) == []


@pytest.mark.parametrize(
    "secret", ["", "whsec_", SECRET[6:], SECRET + "!", "whsec_" + base64.b64encode(bytes(23)).decode(), "whsec_é" * 9]
)
def test_a_malformed_secret_is_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        verify_webhook(BODY, headers(), secret, now=NOW)
    assert secret[6:] not in str(raised.value) or not secret[6:]
