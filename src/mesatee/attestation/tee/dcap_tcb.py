"""TCB info and QE identity of Intel: parsing, and the matching of a platform against them.

Spec: Intel PCS API version 4 (TCB Info V3, Enclave Identity V2), TCB Info V2 as of API version 3, and the
selection rules that the PCS documents: levels in descending order, the first whose every SVN is at most the
platform's. TDX modules and the relaunch status: Intel TDX DCAP Quoting Library API, "TDX module identities"
and "TD relaunch"; the same steps have the numbers 4.1.2.4.17.* in Intel's Quote Verification Library.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

from mesatee import _core
from mesatee.attestation.tee.dcap_quote import EnclaveReport, TdReport
from mesatee.errors import EvidenceRefused, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

Item = TypeVar("Item")
_TIME: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")
_COMPONENTS: Final = 16


class TcbStatus(StrEnum):
    """Intel's words for the state of a TCB."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


_S = TcbStatus
_STATUS: Final = {str(status): status for status in _S}
_PLATFORM: Final = frozenset(_S) - {_S.TD_RELAUNCH_ADVISED, _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED}
_COMPONENT: Final = frozenset({_S.UP_TO_DATE, _S.OUT_OF_DATE, _S.REVOKED})
"""A QE or TDX module has nothing to configure."""
_CONFIGURATION: Final = frozenset(
    {
        _S.CONFIGURATION_NEEDED,
        _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        _S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    }
)


