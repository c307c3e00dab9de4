"""Which statuses follow from which levels."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mesatee.attestation.tee import dcap_tcb as tcb
from mesatee.attestation.tee.dcap_quote import TD_REPORT_15_BYTES, enclave_report, td_report
from mesatee.attestation.tee.dcap_tcb import TcbStatus as S
from mesatee.errors import EvidenceRefused, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

UP = tcb.ComponentLevel(1, S.UP_TO_DATE, ())


def level(sgx: int, tdx: list[int] | None, status: S, pcesvn: int = 5) -> tcb.Level:
    return tcb.Level(
        bytes([sgx] * 16), pcesvn, None if tdx is None else bytes(tdx).ljust(16, b"\0"), status, "", ()
    )


def module(name: str, *levels: tuple[int, S]) -> tcb.TdxModule:
    return tcb.TdxModule(
        name,
        bytes(48),
        bytes(8),
        bytes([255] * 8),
        tuple(tcb.ComponentLevel(svn, status, ()) for svn, status in levels),
    )


def info(*levels: tcb.Level, modules: tuple[tcb.TdxModule, ...] = ()) -> tcb.TcbInfo:
    return tcb.TcbInfo("TDX", 3, 0, 1, bytes(6), bytes(2), 1, levels, module(""), modules)


def td(svn: list[int], svn2: list[int] | None = None) -> Any:
    raw = bytes(svn).ljust(16, b"\0") + bytes(TD_REPORT_15_BYTES - 16 - 64)
    if svn2 is not None:
        return td_report(raw + bytes(svn2).ljust(16, b"\0") + bytes(48))
    return td_report(raw)


ENCLAVE = enclave_report(bytes(384))


def status(of: tcb.TcbInfo, body: Any, qe: tcb.ComponentLevel = UP, sgx: int = 5, pcesvn: int = 5) -> S:
    return tcb.match_platform(of, bytes([sgx] * 16), pcesvn, body, qe).status


def test_the_first_level_that_the_platform_reaches_counts() -> None:
    levels = info(level(5, None, S.UP_TO_DATE), level(4, None, S.OUT_OF_DATE), level(3, None, S.REVOKED, 3))
    assert status(levels, ENCLAVE) is S.UP_TO_DATE
    assert status(levels, ENCLAVE, sgx=4) is S.OUT_OF_DATE
    assert status(levels, ENCLAVE, pcesvn=4) is S.REVOKED
    with pytest.raises(EvidenceRefused):
        status(levels, ENCLAVE, sgx=2)


@pytest.mark.parametrize(
    ("platform", "part", "together"),
    [
        (S.UP_TO_DATE, S.UP_TO_DATE, S.UP_TO_DATE),
        (S.UP_TO_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.SW_HARDENING_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.OUT_OF_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.UP_TO_DATE, S.REVOKED, S.REVOKED),
        (S.REVOKED, S.UP_TO_DATE, S.REVOKED),
    ],
)
def test_the_status_is_that_of_the_weakest_part(platform: S, part: S, together: S) -> None:
    levels = info(level(5, None, platform))
    assert status(levels, ENCLAVE, tcb.ComponentLevel(1, part, ())) is together


MODULES = (module("TDX_01", (5, S.UP_TO_DATE), (3, S.OUT_OF_DATE)),)


def test_modules_with_an_identity_are_not_compared_with_the_levels() -> None:
    # Components 0 and 1 of the level are above those of the TD, and only count for version 0.
    levels = info(level(5, [9, 9, 4], S.UP_TO_DATE), modules=MODULES)
    assert status(levels, td([5, 1, 4])) is S.UP_TO_DATE
    assert status(levels, td([4, 1, 4])) is S.OUT_OF_DATE
    for svn in ([2, 1, 4], [5, 2, 4], [5, 1, 3], [5, 0, 4]):
        with pytest.raises(EvidenceRefused):
            status(levels, td(svn))


@pytest.mark.parametrize(
    ("svn2", "platform", "expected"),
    [
        ([5, 1, 4], S.UP_TO_DATE, S.TD_RELAUNCH_ADVISED),
        ([6, 1, 9], S.UP_TO_DATE, S.TD_RELAUNCH_ADVISED),
        ([5, 1, 4], S.CONFIGURATION_NEEDED, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
        ([4, 1, 4], S.UP_TO_DATE, S.OUT_OF_DATE),
        ([5, 1, 3], S.UP_TO_DATE, S.OUT_OF_DATE),
        ([5, 1, 4], S.OUT_OF_DATE, S.OUT_OF_DATE),
    ],
)
def test_a_module_that_was_updated_since_advises_a_relaunch(
    svn2: list[int], platform: S, expected: S
) -> None:
    levels = info(level(5, [0, 0, 4], platform), modules=MODULES)
    assert status(levels, td([3, 1, 4], svn2)) is expected


def test_another_signer_or_attributes_of_the_module_are_refused() -> None:
    levels = info(level(5, [0, 0, 4], S.UP_TO_DATE), modules=MODULES)
    good = td([5, 1, 4])
    for change in ({"mrsignerseam": b"\1" * 48}, {"seamattributes": b"\1" * 8}):
        with pytest.raises(EvidenceRefused):
            status(levels, dataclasses.replace(good, **change))


TEXT: dict[str, Any] = {
    "id": "SGX",
    "version": 3,
    "issueDate": "2026-01-01T00:00:00Z",
    "nextUpdate": "2026-02-01T00:00:00Z",
    "fmspc": "00906EA10000",
    "pceId": "0000",
    "tcbType": 0,
    "tcbEvaluationDataNumber": 1,
    "tcbLevels": [
        {
            "tcb": {"sgxtcbcomponents": [{"svn": n}] * 16, "pcesvn": 1},
            "tcbDate": "2026-01-01T00:00:00Z",
            "tcbStatus": "UpToDate",
        }
        for n in (1, 3, 2)
    ],
}


def read(**changes: Any) -> tcb.TcbInfo:
    return tcb.parse_tcb_info(json.dumps(TEXT | changes).encode())


def test_levels_are_put_in_order_whatever_the_text_says() -> None:
    assert [level.sgx[0] for level in read().levels] == [3, 2, 1]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 4}, UnsupportedVersion),
        ({"id": "QE"}, UnsupportedVersion),
        ({"tcbType": 1}, UnsupportedVersion),
        ({"fmspc": "00"}, Malformed),
        ({"fmspc": "zz906EA10000"}, Malformed),
        ({"issueDate": "yesterday"}, Malformed),
        ({"tcbLevels": None}, Malformed),
        ({"tcbLevels": [TEXT["tcbLevels"][0] | {"tcbStatus": "Fine"}]}, UnsupportedVersion),
        ({"tcbLevels": [TEXT["tcbLevels"][0] | {"tcb": {"sgxtcbcomponents": [], "pcesvn": 1}}]}, Malformed),
        ({"tcbLevels": TEXT["tcbLevels"][:1] * (limits.TCB_LEVELS + 1)}, TooLarge),
    ],
)
def test_what_is_no_tcb_info_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read(**changes)


def test_the_number_of_levels_is_bounded() -> None:
    assert len(read(tcbLevels=TEXT["tcbLevels"][:1] * limits.TCB_LEVELS).levels) == limits.TCB_LEVELS
