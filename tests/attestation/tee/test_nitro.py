from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from tests.support import captured, tokens
from tests.support.mutate import QUICK, mutated

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import check_folder
from mesatee.attestation.tee import nitro
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

ROOT_KEY, MIDDLE_KEY, LEAF_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(4))
ROOT = tokens.certificate("root", ROOT_KEY, "root", ROOT_KEY)
MIDDLE = tokens.certificate("zone", MIDDLE_KEY, "root", ROOT_KEY)
LEAF = tokens.certificate("enclave", LEAF_KEY, "zone", MIDDLE_KEY, ca=False, seconds=10_800)
OTHER = tokens.certificate("enclave", OTHER_KEY, "zone", MIDDLE_KEY, ca=False, seconds=10_800)
PIN = hashlib.sha256(ROOT).digest()
AT = tokens.START + 60


def payload(**changes: Any) -> bytes:
    found = {
        "module_id": "i-0-enc0",
        "digest": "SHA384",
        "timestamp": (tokens.START + 30) * 1000,
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(5)},
        "certificate": LEAF,
        "cabundle": [ROOT, MIDDLE],
        "public_key": None,
        "user_data": b"data",
        "nonce": None,
    }
    return cbor2.dumps(found | changes)


def build(key: Any = LEAF_KEY, algorithm: int = -35, says: int | None = None, **changes: Any) -> bytes:
    return tokens.sign1(key, payload(**changes), algorithm, says, tag=0)


def verify(document: bytes, at: int | None = AT) -> Any:
    return nitro.verify(nitro.parse(document), at, PIN)


def test_a_document_of_our_own():
    answers = verify(build())
    assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.AFFIRMED)
    assert answers.revocation is Answer.NOT_ESTABLISHED
    assert nitro.validate(nitro.parse(build())) == ()
    assert nitro.claims(nitro.parse(build()))["user_data"] == b"data".hex()


def test_captured_cases():
    tokens.agree("nitro")


def test_only_the_pinned_root_counts():
    answers = nitro.verify(nitro.parse(build()), AT)
    assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.REFUSED)
    files = {"document": build(), "root": tokens.pem_chain([ROOT])}
    assert nitro.check(files, AT, tokens.POLICY).tier is Status.CONTRAINDICATED


def test_a_document_with_the_certificate_of_another_enclave():
    answers = verify(build(certificate=OTHER))
    assert answers.signature is Answer.REFUSED


def test_a_captured_document_with_the_certificate_of_another():
    _, mine = captured.case("nitro", "veracruz-valid")
    meta, other = captured.case("nitro", "evervault-valid")
    protected, loose, signed, signature = cbor2.loads(mine["document"])
    theirs = cbor2.loads(cbor2.loads(other["document"])[2])
    changed = cbor2.loads(signed) | {name: theirs[name] for name in ("certificate", "cabundle", "timestamp")}
    document = cbor2.dumps([protected, loose, cbor2.dumps(changed), signature])
    verdict = check_folder({"tee": "nitro", "at": meta["at"]}, {"document": document})
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_a_signature_over_another_payload():
    protected, loose, _, signature = cbor2.loads(build())
    answers = verify(cbor2.dumps([protected, loose, payload(user_data=b"other"), signature]))
    assert answers.signature is Answer.REFUSED


def test_wrong_algorithm_header():
    for says in (-7, -36, -8, 5, -37):
        answers = verify(build(says=says))
        assert answers.signature is Answer.REFUSED


def test_another_algorithm_than_es384_even_if_it_verifies():
    assert verify(build(algorithm=-7)).signature is Answer.REFUSED


def test_es256_key_with_es384_algorithm():
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = tokens.certificate("enclave", key, "zone", MIDDLE_KEY, ca=False)
    assert verify(build(key, -7, -35, certificate=leaf)).signature is Answer.REFUSED


