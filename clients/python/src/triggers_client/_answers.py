"""Reads the answers. Pure. Raises `ApiError` for an error status and `InvalidAnswerError` for what is not Triggers'."""

from __future__ import annotations

from typing import Any

from triggers_client._errors import FieldError, InvalidAnswerError, Problem, api_error
from triggers_client._json import Members, decode
from triggers_client._models import Accepted, AckResult, BatchResult, Delivery, Event, EventStatus, Page
from triggers_client._retry import retry_after_seconds
from triggers_client._wire import Response

DUPLICATE = "duplicate_event"
_MAX_DETAIL_CHARACTERS = 500


def accepted(response: Response, *, made_key: bool) -> Accepted:
    """Read the answer to an event. `made_key`: this call made the Idempotency-Key, so a replay is of this call."""
    answer = _document(response, duplicate_is_success=True)
    return Accepted(
        event_id=answer.text("event_id"),
        duplicate=response.status == 409
        or answer.flag("duplicate")
        or (not made_key and response.headers.get("idempotency-replayed") == "true"),
        event_type=answer.optional_text("event_type") or "",
        timestamp=answer.optional_time("timestamp"),
        position=answer.optional_text("position"),
    )


def batch(response: Response, count: int) -> list[BatchResult]:
    """Read the results of a batch of `count` events, in their order."""
    results = [_batch_result(item) for item in _document(response).items("results")]
    if len(results) != count:
        raise InvalidAnswerError(f"the answer to a batch of {count} events has {len(results)} results")
    return results


def _batch_result(item: Any) -> BatchResult:  # noqa: ANN401
    result = Members(item, "a result of a batch")
    error_code = result.optional_text("error_code")
    duplicate = error_code == DUPLICATE or result.flag("duplicate")
    return BatchResult(
        status=result.integer("status"),
        event_id=result.optional_text("event_id"),
        duplicate=duplicate,
        position=result.optional_text("position"),
        error_code=None if duplicate else error_code,
        message=result.optional_text("message") or "",
        fields=_fields(result),
    )


def page(response: Response) -> Page:
    answer = _document(response)
    return Page(
        events=tuple(_event(item) for item in answer.items("events")),
        next_cursor=answer.optional_text("next_cursor"),
        resume_cursor=answer.text("resume_cursor"),
        has_more=answer.flag("has_more"),
        gap=answer.flag("gap"),
        oldest_available=answer.optional_time("oldest_available"),
    )


def event(response: Response) -> Event:
    return _event(_value(response))


def _event(value: Any) -> Event:  # noqa: ANN401
    item = Members(value, "an event")
    return Event(
        event_id=item.text("event_id"),
        event_type=item.text("event_type"),
        payload=item.any("payload"),
        timestamp=item.time("timestamp"),
        occurred_at=item.optional_time("occurred_at"),
        source=item.optional_text("source"),
        ordering_key=item.optional_text("ordering_key"),
        metadata=item.pairs("metadata"),
        dedup_id=item.optional_text("dedup_id"),
        status=item.text("status"),
        attempts=item.integer("attempts"),
        acknowledged_at=item.optional_time("acknowledged_at"),
        position=item.optional_text("position"),
        payload_encoding=item.optional_text("payload_encoding"),
    )


def acks(response: Response) -> list[AckResult]:
    items = [Members(item, "a result of an acknowledgement") for item in _document(response).items("results")]
    return [AckResult(item.text("event_id"), item.text("status")) for item in items]


def status(response: Response) -> EventStatus:
    answer = _document(response)
    return EventStatus(
        event_id=answer.text("event_id"),
        status=answer.text("status"),
        attempts=answer.integer("attempts"),
        retry_attempts=answer.integer("retry_attempts"),
        last_retry_at=answer.optional_time("last_retry_at"),
        next_retry_at=answer.optional_time("next_retry_at"),
        failed_at=answer.optional_time("failed_at"),
        acknowledged_at=answer.optional_time("acknowledged_at"),
        deliveries=tuple(_delivery(item) for item in answer.items("deliveries")),
    )


def _delivery(value: Any) -> Delivery:  # noqa: ANN401
    item = Members(value, "a delivery")
    return Delivery(
        delivery_id=item.text("delivery_id"),
        endpoint_id=item.text("endpoint_id"),
        status=item.text("status"),
        attempts=item.integer("attempts"),
        next_attempt_at=item.optional_time("next_attempt_at"),
        last_status_code=item.optional_integer("last_status_code"),
        last_error=item.optional_text("last_error"),
    )


def problem(response: Response) -> Problem:
    """Read an error answer, also of a proxy on the way, which sends no problem document."""
    retry_after = retry_after_seconds(response.headers)
    request_id = response.headers.get("x-request-id")
    if 300 <= response.status < 400:
        detail = "the server redirects; redirects are not followed, give the URL of the system itself"
        return Problem(response.status, "redirected", detail, request_id, (), retry_after)
    try:
        members = Members(decode(response.body), "the problem")
        return Problem(
            status=response.status,
            code=members.text("error_code"),
            detail=members.text("detail"),
            request_id=members.optional_text("request_id") or request_id,
            fields=_fields(members),
            retry_after_seconds=retry_after,
            event_id=members.optional_text("event_id"),
        )
    except (InvalidAnswerError, ValueError):
        text = response.body[: 4 * _MAX_DETAIL_CHARACTERS].decode(errors="replace")[:_MAX_DETAIL_CHARACTERS].strip()
        detail = text or "the answer has no text"
        return Problem(response.status, "unknown", detail, request_id, (), retry_after)


def _fields(members: Members) -> tuple[FieldError, ...]:
    items = [Members(item, "an invalid field") for item in members.items("details")]
    return tuple(FieldError(item.text("field"), item.text("reason")) for item in items)


def _document(response: Response, *, duplicate_is_success: bool = False) -> Members:
    return Members(_value(response, duplicate_is_success=duplicate_is_success), "the answer")


def _value(response: Response, *, duplicate_is_success: bool = False) -> Any:  # noqa: ANN401
    if not 200 <= response.status < 300:
        refused = problem(response)
        if not (duplicate_is_success and refused.code == DUPLICATE and refused.event_id):
            raise api_error(refused)
    try:
        return decode(response.body)
    except ValueError:
        raise InvalidAnswerError(f"the answer with status {response.status} is not JSON") from None
