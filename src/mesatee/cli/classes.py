"""Names of TEE classes in options and in policies: a class that does not exist would refuse every worker, silently."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..attestation.trust import TEES
from ..errors import Malformed
from .common import say

_WORD: Final = r'"([^"\\]*)"'
_COMPARED: Final = re.compile(rf"context\.tee\s*[!=]=\s*{_WORD}|{_WORD}\s*[!=]=\s*context\.tee")
_LISTED: Final = re.compile(r"\[([^\[\]]*)\]\s*\.\s*contains\s*\(\s*context\.tee\s*\)")


def check(tees: Iterable[str]) -> None:
    """Every name is a TEE class that evidence may be of. Raises `Malformed`."""
    for tee in tees:
        if tee not in TEES:
            raise Malformed(f"there is no TEE class {tee[:64]!r}", hint="known: " + ", ".join(TEES))


def unknown(policy: str) -> list[str]:
    """The words that a Cedar text compares with the TEE class and that are none, in order.

    >>> unknown('permit (principal, action, resource) when { ["sev-snp", "tdx"].contains(context.tee) };')
    ['sev-snp']
    """
    words = [word for match in _COMPARED.finditer(policy) for word in match.groups() if word is not None]
    for match in _LISTED.finditer(policy):
        words += re.findall(_WORD, match[1])
    return sorted(set(words) - set(TEES))


def warn(policy: str) -> None:
    """Say on standard error which TEE classes of a Cedar text do not exist. A later version may know them."""
    for word in unknown(policy):
        say(
            f"warning: the policy names the TEE class {word!r}, which does not exist; known: {', '.join(TEES)}"
        )


__all__ = ["check", "unknown", "warn"]
