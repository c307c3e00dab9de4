from __future__ import annotations

import pytest
from tests.enclave.platform.fakes import ROOT, FakeKernel, Gramine

from mesatee.enclave.platform import gramine
from mesatee.enclave.platform.gramine import GramineCollector, sealing_key
from mesatee.errors import Malformed, NotFound, TooLarge, Unavailable

DATA = bytes(range(64))


def test_a_quote_over_our_data() -> None:
    kernel = FakeKernel()
    Gramine(kernel)
    found = GramineCollector(root=ROOT, kernel=kernel).collect(DATA)
    assert (found.tee, sorted(found.files)) == ("sgx", ["quote"])
    assert found.files["quote"][368:432] == DATA
    assert not kernel.handles


def test_a_quote_over_other_data_is_refused() -> None:
    kernel = FakeKernel()
    enclave = Gramine(kernel)
    collector = GramineCollector(root=ROOT, kernel=kernel)
    enclave.quotes = lambda: bytes(5000)
    with pytest.raises(Malformed):
        collector.collect(DATA)
    enclave.quotes = lambda: bytes(gramine.QUOTE_BYTES + 1)
    with pytest.raises(TooLarge):
        collector.collect(DATA)
    with pytest.raises(Malformed):
        collector.collect(DATA + b"x")


def test_outside_of_an_enclave() -> None:
    with pytest.raises(NotFound):
        GramineCollector(root=ROOT, kernel=FakeKernel())
    for kind in (b"none", b"epid", b""):
        kernel = FakeKernel()
        Gramine(kernel, kind)
        with pytest.raises(Unavailable, match="attestation type"):
            GramineCollector(root=ROOT, kernel=kernel)


def test_the_sealing_key() -> None:
    kernel = FakeKernel()
    Gramine(kernel)
    assert sealing_key(root=ROOT, kernel=kernel) == bytes(range(16))
    for key, refused in (
        (b"", NotFound),
        (b"k" * 15, Unavailable),
        (b"k" * 17, TooLarge),
        (bytes(16), Unavailable),
    ):
        Gramine(kernel, key=key)
        with pytest.raises(refused):
            sealing_key(root=ROOT, kernel=kernel)
