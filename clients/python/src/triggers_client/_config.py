"""Which system a client uses, and with which key. Found like the command line finds it."""

from __future__ import annotations

import ipaddress
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from triggers_client._errors import ConfigurationError

_KEY = re.compile(r"[\x21-\x7e]{1,1024}")


@dataclass(frozen=True)
class Target:
    """A system, and the API key for it."""

    base_url: str
    #: Not in the repr.
    api_key: str = field(repr=False)
    #: Proxies and certificate variables of the environment are not for a system on this machine.
    is_loopback: bool


def target(base_url: str, api_key: str) -> Target:
    """Check URL and key. No error shows the key, nor a URL, which may have a password in it."""
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ConfigurationError("base_url is not a URL") from None
    if url.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("base_url must start with http:// or https:// and a host")
    if "@" in url.netloc or url.query or url.fragment or not re.fullmatch(r"[\x21-\x7e]+", base_url):
        raise ConfigurationError("base_url must have no user, query, fragment or blank")
    # A line break in a header would end up in the text of an error.
    if not _KEY.fullmatch(api_key):
        raise ConfigurationError("the API key must have 1 to 1024 visible ASCII characters; is there a line break?")
    is_loopback = _is_loopback(host)
    if url.scheme == "http" and not is_loopback:
        warnings.warn(f"the API key goes to {host} in plain text; use https://", stacklevel=3)
    return Target(base_url.rstrip("/"), api_key, is_loopback)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_env(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the URL and the key: `TRIGGERS_URL` and `TRIGGERS_API_KEY`, else those of the local system.

    The local system is the one that `triggers up` runs: its URL and key are in `dev.json` of the data folder
    (`TRIGGERS_DATA_DIR`, by default `.triggers`). Its key is not sent to another URL.
    """
    url, key = environ.get("TRIGGERS_URL") or None, environ.get("TRIGGERS_API_KEY") or None
    if url is not None and key is not None:
        return url, key
    local = _dev_json(Path(environ.get("TRIGGERS_DATA_DIR") or ".triggers") / "dev.json")
    if url is None:
        if local is None:
            raise ConfigurationError("TRIGGERS_URL is not set, and no local system runs here; start one: triggers up")
        url = local[0]
    if key is None:
        if local is None or local[0] != url.rstrip("/"):
            raise ConfigurationError("TRIGGERS_API_KEY is not set")
        key = local[1]
    return url, key


def _dev_json(path: Path) -> tuple[str, str] | None:
    try:
        document = json.loads(path.read_bytes())
        return str(document["base_url"]), str(document["api_key"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{path} cannot be read, or `triggers up` did not write it") from None