def test_a_chain_with_a_gap_or_a_foreign_link():
    assert verify(build(cabundle=[ROOT])).chain is not Answer.AFFIRMED
    stranger = tokens.certificate("zone", OTHER_KEY, "root", ROOT_KEY)
    assert verify(build(cabundle=[ROOT, stranger])).chain is Answer.REFUSED


@pytest.mark.parametrize(
    ("at", "chain"),
    [
        (tokens.START + 30, Answer.AFFIRMED),
        (tokens.START + 10_800, Answer.AFFIRMED),
        (tokens.START + 10_801, Answer.REFUSED),  # the leaf has expired
        (tokens.START - 1, Answer.REFUSED),
        (None, Answer.AFFIRMED),  # judged at its own time, and that is said
    ],
)
def test_times(at: int | None, chain: Answer):
    answers = verify(build(), at)
    assert answers.chain is chain
    assert ("no time was given: the document's age is not bounded" in answers.reasons) is (at is None)


def test_a_document_from_the_future_or_from_outside_of_its_certificates_life():
    late = (AT + limits.CLOCK_SKEW_SECONDS + 1) * 1000
    assert verify(build(timestamp=late)).chain is Answer.REFUSED
    assert verify(build(timestamp=(AT + limits.CLOCK_SKEW_SECONDS) * 1000)).chain is Answer.AFFIRMED
    assert verify(build(timestamp=(tokens.START - 1) * 1000)).chain is Answer.REFUSED


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_debug_is_any_measured_pcr_that_is_zero(zero: int):
    pcrs = {index: bytes([index != zero]) * 48 for index in range(5)}
    assert nitro.validate(nitro.parse(build(pcrs=pcrs)))


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "SHA256"},
        {"module_id": ""},
        {"timestamp": 0},
        {"timestamp": -1},
        {"pcrs": {}},
        {"pcrs": {0: bytes(48), 1: bytes(48)}},
        {"pcrs": {index: bytes(47) for index in range(5)}},
        {"pcrs": {index: bytes(48) for index in range(33)}},
        {"certificate": b""},
        {"cabundle": []},
        {"cabundle": [b""]},
        {"cabundle": "root"},
        {"user_data": "text"},
        {"nonce": bytes(limits.NITRO_FIELD_BYTES + 1)},
    ],
)
def test_fields_of_the_wrong_kind(change: dict[str, Any]):
    with pytest.raises(Malformed):
        nitro.parse(build(**change))
    nitro.parse(build(nonce=bytes(limits.NITRO_FIELD_BYTES)))


def test_bundle_and_payload_limits():
    nitro.parse(build(cabundle=[ROOT] * limits.NITRO_CHAIN))
    with pytest.raises(TooLarge):
        nitro.parse(build(cabundle=[ROOT] * (limits.NITRO_CHAIN + 1)))
    missing = limits.NITRO_PAYLOAD_BYTES - len(payload(extra=bytes(10_000)))
    nitro.parse(build(extra=bytes(10_000 + missing)))
    with pytest.raises(TooLarge):
        nitro.parse(build(extra=bytes(10_001 + missing)))


def test_documents_in_wrappings_and_under_other_names():
    meta, files = captured.case("nitro", "veracruz-valid")
    document = files["document"]
    for data in (
        document,
        base64.b64encode(document),
        base64.urlsafe_b64encode(document).rstrip(b"="),
        document.hex().encode(),
        json.dumps({"attestation": base64.b64encode(document).decode()}).encode(),
        b"\xd2" + document,
    ):
        for role in ("document", "evidence", "attestation_doc"):
            verdict = check_folder({"tee": "nitro", "at": meta["at"]}, {role: data})
            assert verdict.tier is Status.AFFIRMING, (role, data[:20], verdict.reasons)


@QUICK
@given(mutated(build()))
def test_hostile_bytes(data: bytes):
    try:
        document = nitro.parse(data)
    except InputError:
        return
    answers = nitro.verify(document, AT, PIN)
    if answers.proven:
        assert nitro.claims(document) == nitro.claims(nitro.parse(build()))
