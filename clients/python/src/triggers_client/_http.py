"""The parts of the clients that know httpx, and are the same for both."""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from typing_extensions import Self

from triggers_client import _config
from triggers_client._errors import InvalidAnswerError
from triggers_client._operations import Context
from triggers_client._retry import RetryPolicy
from triggers_client._wire import NoAnswer, Request, Response

VERSION = "0.1.0"
_CONNECT_SECONDS = 10.0
# Far above the largest answer, which is a page of the inbox.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_DEFAULT_RETRY = RetryPolicy()

C = TypeVar("C", bound="ClientBase")


class ClientBase:
    """Configuration of a client. `Client` and `AsyncClient` add the calls."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        retry: RetryPolicy = _DEFAULT_RETRY,
        timeout_seconds: float = 30.0,
        make_dedup_keys: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Create a client. It connects when it is used.

        `timeout_seconds`: how long one attempt may wait for the server; a long poll waits longer by itself.
        `make_dedup_keys`: False only for an API key with `content_dedup`. The server recognizes equal content then; a
        key or id made here would make each event a new one.
        """
        if timeout_seconds <= 0:
            raise ValueError("timeout_seconds must be greater than 0")
        self._target = _config.target(base_url, api_key)
        self._timeout_seconds = timeout_seconds
        self._context = Context(retry, time.monotonic, random.random, make_dedup_keys)
        self._open(
            {
                "headers": {
                    "authorization": f"Bearer {api_key}",
                    "user-agent": f"triggers-client-python/{VERSION}",
                    # The bound on an answer counts what arrives.
                    "accept-encoding": "identity",
                },
                "follow_redirects": False,
                "trust_env": not self._target.is_loopback,
                "verify": True if ssl_context is None else ssl_context,
            }
        )

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Create a client of the system that `TRIGGERS_URL` and `TRIGGERS_API_KEY` name.

        What is not set comes from `dev.json` of the data folder of `triggers up` (`TRIGGERS_DATA_DIR`, by default
        `.triggers`). `options` are those of the constructor. Raises `ConfigurationError`.
        """
        url, key = _config.from_env(os.environ if environ is None else environ)
        return cls(url, key, **options)

    def _open(self, settings: dict[str, Any]) -> None:
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """The URL of the system."""
        return self._target.base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def _arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of `httpx.Client.stream`."""
        seconds = self._attempt_seconds(request)
        return {
            "method": request.method,
            "url": self._target.base_url + request.path,
            "params": list(request.query) or None,
            "headers": list(request.headers),
            "content": request.body,
            "timeout": httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
        }

    def _attempt_seconds(self, request: Request) -> float:
        seconds = self._timeout_seconds + request.wait_seconds
        return seconds if request.within_seconds is None else min(seconds, request.within_seconds)


class AnswerBody:
    """The body of an answer while it arrives, bounded in bytes and time."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._chunks.append(chunk)
        if self._size > _MAX_ANSWER_BYTES:
            raise InvalidAnswerError(f"the answer has more than {_MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > self._until:
            raise httpx.ReadTimeout("the answer did not arrive in time")

    def response(self, response: httpx.Response) -> Response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, headers, b"".join(self._chunks))


def no_answer(base_url: str, error: httpx.HTTPError | httpx.StreamError) -> NoAnswer:
    """Say why there is no answer. httpx' error itself is not kept: it has the request, and so the API key."""
    kind = type(error).__name__
    reason = f"{kind}: {error}" if isinstance(error, httpx.TransportError) and str(error) else kind
    return NoAnswer(f"{base_url} did not answer: {reason}", in_doubt=not isinstance(error, _NOT_SENT))