@dataclass(frozen=True, slots=True)
class Level:
    """One TCB level of a platform."""

    sgx: bytes
    """16 SVNs."""
    pcesvn: int
    tdx: bytes | None
    status: TcbStatus
    date: str
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComponentLevel:
    """One level of a QE or TDX module."""

    isvsvn: int
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TdxModule:
    """Who signed the TDX module, and its levels; `id` is empty for the one of version 0."""

    id: str
    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[ComponentLevel, ...]


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """Intel's statement on the platforms of one FMSPC."""

    id: str
    """``SGX`` or ``TDX``; version 2 knows SGX only."""
    version: int
    issued: int
    """Unix seconds."""
    next_update: int
    """Unix seconds."""
    fmspc: bytes
    pceid: bytes
    evaluation_number: int
    levels: tuple[Level, ...]
    """Highest first."""
    tdx_module: TdxModule | None
    tdx_modules: tuple[TdxModule, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """Intel's statement on its quoting enclave."""

    id: str
    """``QE`` for SGX, ``TD_QE`` for TDX."""
    version: int
    issued: int
    next_update: int
    evaluation_number: int
    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[ComponentLevel, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """The verdict on a TCB."""

    status: TcbStatus
    advisories: tuple[str, ...]
    date: str
    """TCB date of the platform's level, as Intel writes it."""


# -- parsing ---------------------------------------------------------------------------------------


class _Json:
    """Typed access to a JSON object. Unknown members are left alone: Intel adds some without a new version."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            self._bad(f"{what} is not an object")
        self.value, self.what = value, what

    @staticmethod
    def _bad(message: str) -> NoReturn:
        raise Malformed(message)

    def text(self, name: str, chars: int = limits.NAME_CHARS) -> str:
        item = self.value.get(name)
        if not isinstance(item, str) or len(item) > chars or not item.isprintable():
            self._bad(f"{name!r} of {self.what} is not a text of at most {chars} characters")
        return item

    def number(self, name: str, limit: int = 0xFFFF) -> int:
        item = self.value.get(name)
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= limit:
            self._bad(f"{name!r} of {self.what} is not a number from 0 to {limit}")
        return item

    def hex(self, name: str, size: int) -> bytes:
        text = self.text(name, 2 * size)
        if re.fullmatch(r"[0-9A-Fa-f]+", text, re.ASCII) is None or len(text) != 2 * size:
            self._bad(f"{name!r} of {self.what} is not {size} bytes in hex")
        return bytes.fromhex(text)

    def time(self, name: str) -> int:
        text = self.text(name)
        try:
            if _TIME.fullmatch(text):
                return int(datetime.fromisoformat(text).timestamp())
        except ValueError:
            pass
        self._bad(f"{name!r} of {self.what} is not a time like 2025-01-31T00:00:00Z")

    def object(self, name: str) -> _Json:
        return _Json(self.value.get(name), f"{name!r} of {self.what}")

    def list(self, name: str, read: Callable[[Any], Item], optional: bool = False) -> tuple[Item, ...]:
        item = self.value.get(name, [] if optional else None)
        if not isinstance(item, list):
            self._bad(f"{name!r} of {self.what} is not a list")
        if len(item) > limits.TCB_LEVELS:
            raise TooLarge(f"{name!r} of {self.what} has more than {limits.TCB_LEVELS} entries")
        return tuple([read(entry) for entry in item])

    def status(self, allowed: frozenset[TcbStatus]) -> TcbStatus:
        text = self.text("tcbStatus")
        if text not in allowed:
            raise UnsupportedVersion(f"TCB status {text!r} of {self.what} is not known")
        return _STATUS[text]

    def advisories(self) -> tuple[str, ...]:
        """Names of advisories: there are some hundred, so that this is one look at all of a level."""
        found = self.list("advisoryIDs", lambda entry: entry, optional=True)
        if not set(map(type, found)) <= {str}:
            self._bad(f"an advisory of {self.what} is not a text")
        if max(map(len, found), default=0) > limits.NAME_CHARS or not "".join(found).isprintable():
            self._bad(f"an advisory of {self.what} is not a short text")
        return found

    def svns(self, name: str) -> bytes:
        """The SVNs of 16 components: a TCB info has some hundred lists of them, so that this is one look at each."""
        item = self.value.get(name)
        if isinstance(item, list) and len(item) == _COMPONENTS and set(map(type, item)) == {dict}:
            found = [entry.get("svn") for entry in item]
            if set(map(type, found)) == {int} and min(found) >= 0 and max(found) <= 0xFF:
                return bytes(found)
        self._bad(f"{name!r} of {self.what} is not {_COMPONENTS} components with an SVN from 0 to 255")


@lru_cache(maxsize=limits.STATEMENTS_CACHED)
def parse_tcb_info(text: bytes) -> TcbInfo:
    """TCB info of version 2 or 3. Parsed once for all quotes that it is used with.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    top = _Json(_core.parse_json(text, limits.COLLATERAL_BYTES, limits.JSON_DEPTH), "the TCB info")
    version = top.number("version")
    if version not in (2, 3):
        raise UnsupportedVersion(f"TCB info of version {version}; 2 and 3 are known")
    # Version 2 may or may not have an id; it has no TDX components.
    kind = top.text("id") if version == 3 else "SGX"
    if kind not in ("SGX", "TDX"):
        raise UnsupportedVersion(f"TCB info of {kind!r}; SGX and TDX are known")
    if (tcb_type := top.number("tcbType")) != 0:
        raise UnsupportedVersion(f"TCB info of type {tcb_type}; 0 is known")
    levels = top.list("tcbLevels", lambda entry: _level(_Json(entry, "a TCB level"), version, kind))
    tdx = kind == "TDX"
    return TcbInfo(
        id=kind,
        version=version,
        issued=top.time("issueDate"),
        next_update=top.time("nextUpdate"),
        fmspc=top.hex("fmspc", 6),
        pceid=top.hex("pceId", 2),
        evaluation_number=top.number("tcbEvaluationDataNumber"),
        # The order of the text does not bind: the rules ask for descending order.
        levels=tuple(
            sorted(levels, key=lambda level: (level.sgx, level.pcesvn, level.tdx or b""), reverse=True)
        ),
        tdx_module=_module(top.object("tdxModule"), named=False) if tdx else None,
        tdx_modules=top.list(
            "tdxModuleIdentities",
            lambda entry: _module(_Json(entry, "a TDX module"), named=True),
            optional=True,
        )
        if tdx
        else (),
    )


def _level(level: _Json, version: int, kind: str) -> Level:
    tcb = level.object("tcb")
    if version == 2:
        sgx = bytes(tcb.number(f"sgxtcbcomp{index:02}svn", 0xFF) for index in range(1, _COMPONENTS + 1))
    else:
        sgx = tcb.svns("sgxtcbcomponents")
    return Level(
        sgx=sgx,
        pcesvn=tcb.number("pcesvn"),
        tdx=tcb.svns("tdxtcbcomponents") if kind == "TDX" else None,
        status=level.status(_PLATFORM),
        date=level.text("tcbDate"),
        advisories=level.advisories(),
    )


def _component_levels(of: _Json) -> tuple[ComponentLevel, ...]:
    def read(entry: Any) -> ComponentLevel:
        level = _Json(entry, f"a level of {of.what}")
        return ComponentLevel(
            level.object("tcb").number("isvsvn"), level.status(_COMPONENT), level.advisories()
        )

    found = of.list("tcbLevels", read)
    return tuple(sorted(found, key=lambda level: level.isvsvn, reverse=True))


def _module(module: _Json, named: bool) -> TdxModule:
    return TdxModule(
        id=module.text("id").upper() if named else "",
        mrsigner=module.hex("mrsigner", 48),
        attributes=module.hex("attributes", 8),
        attributes_mask=module.hex("attributesMask", 8),
        levels=_component_levels(module) if named else (),
    )


@lru_cache(maxsize=limits.STATEMENTS_CACHED)
def parse_qe_identity(text: bytes) -> QeIdentity:
    """QE identity of version 2 or 3. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    top = _Json(_core.parse_json(text, limits.COLLATERAL_BYTES, limits.JSON_DEPTH), "the QE identity")
    version = top.number("version")
    if version not in (2, 3):
        raise UnsupportedVersion(f"QE identity of version {version}; 2 and 3 are known")
    return QeIdentity(
        id=top.text("id"),
        version=version,
        issued=top.time("issueDate"),
        next_update=top.time("nextUpdate"),
        evaluation_number=top.number("tcbEvaluationDataNumber"),
        # Written as bytes of a little-endian number.
        miscselect=int.from_bytes(top.hex("miscselect", 4), "little"),
        miscselect_mask=int.from_bytes(top.hex("miscselectMask", 4), "little"),
        attributes=top.hex("attributes", 16),
        attributes_mask=top.hex("attributesMask", 16),
        mrsigner=top.hex("mrsigner", 32),
        isvprodid=top.number("isvprodid"),
        levels=_component_levels(top),
    )


# -- matching --------------------------------------------------------------------------------------


def match_qe(identity: QeIdentity, report: EnclaveReport) -> ComponentLevel:
    """The level of the quoting enclave `report` (4.1.2.9).

    1. MISCSELECT and ATTRIBUTES under the masks, MRSIGNER and ISVPRODID are those of the identity.
    2. It is not a debug enclave, whatever the mask leaves out.
    3. The first level whose ISVSVN is at most the report's.

    Raises `EvidenceRefused`.
    """
    # 1. Identity.
    masked = bytes(a & b for a, b in zip(report.attributes, identity.attributes_mask, strict=True))
    expected = bytes(a & b for a, b in zip(identity.attributes, identity.attributes_mask, strict=True))
    if report.miscselect & identity.miscselect_mask != identity.miscselect & identity.miscselect_mask:
        raise EvidenceRefused("MISCSELECT of the quoting enclave is not that of Intel's QE identity")
    if masked != expected:
        raise EvidenceRefused("the attributes of the quoting enclave are not those of Intel's QE identity")
    if report.mrsigner != identity.mrsigner:
        raise EvidenceRefused("the quoting enclave was not signed by the signer in Intel's QE identity")
    if report.isvprodid != identity.isvprodid:
        raise EvidenceRefused("the quoting enclave is another product than in Intel's QE identity")
    # 2. Debug.
    if report.debug:
        raise EvidenceRefused("the quoting enclave runs in debug mode")
    # 3. Level.
    return _first(identity.levels, report.isvsvn, "the quoting enclave")


def _first(levels: tuple[ComponentLevel, ...], isvsvn: int, what: str) -> ComponentLevel:
    for level in levels:
        if level.isvsvn <= isvsvn:
            return level
    raise EvidenceRefused(f"ISVSVN {isvsvn} of {what} is below every level of the collateral")


def match_platform(
    info: TcbInfo, components: bytes, pcesvn: int, body: EnclaveReport | TdReport, qe: ComponentLevel
) -> Match:
    """The TCB status of a platform whose PCK certificate names `components` (16 SVNs) and `pcesvn`.

    1. SGX: the first level whose every component and PCESVN are at most the platform's (4.1.2.4.17.1-2).
    2. TDX: of those the first whose TDX components are at most the TD's TEE_TCB_SVN; with a module of version 1
       or later the first two components are the module's own and are not compared (4.1.2.4.17.3).
    3. TDX: the module's signer and attributes are Intel's, and its level (4.1.2.4.11, 4.1.2.4.17.4.1).
    4. Converge the statuses of platform and module.
    5. TD 1.5: out of date only because the module was updated after the TD started: relaunch advised
       (4.1.2.4.17.4.3).
    6. Converge with the status of the quoting enclave.

    Raises `EvidenceRefused`.
    """
    # 1. SGX.
    eligible = (level for level in info.levels if level.pcesvn <= pcesvn and _reaches(components, level.sgx))
    sgx = next(eligible, None)
    if sgx is None:
        raise EvidenceRefused("no TCB level matches: the platform is below every level of the TCB info")
    if isinstance(body, EnclaveReport):
        return Match(_converge(sgx.status, qe.status), _union(sgx, qe), sgx.date)  # 6.
    # 2. TDX.
    skip = 2 if body.tee_tcb_svn[1] else 0
    level = next(
        (
            level
            for level in (sgx, *eligible)
            if level.tdx is not None and _reaches(body.tee_tcb_svn[skip:], level.tdx[skip:])
        ),
        None,
    )
    if level is None:
        raise EvidenceRefused(
            "no TCB level matches: the TDX components are below every level of the TCB info"
        )
    # 3. Module.
    module = _match_module(info, body)
    # 4. Converge.
    status = level.status if module is None else _converge(level.status, module.status)
    # 5. Relaunch.
    if body.tee_tcb_svn2 is not None and module is not None:
        status = _relaunch(info, body.tee_tcb_svn2, sgx.status, status, module.status, qe.status)
    # 6. Quoting enclave.
    return Match(_converge(status, qe.status), _union(level, module, qe), level.date)


def _reaches(svns: bytes, level: bytes) -> bool:
    """Whether each SVN is at least that of the level, of as many."""
    return len(svns) == len(level) and all(map(operator.ge, svns, level))


def _match_module(info: TcbInfo, body: TdReport) -> ComponentLevel | None:
    """The level of the TDX module that launched the TD; None for version 0, which has none of its own."""
    version, isvsvn = body.tee_tcb_svn[1], body.tee_tcb_svn[0]
    module = _module_of(info, version) if version else info.tdx_module
    if module is None:
        raise EvidenceRefused("the TCB info names no TDX module")
    if body.mrsignerseam != module.mrsigner:
        raise EvidenceRefused("the TDX module was not signed by the signer in the TCB info")
    # SEAMATTRIBUTES are zero in production; the mask of the TCB info may not say otherwise.
    if any(body.seamattributes) or body.seamattributes != module.attributes:
        raise EvidenceRefused("the attributes of the TDX module are not those of the TCB info")
    return _first(module.levels, isvsvn, f"the TDX module {module.id}") if version else None


def _module_of(info: TcbInfo, version: int) -> TdxModule:
    name = f"TDX_{version:02X}"
    for module in info.tdx_modules:
        if module.id == name:
            return module
    raise EvidenceRefused(f"the TCB info names no TDX module {name}")


def _converge(platform: TcbStatus, component: TcbStatus) -> TcbStatus:
    """The status of a platform with a component of a status of its own."""
    if component is _S.REVOKED:
        return _S.REVOKED
    if component is _S.OUT_OF_DATE:
        if platform in (_S.UP_TO_DATE, _S.SW_HARDENING_NEEDED):
            return _S.OUT_OF_DATE
        if platform in (_S.CONFIGURATION_NEEDED, _S.CONFIGURATION_AND_SW_HARDENING_NEEDED):
            return _S.OUT_OF_DATE_CONFIGURATION_NEEDED
    return platform


def _relaunch(
    info: TcbInfo, svn2: bytes, sgx: TcbStatus, tdx: TcbStatus, module: TcbStatus, qe: TcbStatus
) -> TcbStatus:
    """Whether everything but the module that *launched* the TD is up to date, and the module that runs now is
    the newest: then starting the TD again is all that it takes.
    """
    healthy = qe is _S.UP_TO_DATE and sgx not in (
        _S.OUT_OF_DATE,
        _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        _S.REVOKED,
    )
    late = tdx in (_S.OUT_OF_DATE, _S.OUT_OF_DATE_CONFIGURATION_NEEDED) and module is _S.OUT_OF_DATE
    newest = info.levels[0].tdx
    if not healthy or not late or newest is None:
        return tdx
    if svn2[1]:
        levels = _module_of(info, svn2[1]).levels
        if not levels:
            raise EvidenceRefused("the TCB info has no level for the TDX module that runs now")
        isvsvn = levels[0].isvsvn
    else:
        isvsvn = newest[0]
    if svn2[0] < isvsvn or svn2[2] < newest[2]:
        return tdx
    if sgx in _CONFIGURATION or tdx in _CONFIGURATION:
        return _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return _S.TD_RELAUNCH_ADVISED


def _union(*levels: Level | ComponentLevel | None) -> tuple[str, ...]:
    return tuple(sorted({name for level in levels if level for name in level.advisories}))


__all__ = [
    "ComponentLevel",
    "Level",
    "Match",
    "QeIdentity",
    "TcbInfo",
    "TcbStatus",
    "TdxModule",
    "match_platform",
    "match_qe",
    "parse_qe_identity",
    "parse_tcb_info",
]
