"""Handles each event of the inbox and acknowledges it, until Ctrl-C.

eval "$(target/release/triggers env)"
python examples/consume.py [EVENT_TYPE ...]
"""

from __future__ import annotations

import signal
import sys
import threading

from triggers_client import Client, Event, NoAnswerError, RateLimitedError, RetryPolicy, UnavailableError

PAUSE_SECONDS = 5.0


def handle(event: Event) -> None:
    # An event may come again after a crash. Do this work in a way that a repeat does no harm: by its event_id.
    print(event.event_id, event.event_type, event.payload, flush=True)


def main(event_types: list[str]) -> None:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Client.from_env(retry=RetryPolicy(total_seconds=300)) as client:
        while not stopped.is_set():
            try:
                # A short poll, so that a signal is obeyed soon.
                client.consume(handle, event_types=event_types, wait_seconds=2, stop=stopped.is_set)
            except (NoAnswerError, RateLimitedError, UnavailableError) as error:
                print(f"trying again in {PAUSE_SECONDS:g} s: {error}", file=sys.stderr)
                stopped.wait(PAUSE_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
