"""When a request is sent again, and after which delay. Pure: no clock, no randomness of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from triggers_client._wire import NoAnswer, Outcome

# 408: the body did not arrive in time, and the server did nothing.
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds of the retries of one request. `RetryPolicy(max_attempts=1)` never retries."""

    #: Attempts, the first one included.
    max_attempts: int = 10
    #: The delay after the first attempt; each further one is twice as long, and at least half of it is waited.
    base_delay_seconds: float = 0.2
    #: Upper bound of a delay, unless the server asks for a longer one with `Retry-After`.
    max_delay_seconds: float = 10.0
    #: Attempts and delays together. A delay that would end later is not waited: the error is raised at once.
    total_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or min(self.base_delay_seconds, self.max_delay_seconds, self.total_seconds) <= 0:
            raise ValueError("RetryPolicy: max_attempts must be at least 1, and each time greater than 0")

    def delay_seconds(self, attempt: int, outcome: Outcome, elapsed_seconds: float, random: float) -> float | None:
        """Return the delay before attempt `attempt + 1`; `None`: no further attempt.

        `elapsed_seconds` counts from the start of the first attempt. `random` is in [0, 1).
        """
        if attempt >= self.max_attempts:
            return None
        if not isinstance(outcome, NoAnswer) and outcome.status not in _RETRIED_STATUSES:
            return None
        # The exponent is bounded: a float has no more than 2**1023.
        longest = min(self.max_delay_seconds, self.base_delay_seconds * 2.0 ** min(attempt - 1, 64))
        delay = longest * (0.5 + random / 2)
        if not isinstance(outcome, NoAnswer):
            asked = retry_after_seconds(outcome.headers)
            if asked is not None:
                # Never earlier than asked; spread, so that not all clients come back at once.
                delay = max(delay, asked + self.base_delay_seconds * random)
        return delay if elapsed_seconds + delay < self.total_seconds else None


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After`: seconds, or a date, which counts from the `Date` of the same answer."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
