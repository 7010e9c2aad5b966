"""A real system for the tests: the binary that TRIGGERS_BINARY names, started with `up`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import AnyClient, Blocking

from triggers_client import AsyncClient, Client, RetryPolicy

START_SECONDS = 120.0


@dataclass(frozen=True)
class System:
    """A running system."""

    url: str
    operator_token: str
    data_dir: Path

    def operator(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {self.operator_token}"}
        answer = httpx.request(method, self.url + path, json=body, headers=headers, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()

    def new_key(self, name: str, *, rate_limit_per_minute: int = 0, **key: Any) -> str:
        """Return an API key of a new organization."""
        organization = {"name": name, "tier": "enterprise", "rate_limit_per_minute": rate_limit_per_minute}
        made = self.operator("POST", "/v1/organizations", organization)
        body = {"name": name, "role": "admin", **key}
        return str(self.operator("POST", f"/v1/organizations/{made['id']}/keys", body)["key"])


def _await_ready(process: subprocess.Popen[bytes], output: Path, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while "Triggers is up" not in output.read_text():
        assert process.poll() is None, f"triggers up exited before it was ready:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < until, f"triggers up was not ready in time:\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    binary = os.environ.get("TRIGGERS_BINARY")
    assert binary, "TRIGGERS_BINARY must name the server's binary, such as target/ci/triggers"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # If this runs as root, the servers run as another user, who must be able to enter the folder.
        work.chmod(0o755)
        output, log = work / "up.out", work / "up.log"
        with output.open("wb") as out, log.open("wb") as err:
            arguments = [binary, "up", "--port", "0", "--data-dir", str(work / "data")]
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            _await_ready(process, output, log)
            found = json.loads((work / "data" / "dev.json").read_text())
            yield System(found["base_url"], found["operator_token"], work / "data")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


@pytest.fixture
def key(system: System, request: pytest.FixtureRequest) -> str:
    """Return an API key of an organization that no other test uses."""
    return system.new_key(request.node.name[:60])


Connect = Callable[..., AnyClient]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Create clients of each kind, so that both pass the same tests."""
    made: list[AnyClient] = []

    def create(url: str, key: str, **options: Any) -> AnyClient:
        options.setdefault("retry", RetryPolicy(base_delay_seconds=0.01, total_seconds=20))
        client = Client(url, key, **options) if request.param == "sync" else Blocking(AsyncClient(url, key, **options))
        made.append(client)
        return client

    yield create
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Connect, system: System, key: str) -> AnyClient:
    return connect(system.url, key)
