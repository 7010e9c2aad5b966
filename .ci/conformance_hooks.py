"""How the conformance tests sign in, what they must not do, and which 5xx they allow. Loaded by schemathesis."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import schemathesis
from requests import PreparedRequest
from schemathesis import AuthContext, CheckContext, HookContext, Response

Case = schemathesis.Case[Any]
Operation = Any
URL = os.environ["CONFORMANCE_URL"]
OPERATOR_TOKEN = os.environ["CONFORMANCE_OPERATOR_TOKEN"]
# Nothing listens there. A generated URL must not lead out of this machine.
NOBODY = "http://127.0.0.1:9/hook"
MAX_WAIT_SECONDS = 1


def post(path: str, credential: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 (the URL is the system that .ci/conformance started)
        URL + path,
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {credential}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 (as above)
        made: dict[str, Any] = json.load(answer)
        return made


def get(path: str, credential: str) -> dict[str, Any]:
    request = urllib.request.Request(URL + path, headers={"authorization": f"Bearer {credential}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 (as above)
        found: dict[str, Any] = json.load(answer)
        return found


class Organization:
    """An organization without a rate limit, and an admin key of it."""

    def __init__(self) -> None:
        body = {"name": "conformance", "tier": "enterprise", "rate_limit_per_minute": 0}
        made = post("/v1/organizations", OPERATOR_TOKEN, body)
        self.id = str(made["id"])
        self.key = str(self.new_key("admin")["key"])

    def new_key(self, role: str) -> dict[str, Any]:
        body = {"name": "conformance", "role": role, "rate_limit_per_minute": 0}
        return post(f"/v1/organizations/{self.id}/keys", OPERATOR_TOKEN, body)

    def made_id(self, path: str) -> str | None:
        """Return an id that this route knows, if it is one of an event or a key."""
        if path == "/v1/keys/{id}":
            return str(self.new_key("consume")["id"])
        if path.startswith("/v1/deliveries/"):
            return self.delivery()
        if path.startswith("/v1/replays/"):
            endpoint = post("/v1/endpoints", self.key, {"url": NOBODY, "event_types": ["replayed"]})
            return str(post(f"/v1/endpoints/{endpoint['id']}/retry", self.key, {"only": "failed"})["replay_id"])
        if path.startswith(("/v1/ack/", "/v1/events/", "/v1/inbox/")):
            event = str(post("/v1/events", self.key, {"event_type": "made", "payload": 1})["event_id"])
            # This route waits until the inbox has the event; the deliveries of an unknown event are 404.
            with contextlib.suppress(urllib.error.HTTPError):
                get(f"/v1/events/{event}", self.key)
            return event
        return None

    def delivery(self) -> str | None:
        """Return the id of a delivery, which fails: nobody listens."""
        endpoint = post("/v1/endpoints", self.key, {"url": NOBODY, "event_types": ["delivered"]})
        post("/v1/events", self.key, {"event_type": "delivered", "payload": 1})
        until = time.monotonic() + 20
        while time.monotonic() < until:
            found = get(f"/v1/endpoints/{endpoint['id']}/deliveries", self.key)["deliveries"]
            if found:
                return str(found[0]["delivery_id"])
            time.sleep(0.05)
        return None


class Credentials:
    """The routes of keys have an organization of their own: they change and revoke the key that they are sent with."""

    def __init__(self) -> None:
        self.main = Organization()
        self.changing = Organization()

    def organization(self, path: str) -> Organization:
        return self.changing if path.startswith("/v1/keys") else self.main

    def of(self, path: str) -> str:
        return OPERATOR_TOKEN if path.startswith("/v1/organizations") else self.organization(path).key


CREDENTIALS = Credentials()


@schemathesis.auth(refresh_interval=None)
class SignIn:
    def get(self, case: Case, _: AuthContext) -> str:
        return CREDENTIALS.of(case.path)

    def set(self, case: Case, data: str, _: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


#: The operations that need a key.
SECURED: set[str] = set()
#: Those of them that succeeded in this run.
SUCCEEDED: set[str] = set()


@schemathesis.hook
def before_init_operation(_: HookContext, operation: Operation) -> None:
    if operation.definition.raw.get("security"):
        SECURED.add(operation.label)


@schemathesis.hook
def before_call(_: HookContext, case: Case, **__: Any) -> None:
    """Keep requests on this machine and short, and the organizations of the run alive."""
    body: Any = case.body
    auth: Any = body.get("auth") if isinstance(body, dict) else None
    for holder in (body, auth):
        if not isinstance(holder, dict):
            continue
        for member in ("url", "webhook_url", "token_url"):
            value = holder.get(member)
            if isinstance(value, str) and ":" in value:
                holder[member] = NOBODY
    wait = str(case.query.get("wait", "")) if case.query else ""
    if wait.isdecimal() and MAX_WAIT_SECONDS < int(wait) <= 30:
        case.query["wait"] = MAX_WAIT_SECONDS
    if case.path_parameters.get("id") == "":
        # It would be the request of another route.
        case.path_parameters["id"] = str(uuid.uuid4())
    if "id" in case.path_parameters and case.operation.label in SECURED - SUCCEEDED:
        # Random ids are unknown ones, and so show little.
        case.path_parameters["id"] = (
            CREDENTIALS.organization(case.path).made_id(case.path) or case.path_parameters["id"]
        )
    kept = {CREDENTIALS.main.id, CREDENTIALS.changing.id}
    if case.path.startswith("/v1/organizations/") and str(case.path_parameters.get("id")) in kept:
        case.path_parameters["id"] = str(uuid.uuid4())


@schemathesis.hook
def after_call(_: HookContext, case: Case, response: Response) -> None:
    """Replace a key that a request has revoked or narrowed."""
    if case.path.startswith("/v1/keys") and response.status_code in {401, 403}:
        CREDENTIALS.changing = Organization()


def answer_to(request: PreparedRequest, headers: dict[str, str], source: str) -> int:
    """Send the request with other headers, from another address of this machine, and return the status."""
    url = urlsplit(str(request.url))
    connection = HTTPConnection(str(url.hostname), url.port, timeout=30, source_address=(source, 0))
    try:
        path = f"{url.path}?{url.query}" if url.query else url.path
        body = request.body.encode() if isinstance(request.body, str) else request.body
        assert body is None or isinstance(body, bytes)
        connection.request(str(request.method), path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@schemathesis.check
class KeyIsRequired:
    """What succeeds with a key is 401 without one and with an unknown one. Asked once for each operation.

    The check `ignored_auth` does not do: it takes the 429 for many unknown keys from one address for a fault.
    """

    def after_response(self, _: CheckContext, response: Response, case: Case) -> None:
        operation = case.operation
        if case.method.upper() != operation.method.upper():
            # A request with another method, such as OPTIONS, needs no key.
            return
        if (
            not operation.definition.raw.get("security")
            or not 200 <= response.status_code < 300
            or operation.label in SUCCEEDED
        ):
            return
        SUCCEEDED.add(operation.label)
        names = {"authorization", "x-api-key"}
        headers = {name: str(value) for name, value in response.request.headers.items() if name.lower() not in names}
        unknown = "zap_test_" + "u" * 43
        tries = [{}, {"Authorization": f"Bearer {unknown}"}, {"X-API-Key": unknown}, {"Authorization": "Basic eDp5"}]
        # Each operation has an address of its own, so that none has many unknown keys.
        source = f"127.0.1.{len(SUCCEEDED)}"
        for wrong in tries:
            status = answer_to(response.request, {**headers, **wrong}, source)
            assert status == 401, f"{status} instead of 401 with the credentials {wrong}"

    def after_run(self, _: CheckContext) -> None:
        """Fail if a route with a key never succeeded: then little of it was checked."""
        silent = SECURED - SUCCEEDED
        assert not silent, "never succeeded: " + ", ".join(sorted(silent))


@schemathesis.check
def server_error(_: CheckContext, response: Response, case: Case) -> None:
    """Allow no 5xx but a 503 that says when to come again, and 508 for a loop, where the document has them."""
    if response.status_code < 500:
        return
    if response.status_code == 508 and "508" in case.operation.definition.raw.get("responses", {}):
        return
    documented = "503" in case.operation.definition.raw.get("responses", {})
    assert response.status_code == 503, f"server error {response.status_code}"
    assert documented, "a 503 that is not documented"
    assert response.headers.get("retry-after"), "a 503 without Retry-After"
