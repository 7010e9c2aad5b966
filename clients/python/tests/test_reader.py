"""Cursors of a reader, without a network."""

from __future__ import annotations

from datetime import datetime, timezone

from triggers_client import Event, Page
from triggers_client._reader import Reader

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def page(*ids: str, after: str, more: bool = False, gap: bool = False) -> Page:
    events = tuple(Event(event_id, "a", 1, NOW) for event_id in ids)
    return Page(events, after if more else None, after, has_more=more, gap=gap)


def reader(wait_seconds: int) -> Reader:
    return Reader(cursor="0", event_types=(), wait_seconds=wait_seconds, limit=100, include_acknowledged=False)


def test_a_stored_cursor_never_skips_an_event() -> None:
    follower = reader(20)
    assert ("cursor", "0") in follower.request().query
    first = list(follower.read(page("a", "b", after="1", more=True)))
    assert [received.cursor for received in first] == ["0", "1"], "within a page, a restart reads the page again"
    assert ("cursor", "1") in follower.request().query
    assert list(follower.read(page(after="2"))) == []
    assert [received.cursor for received in follower.read(page("c", after="3"))] == ["3"]
    assert not follower.at_end, "a follower waits for more"


def test_without_a_wait_the_reader_ends_with_the_inbox() -> None:
    once = reader(0)
    list(once.read(page(after="1", more=True)))
    assert not once.at_end, "a page without events may have pages behind it"
    list(once.read(page("a", after="2")))
    assert once.at_end


def test_a_gap_is_reported_with_the_next_event() -> None:
    follower = reader(20)
    assert list(follower.read(page(after="1", gap=True))) == []
    assert [received.gap for received in follower.read(page("a", "b", after="2"))] == [True, False]
    assert [received.gap for received in follower.read(page("c", after="3"))] == [False]
