"""The values that the client takes and returns. They are immutable; members that a newer server adds are ignored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from triggers_client._errors import FieldError


@dataclass(frozen=True)
class NewEvent:
    """An event to send."""

    event_type: str
    #: Any JSON value, as `json.dumps` takes it.
    payload: Any
    dedup_id: str | None = None
    ordering_key: str | None = None
    source: str | None = None
    metadata: Mapping[str, str] | None = None
    #: When it happened. A `datetime` needs its time zone; a text is RFC 3339.
    timestamp: datetime | str | None = None


@dataclass(frozen=True)
class Accepted:
    """The log has the event."""

    event_id: str
    #: True: an earlier call stored the event, and `event_id` is the original's.
    duplicate: bool
    event_type: str
    #: When the log took it. Unknown for a duplicate by `dedup_id`.
    timestamp: datetime | None
    #: Opaque; a read with it as `min_position` shows this event. Unknown for a duplicate by `dedup_id`.
    position: str | None


@dataclass(frozen=True)
class BatchResult:
    """What became of one event of a batch."""

    #: What a request with this event alone would have got; 0 if there was no answer.
    status: int
    event_id: str | None = None
    #: True: an earlier call stored the event, and `event_id` is the original's.
    duplicate: bool = False
    position: str | None = None
    #: `no_answer`: there was none, and the event may have been stored. `not_sent`: an earlier request failed.
    error_code: str | None = None
    message: str = ""
    fields: tuple[FieldError, ...] = ()

    @property
    def is_stored(self) -> bool:
        """Whether the log has the event, by this call or by an earlier one."""
        return self.event_id is not None


@dataclass(frozen=True)
class Event:
    """An event of the inbox."""

    event_id: str
    event_type: str
    #: The JSON value. An integer of more than 4,000 digits is a `Decimal`.
    payload: Any
    #: When the log took it.
    timestamp: datetime
    #: When it happened, by its producer.
    occurred_at: datetime | None = None
    source: str | None = None
    ordering_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    dedup_id: str | None = None
    #: Of its deliveries: `pending`, `retrying`, `delivered` or `failed`.
    status: str = "pending"
    attempts: int = 0
    acknowledged_at: datetime | None = None
    position: str | None = None
    #: `base64`: the payload is the base64 text of binary data.
    payload_encoding: str | None = None


@dataclass(frozen=True)
class Page:
    """One page of the inbox."""

    events: tuple[Event, ...]
    #: The cursor of the next page; `None` on the last one.
    next_cursor: str | None
    #: Continues after this page, also with events that arrive later.
    resume_cursor: str
    has_more: bool
    #: True: events behind the given cursor were dropped by retention before they were read.
    gap: bool = False
    oldest_available: datetime | None = None


@dataclass(frozen=True)
class Received:
    """An event, with the cursor to store after it was processed."""

    event: Event
    #: A reader that starts here gets every later event. It may get this one and others of its page again: only the last
    #: event of a page has the cursor after it. `None`: the start of the inbox.
    cursor: str | None
    #: True: retention dropped events before this one that were not read.
    gap: bool = False


@dataclass(frozen=True)
class AckResult:
    """What an acknowledgement did to one id."""

    event_id: str
    #: `acknowledged` or `not_found`.
    status: str

    @property
    def is_acknowledged(self) -> bool:
        return self.status == "acknowledged"


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one webhook endpoint."""

    delivery_id: str
    endpoint_id: str
    status: str
    attempts: int
    next_attempt_at: datetime | None = None
    last_status_code: int | None = None
    last_error: str | None = None


@dataclass(frozen=True)
class EventStatus:
    """All deliveries of an event."""

    event_id: str
    #: `pending`, `retrying`, `delivered` or `failed`.
    status: str
    attempts: int
    retry_attempts: int
    last_retry_at: datetime | None
    next_retry_at: datetime | None
    failed_at: datetime | None
    acknowledged_at: datetime | None
    deliveries: tuple[Delivery, ...]
