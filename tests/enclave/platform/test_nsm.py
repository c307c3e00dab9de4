from __future__ import annotations

import cbor2
import pytest
from tests.enclave.platform.fakes import ROOT, FakeKernel, NsmDevice

from mesatee.enclave.platform import nsm
from mesatee.enclave.platform.nsm import NsmCollector
from mesatee.errors import Malformed, MesateeError, NotFound, Unavailable

DATA = bytes(range(64))


def collector(device: NsmDevice) -> NsmCollector:
    kernel = FakeKernel()
    kernel.files["dev/nsm"] = lambda: device
    return NsmCollector(root=ROOT, kernel=kernel)


def test_a_document_over_our_data() -> None:
    found = collector(NsmDevice()).collect(DATA)
    assert (found.tee, dict(found.files)) == ("nitro", {"document": b"document over " + DATA})


def test_the_longest_response() -> None:
    around = len(cbor2.dumps({"Attestation": {"document": bytes(1000)}})) - 1000
    longest = nsm.RESPONSE_BYTES - around
    found = collector(NsmDevice(lambda _: cbor2.dumps({"Attestation": {"document": bytes(longest)}})))
    assert len(found.collect(DATA).files["document"]) == longest


def test_an_error_is_told() -> None:
    with pytest.raises(Unavailable, match="InvalidArgument"):
        collector(NsmDevice(lambda _: cbor2.dumps({"Error": "InvalidArgument"}))).collect(DATA)


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff",
        cbor2.dumps([]),
        cbor2.dumps({}),
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": "text"}}),
        cbor2.dumps({"Attestation": {"document": b""}}),
        cbor2.dumps({"Attestation": {"document": b"d", "x": 1}}),
        cbor2.dumps({"Attestation": {"document": b"d"}}) + b"\0",
    ],
)
def test_other_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(MesateeError):
        collector(NsmDevice(lambda _: answer)).collect(DATA)


def test_sizes_that_cannot_be() -> None:
    for size in (0, nsm.RESPONSE_BYTES + 1, 1 << 40):
        device = NsmDevice()
        device.claimed = size
        with pytest.raises(Malformed):
            collector(device).collect(DATA)


def test_absent() -> None:
    with pytest.raises(NotFound):
        NsmCollector(root=ROOT, kernel=FakeKernel()).collect(DATA)
