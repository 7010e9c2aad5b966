"""The examples and the code blocks of README.md, run as a user runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import System
from support import wait_for

from triggers_client import Client

PACKAGE = Path(__file__).parent.parent
MAX_EXAMPLE_LINES = 60
CODE_BLOCKS = re.findall(r"^```python\n(.*?)^```", (PACKAGE / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def run(program: list[str], **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(program: list[str], output: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with output.open("wb") as file:
            process = subprocess.Popen([sys.executable, *program], env={**os.environ, **variables}, stdout=file)
    finally:
        signal.signal(signal.SIGINT, previous)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def example(name: str) -> str:
    return str(PACKAGE / "examples" / name)


def test_examples_are_short() -> None:
    examples = list((PACKAGE / "examples").glob("*.py"))
    assert len(examples) == 3
    for path in examples:
        assert len(path.read_text().splitlines()) <= MAX_EXAMPLE_LINES, path.name


@pytest.mark.parametrize("number", range(len(CODE_BLOCKS)))
def test_code_blocks_of_the_readme_run(number: int, system: System, key: str) -> None:
    run(["-c", CODE_BLOCKS[number]], TRIGGERS_URL=system.url, TRIGGERS_API_KEY=key)


def test_the_readme_has_code_blocks() -> None:
    assert len(CODE_BLOCKS) >= 4


def test_the_local_system_needs_no_variables(system: System) -> None:
    variables = {"TRIGGERS_DATA_DIR": str(system.data_dir), "TRIGGERS_URL": "", "TRIGGERS_API_KEY": ""}
    assert run(["-c", CODE_BLOCKS[0]], **variables) == ""


def test_what_is_produced_is_consumed(system: System, key: str, tmp_path: Path) -> None:
    variables = {"TRIGGERS_URL": system.url, "TRIGGERS_API_KEY": key}
    lines = run([example("produce.py")], **variables).splitlines()
    assert [line.split()[0] for line in lines] == ["sent", "duplicate", *(f"paid-{number}" for number in range(1, 6))]
    ids = {line.split()[-1] for line in lines}
    output = tmp_path / "consumed"
    with running([example("consume.py")], output, **variables):
        wait_for(lambda: len(output.read_text().splitlines()) == len(ids), "the consumer gets all events")
    assert {line.split()[0] for line in output.read_text().splitlines()} == ids
    with Client(system.url, key) as client:
        assert client.page().events == (), "the consumer acknowledged what it handled"


def test_the_webhook_receiver_verifies(system: System, key: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/hook"
    headers = {"authorization": f"Bearer {key}"}
    made = httpx.post(f"{system.url}/v1/endpoints", json={"url": url}, headers=headers, trust_env=False).json()
    output = tmp_path / "received"
    with running([example("webhook_receiver.py"), str(port)], output, WEBHOOK_SECRET=made["secret"]):

        def forged() -> int:
            try:
                return httpx.post(url, content=b"{}", trust_env=False).status_code
            except httpx.ConnectError:
                return 0

        assert wait_for(forged, "the receiver listens") == 401
        with Client(system.url, key) as client:
            sent = client.send("order.created", {"id": 7})
        wait_for(output.read_text, "the receiver prints the event")
    assert output.read_text() == f"{sent.event_id} order.created {{'id': 7}}\n"
