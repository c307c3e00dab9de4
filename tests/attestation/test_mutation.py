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
from tests.support import captured, tokens

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
    for folder in captured.folders("*")
    if captured.load(folder)[0].get("expected", {}).get("tier") in GOOD
]

pytestmark = captured.needed
every_case = pytest.mark.parametrize(
    "folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}"
)


@dataclass(frozen=True)
class Set:
    """Files of a case that are enough for its verdict."""

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
        """The files without those that the verdict does not need, tried in this order.

        Where evidence comes twice, as a maker's JSON and as its parts, a flip of one copy is made good by the other.
        """
        found = Set(self.files, whole(self, self.files))
        for role in order:
            fewer = {name: data for name, data in found.files.items() if name != role}
            verdict = self.verdict(fewer) if fewer else None
            if verdict is not None and says(verdict) == says(found.whole):
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
    return Case(question.tee, question.at, captured.load(folder)[1])


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


def same(case: Case, chosen: Set, role: str, found: Verdict) -> bool:
    want = chosen.whole
    if says(found) == says(want):
        return True
    # A name in a maker's JSON is signed by nobody: with a wrong bit, what stood under it is as if it had not come. That
    # may cost claims and levels, where only this file has the piece; it never changes what is said of the rest.
    loose = len(chosen.files) < len(case.files) and not SIGNED.fullmatch(role)
    fewer = found.claims.items() <= want.claims.items() and found.level <= want.level
    # Without its quote a composite is the hardware's part alone: a lower level, and the measurement of that part.
    part = found.level < want.level and found.measurement == want.claims.get("measurement.hardware")
    known = found.measurement == want.measurement or part
    return loose and fewer and found.tier is want.tier and known


def flip(case: Case, chosen: Set, role: str, bits: range | list[int]) -> None:
    for bit in bits:
        changed = bytearray(chosen.files[role])
        changed[bit // 8] ^= 1 << bit % 8
        verdict = case.verdict({**chosen.files, role: bytes(changed)})
        if verdict is not None and verdict.tier in GOOD:
            assert same(case, chosen, role, verdict), f"bit {bit} of {role}, beside {sorted(chosen.files)}"


def plan(sets: list[Set], count: int, skip: re.Pattern[str] | None = None) -> Iterator[tuple[Set, str, int]]:
    """Shares `count` flips among the files of all sets; what a small file cannot use goes to the larger ones."""
    files = [(each, role) for each in sets for role in each.files if skip is None or not skip.fullmatch(role)]
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
    shares = [share for folder in CASES for _, _, share in plan(load(folder).sets, -(-FLIPS // len(CASES)))]
    assert sum(shares) >= FLIPS
    assert min(shares) >= 20


def signed(case: Case) -> Iterator[tuple[Set, str]]:
    """What the machine signed, where no other copy stands in for it; the makers' JSON, where it is nowhere else."""
    every = Set(case.files, whole(case, case.files))
    found = [role for role in case.files if SIGNED.fullmatch(role)]
    if not any(role in case.parts.files for role in found):
        found = list(case.parts.files)
    for role in found:
        yield (case.parts if role in case.parts.files else every), role


def test_a_flip_of_what_is_signed_is_noticed() -> None:
    """Control: these files are what the verdict comes from."""
    for folder in CASES:
        case = load(folder)
        for chosen, role in signed(case):
            noticed = 0
            for bit in some(folder, role, len(chosen.files[role]), 20):
                changed = bytearray(chosen.files[role])
                changed[bit // 8] ^= 1 << bit % 8
                verdict = case.verdict({**chosen.files, role: bytes(changed)})
                noticed += verdict is None or verdict.tier not in GOOD
            # Intel's quotes carry certificates that collateral has too, and padding.
            assert noticed >= (6 if case.tee in ("sgx", "tdx") else 15), (folder.name, role)


@pytest.mark.slow
@every_case
def test_no_bit_of_signed_evidence_says_other_things(folder: Path) -> None:
    case = load(folder)
    for chosen, role in signed(case):
        flip(case, chosen, role, range(8 * len(chosen.files[role])))


@pytest.mark.slow
@every_case
def test_flipped_certificates_and_collateral_never_say_other_things(folder: Path) -> None:
    """Makers' JSON around evidence counts here too."""
    case = load(folder)
    for chosen, role, share in plan(case.sets, -(-SAMPLED // len(CASES)), SIGNED):
        flip(case, chosen, role, some(folder, role, len(chosen.files[role]), share))
