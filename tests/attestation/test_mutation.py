"""Flipped bits of every captured case that counts: no verdict as good says anything else than the whole evidence.

The check of each TEE is called itself: `corpus.check` would hide an exception that is none of ours. Bits are chosen by
the case's name, so that a run can be repeated; a case that is added gets its share without a word here.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support import tokens

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Status
from mesatee.attestation.verdict import Verdict

FLIPS = 20_000
"""Flips of the ordinary suite, over all cases."""
SAMPLED = 100_000
"""Flips of certificates and collateral in the slow suite, over all cases."""
SIGNED = re.compile(r"(td_)?quote(_sha\d+)?|sig(nature|_sha\d+)|report|token|document|hcl_report")
"""Roles of what a machine signs, and of its signatures."""
GOOD = (Status.AFFIRMING, Status.WARNING)
CASES = [
    folder
    for tee in sorted(corpus.CHECKS)
    for folder in tokens.folders(tee)
    if tokens.load(folder)[0].get("expected", {}).get("tier") in GOOD
]

pytestmark = pytest.mark.skipif(not CASES, reason="captured evidence is not here (MESATEE_SHARED)")
every_case = pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")


@dataclass(frozen=True)
class Set:
    """Files that are enough for the tier of their case."""

    files: Mapping[str, bytes]
    whole: Verdict


@dataclass(frozen=True)
class Case:
    tee: str
    at: int | None
    files: Mapping[str, bytes]

    def verdict(self, files: Mapping[str, bytes]) -> Verdict | None:
        return tokens.appraise(self.tee, files, self.at)

    def smaller(self, order: list[str]) -> Set:
        """The files without those that the tier does not need, tried in this order.

        Where evidence comes twice, as a maker's JSON and as its parts, a flip of one copy is made good by the other.
        """
        found = Set(self.files, whole(self, self.files))
        for role in order:
            fewer = {name: data for name, data in found.files.items() if name != role}
            verdict = self.verdict(fewer) if fewer else None
            if verdict is not None and verdict.tier is found.whole.tier:
                found = Set(fewer, verdict)
        return found

    @functools.cached_property
    def parts(self) -> Set:
        return self.smaller(sorted(self.files, key=lambda role: -len(self.files[role])))

    @functools.cached_property
    def sets(self) -> list[Set]:
        """All files; as few as will do; and as few as will do with the largest kept, which hold the others."""
        large = self.smaller(sorted(self.files, key=lambda role: len(self.files[role])))
        found = [Set(self.files, whole(self, self.files)), self.parts, large]
        return list({frozenset(each.files): each for each in found}.values())


def whole(case: Case, files: Mapping[str, bytes]) -> Verdict:
    verdict = case.verdict(files)
    assert verdict is not None
    assert verdict.tier in GOOD
    return verdict


def load(folder: Path) -> Case:
    question = corpus.question((folder / "meta.json").read_bytes())
    assert question.tee
    return Case(question.tee, question.at, tokens.load(folder)[1])


def says(verdict: Verdict) -> tuple[Any, ...]:
    """What a relying party would act on."""
    return (
        verdict.tier,
        verdict.level,
        verdict.measurement,
        verdict.tcb_status,
        verdict.simulated,
        dict(verdict.claims),
    )


def flip(case: Case, chosen: Set, role: str, bits: range | list[int]) -> None:
    want = says(chosen.whole)
    for bit in bits:
        changed = bytearray(chosen.files[role])
        changed[bit // 8] ^= 1 << bit % 8
        verdict = case.verdict({**chosen.files, role: bytes(changed)})
        if verdict is not None and verdict.tier in GOOD:
            assert says(verdict) == want, f"bit {bit} of {role}, beside {sorted(chosen.files)}"


def plan(sets: list[Set], count: int, skip: re.Pattern[str] | None = None) -> Iterator[tuple[Set, str, int]]:
    """Shares `count` flips among the files of all sets; what a small file cannot use goes to the larger ones."""
    files = [
        (each, role) for each in sets for role in each.files if skip is None or not skip.fullmatch(role)
    ]
    files.sort(key=lambda item: len(item[0].files[item[1]]))
    for left, (each, role) in zip(range(len(files), 0, -1), files, strict=True):
        share = min(8 * len(each.files[role]), -(-count // left))
        count -= share
        yield each, role, share


def some(folder: Path, role: str, size: int, share: int) -> list[int]:
    return random.Random(f"{folder.name}/{role}").sample(range(8 * size), share)


@every_case
def test_flipped_bits_never_say_other_things(folder: Path) -> None:
    case = load(folder)
    for chosen, role, share in plan(case.sets, -(-FLIPS // len(CASES))):
        flip(case, chosen, role, some(folder, role, len(chosen.files[role]), share))


def test_the_ordinary_suite_flips_enough() -> None:
    shares = [
        share for folder in CASES for _, _, share in plan(load(folder).sets, -(-FLIPS // len(CASES)))
    ]
    assert sum(shares) >= FLIPS
    assert min(shares) >= 20


def test_most_flips_are_noticed() -> None:
    """Control: in what a machine signs, and nothing but its signature holds together, hardly a bit is left over."""
    for folder in CASES:
        case = load(folder)
        data = case.parts.files
        signed = [role for role in data if SIGNED.fullmatch(role)]
        assert signed, folder.name
        for role in signed:
            noticed = 0
            for bit in some(folder, role, len(data[role]), 20):
                changed = bytearray(data[role])
                changed[bit // 8] ^= 1 << bit % 8
                verdict = case.verdict({**data, role: bytes(changed)})
                noticed += verdict is None or verdict.tier not in GOOD
            # Quotes of Intel's carry certificates that collateral has too, and padding.
            assert noticed >= (6 if case.tee in ("sgx", "tdx") else 20), (folder.name, role)


@pytest.mark.slow
@every_case
def test_no_bit_of_signed_evidence_says_other_things(folder: Path) -> None:
    case = load(folder)
    for role, data in case.parts.files.items():
        if SIGNED.fullmatch(role):
            flip(case, case.parts, role, range(8 * len(data)))


@pytest.mark.slow
@every_case
def test_flipped_certificates_and_collateral_never_say_other_things(folder: Path) -> None:
    """Makers' JSON around evidence counts here too."""
    case = load(folder)
    for chosen, role, share in plan(case.sets, -(-SAMPLED // len(CASES)), SIGNED):
        flip(case, chosen, role, some(folder, role, len(chosen.files[role]), share))
