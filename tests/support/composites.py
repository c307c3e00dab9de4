"""Composite evidence for tests: machines, GPUs and what stands between, under keys of our own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.attestation.tee import test_nvidia as gpus
from tests.support import amd, tokens

from mesatee import _core
from mesatee.attestation import corpus
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.tee import composite
from mesatee.attestation.trust import ANY, RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise, examine
from mesatee.enclave.platform import CompositeCollector, PlatformAttester
from mesatee.enclave.platform.collect import Collector
from mesatee.errors import EvidenceRefused, LevelTooLow, Malformed

AT = amd.START
SPKI = _core.spki(_core.SigningKey.generate().public)
CLAIMS = ev.Claims.of_key(SPKI, "worker")
TEE = "snp+tpm"
LIFE = amd.START + amd.DAY - tokens.START
GPU_ROOT = tokens.certificate("root", gpus.ROOT_KEY, "root", gpus.ROOT_KEY, seconds=LIFE)
GPU_DEVICE = tokens.certificate("device", gpus.DEVICE_KEY, "root", gpus.ROOT_KEY, seconds=LIFE)
OTHER_CHIP = bytes(reversed(amd.HWID))


@dataclass
class Snp:
    """The processor's interface."""

    chip: bytes = amd.HWID
    fields: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    """Roles of pieces that it does not give."""
    tee: str = "snp"
    level: int = 4
    links: Mapping[str, bytes] = field(default_factory=dict)

    def collect(self, report_data: bytes) -> Bundle:
        line, key = amd.MILAN, self.chip.hex()[:8]
        said = {"platform_info": 0x24, "chip_id": self.chip, "report_data": report_data, **self.fields}
        files = {
            "report": amd.report(key, line=line, **said),
            "vcek": line.vcek(key, hwid=self.chip),
            "ask_ark": amd.pem(line.ask, line.ark),
            "crl": line.crl(),
        }
        return Bundle("snp", {role: data for role, data in files.items() if role not in self.without})


@dataclass
class Gpu:
    """What NVIDIA's driver gives for a nonce."""

    keys: tuple[Any, ...] = (gpus.LEAF_KEY,)
    tee: str = "nvidia-gpu"
    level: int = 4

    def chain(self, key: Any) -> bytes:
        return tokens.pem_chain([_leaf(key), GPU_DEVICE, GPU_ROOT])

    @property
    def links(self) -> Mapping[str, bytes]:
        return {
            "nvidia-gpu-keys": composite.gpu_link(hashlib.sha256(_leaf(key)).hexdigest() for key in self.keys)
        }

    def collect(self, report_data: bytes) -> Bundle:
        nonce = report_data[:32]
        items = [
            gpus.item(gpus.build(key, nonce=nonce), certificate=_text(self.chain(key)), nonce=nonce.hex())
            for key in self.keys
        ]
        return Bundle("nvidia-gpu", {"evidence_json": gpus.json.dumps(items).encode()})


@functools.cache
def _leaf(key: Any) -> bytes:
    return tokens.certificate("gpu", key, "device", gpus.DEVICE_KEY, ca=False, seconds=LIFE)


def _text(chain: bytes) -> str:
    return gpus.base64.b64encode(chain).decode()


@dataclass
class Relay:
    """A collector between: what it gives is altered on the way."""

    inner: Collector
    change: Any
    tee: str = ""
    level: int = 0

    def __post_init__(self) -> None:
        self.tee, self.level = self.inner.tee, self.inner.level

    @property
    def links(self) -> Mapping[str, bytes]:
        return self.inner.links

    def collect(self, report_data: bytes) -> Bundle:
        found: Bundle = self.change(self.inner, report_data)
        return found


def made(*parts: Collector, claims: ev.Claims = CLAIMS) -> bytes:
    return PlatformAttester(CompositeCollector(*parts)).evidence(claims)


def lax(tee: str = TEE) -> RoleTrust:
    """Everything allowed that a policy can allow, and no key pinned."""
    return RoleTrust((tee,), 1, ANY, allow_simulated=True, allow_revocation_unknown=True)


@functools.lru_cache(maxsize=8)
def _enrolled(extension: bytes) -> RoleTrust:
    """The policy that pins this very machine, as whoever enrols it would write it."""
    tee = ev.decode(extension).tee
    parts = composite.parse(ev.decode(extension).body)
    part = next(each for each in parts.others if each.tee == "tpm")
    anchor = corpus.check("tpm", part.files, AT, corpus.CorpusPolicy()).claims["anchor"]
    assert isinstance(anchor, str)
    pinned = replace(lax(tee), anchors=(anchor,))
    said = examine(extension, SPKI, TrustPolicy(worker=pinned), AT, "worker")
    machine = said.claims["machine"]
    assert isinstance(machine, str)
    return replace(
        pinned, minimum_level=5, measurements=(said.measurement,), pins={tee: {"machine": (machine,)}}
    )


def accepted(extension: bytes, trust: RoleTrust, endorsements: Endorsements = NOTHING) -> Any:
    return appraise(extension, SPKI, TrustPolicy(worker=trust), AT, "worker", endorsements)


def refused(extension: bytes, trust: RoleTrust, why: str) -> None:
    """By the policy of the machine, and by one that is as lax as can be."""
    for asked in (trust, replace(trust, minimum_level=1, measurements=ANY, pins={})):
        with pytest.raises((EvidenceRefused, LevelTooLow, Malformed)) as error:
            accepted(extension, asked)
        with contextlib.suppress(EvidenceRefused, Malformed):
            found = examine(extension, SPKI, TrustPolicy(worker=asked), AT, "worker")
            assert found.status in (Status.CONTRAINDICATED, Status.NONE)
            assert any(why in reason for reason in found.reasons), found.reasons
            continue
        assert why in str(error.value)


def altered(extension: bytes, **pieces: bytes | None) -> bytes:
    """With other pieces (``snp.report`` as ``snp_DOT_report``), or without them."""
    found = ev.decode(extension)
    files = dict(Bundle.parse(found.body).files)
    for name, data in pieces.items():
        piece = name.replace("_DOT_", ".")
        if data is None:
            del files[piece]
        else:
            files[piece] = data
    return ev.encode(found.tag, Bundle(found.tee, files).encode(), found.claims_bytes)


def part(extension: bytes, tee: str) -> dict[str, bytes]:
    files = Bundle.parse(ev.decode(extension).body).files
    return {name: data for name, data in files.items() if name.startswith(f"{tee}.")}


def swapped(extension: bytes, tee: str, other: bytes) -> bytes:
    """The part of class `tee` of `other` in the place of this one's."""
    found = ev.decode(extension)
    files = {n: d for n, d in Bundle.parse(found.body).files.items() if not n.startswith(f"{tee}.")}
    return ev.encode(found.tag, Bundle(found.tee, files | part(other, tee)).encode(), found.claims_bytes)
