"""Where URL and key come from, and that the key stays there. No network."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

import pytest

import triggers_client
from triggers_client import AsyncClient, Client, ConfigurationError

KEY = "zap_test_KEYKEYKEY"
LOCAL = "http://127.0.0.1:1234"


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    (tmp_path / "dev.json").write_text(json.dumps({"base_url": LOCAL, "api_key": KEY, "more": 1}))
    return str(tmp_path)


def test_the_version_is_the_packages() -> None:
    assert triggers_client.__version__ == version("triggers-client")


def test_variables_name_the_system() -> None:
    with Client.from_env({"TRIGGERS_URL": "https://triggers.example/", "TRIGGERS_API_KEY": KEY}) as client:
        assert repr(client) == "Client(base_url='https://triggers.example')"


def test_the_local_system_is_found(data_dir: str) -> None:
    with Client.from_env({"TRIGGERS_DATA_DIR": data_dir}, timeout_seconds=1) as client:
        assert client.base_url == LOCAL
    with Client.from_env({"TRIGGERS_DATA_DIR": data_dir, "TRIGGERS_URL": f"{LOCAL}/"}) as client:
        assert client.base_url == LOCAL


def test_the_local_key_is_not_sent_elsewhere(data_dir: str) -> None:
    with pytest.raises(ConfigurationError, match="TRIGGERS_API_KEY is not set"):
        Client.from_env({"TRIGGERS_DATA_DIR": data_dir, "TRIGGERS_URL": "https://elsewhere.example"})


def test_a_missing_system_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="triggers up"):
        Client.from_env({"TRIGGERS_DATA_DIR": str(tmp_path)})
    (tmp_path / "dev.json").write_text(f'{{"api_key": "{KEY}"')
    with pytest.raises(ConfigurationError, match="cannot be read") as raised:
        Client.from_env({"TRIGGERS_DATA_DIR": str(tmp_path)})
    assert KEY not in repr(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "triggers.example",
        "ftp://triggers.example",
        "https://",
        "https://user:secret@triggers.example",
        "https://triggers.example/?x=secret",
        "https://triggers.example/#secret",
        "https://triggers.example:port",
        "https://[::1",
        "https://trig gers.example",
    ],
)
def test_a_url_that_cannot_be_a_system_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Client(url, KEY)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f"{KEY}é", f"{KEY} x", f"{KEY}\r\nx: y"])
def test_a_malformed_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Client(LOCAL, key)
    assert KEY not in repr(raised.value)


def test_plain_text_to_another_machine_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="plain text") as warned:
        Client("http://triggers.example", KEY).close()
    assert KEY not in str(warned[0].message)
    assert warned[0].filename == __file__, "the warning names the caller's line"
    for url in ("http://localhost:1", "http://[::1]:1", "http://127.8.9.1", "https://triggers.example"):
        Client(url, KEY).close()


def test_the_key_is_in_no_repr() -> None:
    client, async_client = Client(LOCAL, KEY), AsyncClient(LOCAL, KEY)
    for value in (client, async_client, vars(client), vars(async_client)):
        assert KEY not in repr(value)
    client.close()
    asyncio.run(async_client.aclose())
