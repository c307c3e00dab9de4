from __future__ import annotations

import pytest

from mesatee.enclave.platform.keystone import KeystoneCollector
from mesatee.errors import Malformed, Unavailable

DATA = bytes(range(64))


def report(data: bytes, size: int | None = None) -> bytes:
    length = len(data) if size is None else size
    return bytes(64) + length.to_bytes(8, "little") + data + bytes(2048 - 72 - len(data))


def runtime(answer: bytes, result: int = 0) -> KeystoneCollector:
    def attest(room: bytearray, data: bytes) -> int:
        room[:] = answer
        return result

    return KeystoneCollector(attest)


def test_the_report_is_the_front_of_what_the_runtime_writes() -> None:
    found = runtime(report(DATA)).collect(DATA)
    assert (found.tee, len(found.files["report"])) == ("keystone", 1352)


def test_refused() -> None:
    with pytest.raises(Unavailable):
        runtime(report(DATA), 100_004).collect(DATA)
    for bad in (report(DATA[::-1]), report(DATA, 63), report(DATA)[:1352], bytes(2048)):
        with pytest.raises(Malformed):
            runtime(bad).collect(DATA)
