"""What several tests use."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar, Union

from triggers_client import AsyncClient, Client, Event, Received

T = TypeVar("T")


class Blocking:
    """An `AsyncClient` with the interface of `Client`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._wait(method(*args, **options))

    def __repr__(self) -> str:
        return repr(self._client)

    def events(self, **options: Any) -> Iterator[Received]:
        iterator = self._client.events(**options)

        async def step() -> list[Received]:
            async for received in iterator:
                return [received]
            return []

        while received := self._wait(step()):
            yield from received

    def consume(self, handler: Callable[[Event], object], **options: Any) -> int:
        async def handle(event: Event) -> None:
            handler(event)

        return self._wait(self._client.consume(handle, **options))

    def close(self) -> None:
        self._wait(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


AnyClient = Union[Client, Blocking]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait until `condition` returns something true, and return it."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


class DroppingProxy:
    """A TCP proxy that closes the first `drops` connections when the server has answered, without the answer."""

    def __init__(self, url: str, drops: int) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._upstream = (host, int(port))
        self._drops = drops
        #: Answers that the client did not get.
        self.dropped: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> DroppingProxy:  # noqa: PYI034 (typing.Self is newer than the oldest Python)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            drop, self._drops = self._drops > 0, self._drops - 1
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
            target = self._swallow if drop else self._copy
            threading.Thread(target=target, args=(server, client), daemon=True).start()

    def _swallow(self, server: socket.socket, client: socket.socket) -> None:
        self.dropped.append(server.recv(65_536))
        # The other thread holds the sockets too, so closing alone would not reach the client. It closes both.
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with source, target:
            try:
                while chunk := source.recv(65_536):
                    target.sendall(chunk)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                return


class Receiver:
    """A webhook receiver on this machine, which keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        kept = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                kept.append((body, dict(self.headers.items())))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:  # noqa: PYI034 (as above)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
