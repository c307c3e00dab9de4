"""Cases of captured evidence: folders with a `meta.json`, and the verdict on each under one policy.

What a case expects is never read here: `check_folder` sees the TEE's name, the files and the time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from mesatee.attestation.verdict import Verdict


@dataclass(frozen=True, slots=True)
class CorpusPolicy:
    """What evidence of unknown machines must show, where nobody knows their measurements.

    Any measurement counts. Roots are the vendors', and a case's own anchors for Arm and TPM alone, which have
    no vendor's root. Debug and a TCB level that nothing matches are contraindicated, a TCB that is known but
    not up to date is a warning, and what proves only a signature, a replay or a format is "none".
    """

    missing_crl: bool = True
    """A missing CRL is reported, not refused."""


Check: TypeAlias = Callable[[Mapping[str, bytes], int | None, CorpusPolicy], Verdict]

CHECKS: Final[Mapping[str, Check]] = MappingProxyType({})
"""Value of ``tee`` in `meta.json` -> the check."""
