"""Sends one event, the same again, and a batch.

eval "$(target/release/triggers env)"
python examples/produce.py
"""

from __future__ import annotations

import sys

from triggers_client import ApiError, Client, NewEvent


def main() -> int:
    with Client.from_env() as client:
        # One event. The client retries; the dedup_id lets the server recognize a repeat, also one of tomorrow's run.
        for _ in range(2):
            sent = client.send("order.created", {"id": 7, "total": "12.50"}, dedup_id="created-7")
            print("duplicate of" if sent.duplicate else "sent", sent.event_id)

        # Many events: a result for each, in order.
        orders = [NewEvent("order.paid", {"id": number}, dedup_id=f"paid-{number}") for number in range(1, 6)]
        for order, result in zip(orders, client.send_batch(orders)):
            print(order.dedup_id, "stored as" if result.is_stored else result.error_code, result.event_id)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ApiError as error:
        sys.exit(f"refused: {error}")
