"""JSON both ways, and the members of an object that somebody else wrote."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from triggers_client._errors import InvalidAnswerError

# Python refuses to read an integer of more than 4,300 digits. One such payload must not block an inbox.
_MAX_INT_DIGITS = 4_000
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def encode(value: Any) -> bytes:  # noqa: ANN401
    """Return the JSON text of a value.

    Raises `TypeError` or `ValueError` if it is no JSON: NaN, an object of another type, a lone surrogate.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _MAX_INT_DIGITS else Decimal(text)


def decode(body: bytes) -> Any:  # noqa: ANN401
    """Read JSON text. Raises `ValueError`."""
    try:
        return json.loads(body, parse_int=_integer)
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None


def timestamp_text(value: datetime | str) -> str:
    """Return the RFC 3339 text of a time."""
    if isinstance(value, str):
        return value
    if value.utcoffset() is None:
        raise ValueError("timestamp has no time zone; use datetime.now(timezone.utc)")
    return value.isoformat()


def timestamp(text: str) -> datetime:
    """Read an RFC 3339 time, to the microsecond. Raises `ValueError`."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    date, clock, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta(0)
    zone = timezone(-offset if sign == "-" else offset)
    micros = ((fraction or "") + "000000")[:6]
    return datetime.fromisoformat(f"{date}T{clock}.{micros}").replace(tzinfo=zone)


class Members:
    """Members of a JSON object, read with their types. Raises `InvalidAnswerError`, which names the member."""

    def __init__(self, value: Any, what: str) -> None:  # noqa: ANN401
        if not isinstance(value, dict):
            raise InvalidAnswerError(f"{what} is not a JSON object")
        self._value: dict[str, Any] = value
        self._what = what

    def any(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._value:
            raise InvalidAnswerError(f"{self._what} has no {name}")
        return self._value[name]

    def _optional(self, name: str, kind: type) -> Any:  # noqa: ANN401
        value = self._value.get(name)
        # In Python a bool is an int too.
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise InvalidAnswerError(f"{name} of {self._what} has another type than {kind.__name__}")
        return value

    def optional_text(self, name: str) -> str | None:
        value: str | None = self._optional(name, str)
        return value

    def text(self, name: str) -> str:
        self.any(name)
        value = self.optional_text(name)
        if value is None:
            raise InvalidAnswerError(f"{name} of {self._what} is null")
        return value

    def optional_integer(self, name: str) -> int | None:
        value: int | None = self._optional(name, int)
        return value

    def integer(self, name: str) -> int:
        return self.optional_integer(name) or 0

    def flag(self, name: str) -> bool:
        return bool(self._optional(name, bool))

    def optional_time(self, name: str) -> datetime | None:
        text = self.optional_text(name)
        if text is None:
            return None
        try:
            return timestamp(text)
        except ValueError:
            raise InvalidAnswerError(f"{name} of {self._what} is not a time") from None

    def time(self, name: str) -> datetime:
        self.text(name)
        value = self.optional_time(name)
        if value is None:
            raise InvalidAnswerError(f"{name} of {self._what} is null")
        return value

    def items(self, name: str) -> list[Any]:
        value: list[Any] | None = self._optional(name, list)
        return value or []

    def pairs(self, name: str) -> dict[str, str]:
        value: dict[str, Any] | None = self._optional(name, dict)
        return {key: text for key, text in (value or {}).items() if isinstance(text, str)}
