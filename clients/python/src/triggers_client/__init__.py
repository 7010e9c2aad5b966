"""Client of Triggers: send events, read and acknowledge an inbox, verify webhooks."""

from triggers_client._async_client import AsyncClient
from triggers_client._client import Client
from triggers_client._errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FieldError,
    InvalidAnswerError,
    InvalidRequestError,
    NoAnswerError,
    NotFoundError,
    PermissionDeniedError,
    Problem,
    RateLimitedError,
    ServerError,
    TriggersError,
    UnavailableError,
    WebhookVerificationError,
)
from triggers_client._http import VERSION
from triggers_client._models import (
    Accepted,
    AckResult,
    BatchResult,
    Delivery,
    Event,
    EventStatus,
    NewEvent,
    Page,
    Received,
)
from triggers_client._retry import RetryPolicy
from triggers_client.webhooks import WebhookEvent, sign, verify_webhook, verify_webhook_batch

__version__ = VERSION

__all__ = [
    "Accepted",
    "AckResult",
    "ApiError",
    "AsyncClient",
    "AuthenticationError",
    "BatchResult",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "Delivery",
    "Event",
    "EventStatus",
    "FieldError",
    "InvalidAnswerError",
    "InvalidRequestError",
    "NewEvent",
    "NoAnswerError",
    "NotFoundError",
    "Page",
    "PermissionDeniedError",
    "Problem",
    "RateLimitedError",
    "Received",
    "RetryPolicy",
    "ServerError",
    "TriggersError",
    "UnavailableError",
    "WebhookEvent",
    "WebhookVerificationError",
    "__version__",
    "sign",
    "verify_webhook",
    "verify_webhook_batch",
]
