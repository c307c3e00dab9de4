"""AMD's published certificates: the pinned roots and what they issued, by the word of another library."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from tests.support import captured

from mesatee._core import pem_certificates
from mesatee.attestation.tee import snp, snp_published

LINES = sorted(set(snp.ROOTS.values()))


def test_a_root_and_two_intermediates_of_every_line():
    wanted = {name for line in LINES for name in (f"ARK-{line}", f"SEV-{line}", f"SEV-VLEK-{line}")}
    assert set(snp_published.NAMES) == wanted


@pytest.mark.parametrize("line", LINES)
def test_the_roots_are_the_pinned_ones_and_signed_the_rest(line: str):
    root = snp_published.certificate(f"ARK-{line}")
    assert snp.ROOTS[hashlib.sha256(root).digest()] == line
    issuer = x509.load_der_x509_certificate(root)
    for name in (f"ARK-{line}", f"SEV-{line}", f"SEV-VLEK-{line}"):
        found = x509.load_der_x509_certificate(snp_published.certificate(name))
        found.verify_directly_issued_by(issuer)
        assert [item.value for item in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [name]


@captured.needed
@pytest.mark.parametrize("line", LINES)
def test_they_are_the_ones_that_machines_show(line: str):
    _, files = captured.case("snp", f"microsoft-{line.lower()}")
    for role, name in (("ark", f"ARK-{line}"), ("ask", f"SEV-{line}")):
        assert pem_certificates(files[role]) == [snp_published.certificate(name)]
