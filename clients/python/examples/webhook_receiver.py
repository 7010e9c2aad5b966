"""Receives webhooks on this machine, verifies them and prints their events. Add an endpoint with its URL first.

WEBHOOK_SECRET=whsec_... python examples/webhook_receiver.py 9000
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from triggers_client import WebhookVerificationError, verify_webhook

# Above the largest payload, which is 256 KiB, with its envelope.
MAX_BODY_BYTES = 512 * 1024
SECRET = os.environ["WEBHOOK_SECRET"]


class Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.answer(413)
            return
        try:
            # The bytes as they arrived: the signature is of these.
            event = verify_webhook(self.rfile.read(int(length)), self.headers, SECRET)
        except WebhookVerificationError as error:
            print(f"refused: {error}", file=sys.stderr, flush=True)
            self.answer(401)
            return
        # It may come again, for example if this answer gets lost: do the work by its event_id.
        print(event.event_id, event.event_type, event.payload, flush=True)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        # What was not read of a refused body is no next request.
        self.close_connection = True
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
