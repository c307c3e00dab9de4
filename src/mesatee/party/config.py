"""Where a party's files are, and the service file that `mesatee up` writes for its own machine::

    version = 1
    url = "https://127.0.0.1:8443"
    trust = "trust.toml"            the trust policy; a relative path starts at the service file's folder
    environment = "<digest>"        of the Python environment that tasks name
    workers = ["<measurement>"]     of the workers that tasks accept; "none" at level 1
    tees = ["software"]             TEE classes that tasks accept
    level = 2                       the least level that tasks accept

Everything in it is a default for options of the command line; it proves nothing by itself.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..attestation.trust import TEES, TrustPolicy
from ..errors import InputError, Malformed, NotFound, UnsupportedVersion
from ..protocol import limits
from ..protocol.digests import is_hex
from . import files

SERVICE_FILE: Final = "service.toml"
SERVICE_FILE_BYTES: Final = 64 * limits.KIB
"""A service file, in bytes."""
VERSION: Final = 1
URL_CHARS: Final = 512
"""A service's URL, in characters."""
_TRUST_HINT: Final = (
    "docs/attestation.md has an example and all keys; `mesatee up` writes one for its service"
)
_MEMBERS: Final = {"version", "url", "trust", "environment", "workers", "tees", "level"}
MEASUREMENT: Final = re.compile(r"(none|[0-9a-f]{64,128})\Z")
"""A worker's measurement in lower-case hex; ``none`` at level 1."""


def default_home() -> Path:
    """``$MESATEE_HOME``, or ``~/.local/share/mesatee``."""
    given = os.environ.get("MESATEE_HOME")
    return Path(given) if given else Path.home() / ".local" / "share" / "mesatee"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a gateway listens."""

    host: str
    port: int


def endpoint(url: str) -> Endpoint:
    """Parse ``https://HOST:PORT``. Raises `Malformed`."""
    wrong = Malformed("a service's URL is https://HOST:PORT", hint="e.g. https://127.0.0.1:8443")
    if len(url) > URL_CHARS or not url.isascii() or not url.isprintable():
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme != "https" or not host or not port or extra:
        raise wrong
    return Endpoint(host, port)


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """The parsed service file."""

    url: str
    trust: Path
    environment: str
    workers: tuple[str, ...]
    tees: tuple[str, ...]
    level: int


def write_service_file(
    home: Path,
    *,
    url: str,
    trust: str | Path,
    environment: str,
    workers: Sequence[str],
    tees: Sequence[str],
    level: int,
) -> Path:
    """Write ``<home>/service.toml`` and return its path.

    Raises `Malformed` for what `read_service_file` refuses.
    """
    value = {
        "version": VERSION,
        "url": url,
        "trust": str(trust),
        "environment": environment,
        "workers": list(workers),
        "tees": list(tees),
        "level": level,
    }
    _check(value, home)
    # JSON's strings, numbers and flat arrays are TOML too.
    text = "".join(f"{key} = {json.dumps(item)}\n" for key, item in value.items())
    path = files.private_folder(home) / SERVICE_FILE
    files.write(path, text.encode())
    return path


def read_service_file(home: Path) -> ServiceFile | None:
    """The service file of `home`; None if there is none.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    path = home / SERVICE_FILE
    try:
        data = files.read(path, SERVICE_FILE_BYTES, "service file")
    except NotFound:
        return None
    try:
        value = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise Malformed(f"{path} is not TOML: {str(error)[:200]}") from None
    return _check(value, home)


def _check(value: dict[str, Any], home: Path) -> ServiceFile:
    if value.get("version") != VERSION or isinstance(value.get("version"), bool):
        raise UnsupportedVersion(f"a service file must say `version = {VERSION}`")
    if set(value) != _MEMBERS:
        raise Malformed(f"a service file has exactly {', '.join(sorted(_MEMBERS))}")
    url, trust, environment, workers = value["url"], value["trust"], value["environment"], value["workers"]
    if not isinstance(url, str) or not isinstance(trust, str) or not trust or "\0" in trust:
        raise Malformed("url and trust of a service file are strings")
    endpoint(url)
    if not isinstance(environment, str) or not is_hex(environment, 32):
        raise Malformed("environment of a service file is a SHA-256 in lower-case hex")
    if not isinstance(workers, list) or not 1 <= len(workers) <= 64:
        raise Malformed("workers of a service file is a list of 1 to 64 measurements")
    if not all(isinstance(item, str) and MEASUREMENT.match(item) for item in workers):
        raise Malformed("a measurement of a service file is lower-case hex, or none")
    return ServiceFile(url, home / trust, environment, tuple(workers), *_accepted(value))


def _accepted(value: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    tees, level = value["tees"], value["level"]
    if (
        not isinstance(tees, list)
        or not tees
        or not all(isinstance(item, str) and item in TEES for item in tees)
    ):
        raise Malformed(f"tees of a service file is a list of TEE classes out of {', '.join(TEES)}")
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= 5:
        raise Malformed("level of a service file is 1 to 5")
    return tuple(tees), level


def read_trust(path: Path) -> TrustPolicy:
    """A trust policy file. Raises `NotFound`, `Malformed`, `TooLarge` or `UnsupportedVersion`, which name the file."""
    data = files.read(path, limits.TRUST_POLICY_BYTES, "trust file")
    try:
        return TrustPolicy.from_toml(data)
    except InputError as error:
        raise type(error)(f"the trust file {path}: {error.message}", hint=_TRUST_HINT) from None


__all__ = [
    "MEASUREMENT",
    "SERVICE_FILE",
    "SERVICE_FILE_BYTES",
    "Endpoint",
    "ServiceFile",
    "default_home",
    "endpoint",
    "read_service_file",
    "read_trust",
    "write_service_file",
]
