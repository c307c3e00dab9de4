"""Good evidence is as good in every wrapping: captured cases, with one file of each in the forms that tools write."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from tests.support import captured

from mesatee.attestation.appraisal import Status
from mesatee.attestation.corpus import check_folder

EVIDENCE = re.compile(
    r"(td_)?quote(_sha\d+|_report)?|report|token|document|certificate|evidence.*|hcl_report|spdm|attestation.*|eventlog"
)
"""Roles of what a machine signs, and of the texts and logs around it."""


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


BOM = b"\xef\xbb\xbf"
WRAPPINGS: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        "hex": lambda data: data.hex().encode(),
        "base64": base64.b64encode,
        "base64 for addresses": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
        "base64 of base64": lambda data: base64.b64encode(base64.b64encode(data)),
        "byte order mark and hex": lambda data: BOM + data.hex().encode(),
        "byte order mark and base64": lambda data: BOM + base64.b64encode(data),
        "byte order mark and JSON": lambda data: BOM + _text({"evidence": _base64(data)}),
        "hex in JSON": lambda data: _text({"evidence": data.hex()}),
        "base64 in JSON": lambda data: _text({"evidence": _base64(data)}),
        "array": lambda data: _text(list(data)),
        "array in JSON": lambda data: _text({"evidence": list(data)}),
        "base64 of JSON": lambda data: base64.b64encode(_text({"evidence": _base64(data)})),
        "string": lambda data: _text(_base64(data)),
        "beside a number of 64 bits": lambda data: _text({"evidence": _base64(data), "xfam": 2**64 - 1}),
    }
)


@captured.needed
@pytest.mark.parametrize(
    "folder", captured.folders("*"), ids=lambda folder: f"{folder.parent.name}/{folder.name}"
)
def test_good_evidence_is_as_good_in_every_wrapping(folder: Path) -> None:
    meta, files = captured.load(folder)
    question = {"tee": meta["tee"], "at": meta.get("at")}
    want = check_folder(question, files)
    for role in filter(EVIDENCE.fullmatch, files):
        for name, wrap in WRAPPINGS.items():
            found = check_folder(question, {**files, role: wrap(files[role])})
            if want.tier is Status.CONTRAINDICATED:
                assert found.tier is Status.CONTRAINDICATED, (role, name)
            else:
                assert (found.tier, found.claims) == (want.tier, want.claims), (role, name, found.reasons)
