"""The retry policy: pure, so every case is cheap."""

from __future__ import annotations

import itertools

import pytest

from triggers_client import RetryPolicy
from triggers_client._retry import retry_after_seconds
from triggers_client._wire import NoAnswer, Response

POLICY = RetryPolicy()
LOST = NoAnswer("lost", in_doubt=True)


def test_what_may_pass_is_retried_and_nothing_else() -> None:
    retried = {status for status in range(100, 600) if POLICY.delay_seconds(1, Response(status), 0, 0) is not None}
    assert retried == {408, 429, 502, 503, 504}
    assert POLICY.delay_seconds(1, LOST, 0, 0) is not None
    assert POLICY.delay_seconds(1, NoAnswer("refused", in_doubt=False), 0, 0) is not None


def test_delays_grow_and_are_bounded() -> None:
    for attempt, random in itertools.product(range(1, POLICY.max_attempts), (0.0, 0.5, 0.999)):
        delay = POLICY.delay_seconds(attempt, LOST, 0, random)
        longest = min(POLICY.max_delay_seconds, POLICY.base_delay_seconds * 2 ** (attempt - 1))
        assert delay is not None
        assert longest / 2 <= delay <= longest, "at least half of the delay is waited"
    endless = RetryPolicy(max_attempts=10**9)
    assert endless.delay_seconds(10**8, LOST, 0, 0) == POLICY.max_delay_seconds / 2, "a high attempt overflows nothing"


def test_attempts_and_time_are_bounded() -> None:
    assert POLICY.delay_seconds(POLICY.max_attempts, LOST, 0, 0) is None
    assert POLICY.delay_seconds(1, LOST, POLICY.total_seconds, 0) is None
    assert RetryPolicy(max_attempts=1).delay_seconds(1, LOST, 0, 0) is None


def test_retry_after_is_never_cut_short() -> None:
    asked = Response(429, {"retry-after": "30"})
    for random in (0.0, 0.5, 0.999):
        delay = POLICY.delay_seconds(1, asked, 0, random)
        assert delay is not None
        assert 30 <= delay <= 30 + POLICY.base_delay_seconds
    assert POLICY.delay_seconds(1, asked, 40, 0) is None, "the budget ends before: the error is raised at once"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 7 ", 7),
        ("Sun, 29 Nov 2026 11:00:30 GMT", 30),
        ("Sunday, 29-Nov-26 11:00:30 GMT", 30),
        ("Sun, 29 Nov 2026 10:00:00 GMT", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9999999999", None),
        ("soon", None),
    ],
)
def test_both_forms_of_retry_after(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value, "date": "Sun, 29 Nov 2026 11:00:00 GMT"}
    assert retry_after_seconds(headers) == seconds


def test_a_date_without_the_servers_clock_is_ignored() -> None:
    assert retry_after_seconds({"retry-after": "Sun, 29 Nov 2026 11:00:30 GMT"}) is None


@pytest.mark.parametrize("option", ["base_delay_seconds", "max_delay_seconds", "total_seconds", "max_attempts"])
def test_a_policy_without_sense_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(**{option: 0})
