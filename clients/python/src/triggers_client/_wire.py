"""What the pure parts and the two clients exchange. A client carries out each `Step` of an operation.

An operation is a generator. It yields a `Request` and gets its `Outcome`, or it yields a `Sleep` and gets `None`; its
return value is the result. So the order of requests and pauses is written once, for `Client` and for `AsyncClient`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Optional, TypeVar, Union


@dataclass(frozen=True)
class Request:
    """A request without the API key, which the client adds."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    #: How long the server may hold the request back before it answers, on top of the client's time-out.
    wait_seconds: float = 0.0
    #: What is left of the budget; the whole exchange ends by then.
    within_seconds: float | None = None

    def within(self, seconds: float) -> Request:
        return replace(self, within_seconds=seconds)


@dataclass(frozen=True)
class Response:
    """An answer that was read to its end. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class NoAnswer:
    """There is no answer, or only a part of one."""

    text: str
    #: True: the server may have carried out the request.
    in_doubt: bool


@dataclass(frozen=True)
class Sleep:
    seconds: float


Outcome = Union[Response, NoAnswer]
Step = Union[Request, Sleep]
T = TypeVar("T")
Operation = Generator[Step, Optional[Outcome], T]
