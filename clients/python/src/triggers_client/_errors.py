"""Everything that this package raises. No text or attribute of an error contains an API key or a signing secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triggers_client._models import BatchResult


class TriggersError(Exception):
    """Base of all errors of this package."""

    #: Of `send_batch`: the results of all its events, in order, when the error occurred. Empty for other calls.
    batch_results: tuple[BatchResult, ...] = ()


class ConfigurationError(TriggersError):
    """The client cannot be created: the URL or the API key is missing or malformed."""


class NoAnswerError(TriggersError):
    """The server did not answer: no connection, a broken connection or a time-out."""

    def __init__(self, text: str, in_doubt: bool) -> None:  # noqa: FBT001 (positional, so that the error can be pickled)
        super().__init__(text, in_doubt)
        self.text = text
        #: True: the server may have carried out the request. False: it did not get the request.
        self.in_doubt = in_doubt

    def __str__(self) -> str:
        return self.text


class InvalidAnswerError(TriggersError):
    """The answer is not one of Triggers. Is the URL right?"""


class WebhookVerificationError(TriggersError):
    """The request is not a webhook signed with the secret, or it is too old."""


@dataclass(frozen=True)
class FieldError:
    """One invalid field of a request."""

    field: str
    reason: str


@dataclass(frozen=True)
class Problem:
    """An error answer: the members of its problem document (RFC 9457), and its `Retry-After`."""

    status: int
    code: str
    detail: str
    request_id: str | None = None
    fields: tuple[FieldError, ...] = ()
    retry_after_seconds: float | None = None
    #: Of `duplicate_event`: the id of the original.
    event_id: str | None = None


class ApiError(TriggersError):
    """The server answered with an error status."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The stable error code, such as `invalid_event`."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """The explanation for people."""
        return self.problem.detail

    @property
    def request_id(self) -> str | None:
        """The id under which the server logged the request."""
        return self.problem.request_id

    @property
    def fields(self) -> tuple[FieldError, ...]:
        """The invalid fields, if fields are the cause."""
        return self.problem.fields

    @property
    def retry_after_seconds(self) -> float | None:
        """When to try again, if the server said so."""
        return self.problem.retry_after_seconds

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.code}: {self.detail}{request}"


class InvalidRequestError(ApiError):
    """400, 413, 415, 422: the server refuses this request; the same request is refused again."""


class AuthenticationError(ApiError):
    """401: the API key is missing, unknown, revoked or expired."""


class PermissionDeniedError(ApiError):
    """403: the API key may not do this."""


class NotFoundError(ApiError):
    """404: there is no such thing in the organization of the API key."""


class ConflictError(ApiError):
    """409."""


class RateLimitedError(ApiError):
    """429, still after the retries. `retry_after_seconds` says when to try again."""


class UnavailableError(ApiError):
    """502, 503, 504, still after the retries. The request may have been carried out; `detail` says more."""


class ServerError(ApiError):
    """Any other 5xx."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_FIRST_SERVER_ERROR = 500


def api_error(problem: Problem) -> ApiError:
    """Return the error of this problem's status."""
    default = ServerError if problem.status >= _FIRST_SERVER_ERROR else ApiError
    return _BY_STATUS.get(problem.status, default)(problem)
