"""Log records: what an entry commits to, and the proof that parties check by themselves."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK, mutated, noise

from mesatee._core import SigningKey
from mesatee.errors import LogCorrupt, Malformed, MesateeError, TooLarge
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, merkle, records, statements
from mesatee.protocol.digests import sha256
from mesatee.protocol.jsonstrict import canonical, parse

A, B = "0a" * 32, "0b" * 32
KEY = SigningKey.generate()
FACTS = statements.WorkerFacts(
    key=A, measurement="none", level=1, tee="none", simulated=False, evidence=A, certificate=B
)
EACH = [
    records.EpochOutcome(number=1, nonce=A, measurement="none", level=1, channel_key=B),
    records.DeniedOutcome(by=A, action="submit", subject="", code="denied"),
    records.GrantOutcome(
        run=A, attempt=1, lease=30, worker=FACTS, approvals={A: B}, policies={"a": B}, inputs={"x": A}
    ),
    records.FiredOutcome(trigger=A, number=1, run=B, code=None),
    records.ReceiptOutcome(run=A, fence=3, failure=None, wraps={}, envelope={}),
    records.ClosedOutcome(run=A, failure="worker_lost"),
    records.ReleaseOutcome(run=A, to=B, outputs=("result",)),
]


@pytest.mark.parametrize("outcome", EACH, ids=lambda outcome: outcome.kind)
def test_outcomes_come_back(outcome: records.Outcome) -> None:
    made = records.of_outcome(outcome, 5, "host")
    found = records.parse(made.to_bytes())
    assert found == made
    assert found.outcome() == outcome
    with pytest.raises(Malformed):
        found.statement()


def test_statements_come_back() -> None:
    envelope = dsse.sign(b"{}", [KEY])
    found = records.parse(records.of_statement(envelope, 5, "parties").to_bytes())
    assert found.statement() == envelope
    with pytest.raises(Malformed):
        found.outcome()


def changed(**changes: Any) -> bytes:
    return canonical({**parse(records.of_outcome(EACH[1], 5, "host").to_bytes()), **changes})


@pytest.mark.parametrize(
    "data",
    [
        changed(v=2),
        changed(time=-1),
        changed(time=1.0),
        changed(source="me"),
        changed(kind="x" * 33),
        changed(body=[]),
        changed(more=1),
        b"[]",
        b"{}",
        b"",
    ],
    ids=lambda _: "case",
)
def test_other_records_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        records.parse(data)


@pytest.mark.parametrize("body", [{}, {"by": A}, {"more": 1}], ids=lambda _: "case")
def test_an_outcome_has_exactly_its_fields(body: dict[str, Any]) -> None:
    for outcome in EACH:
        with pytest.raises(Malformed):
            records.parse(changed(kind=outcome.kind, body=body)).outcome()
    with pytest.raises(Malformed):
        records.parse(changed(kind="unheard_of")).outcome()


def test_a_record_of_the_largest_size_and_one_byte_more() -> None:
    def padded(size: int) -> bytes:
        compact = changed()
        return compact[:-1] + b" " * (size - len(compact)) + b"}"

    assert records.parse(padded(limits.LOG_BODY_BYTES))
    with pytest.raises(TooLarge):
        records.parse(padded(limits.LOG_BODY_BYTES + 1))


@QUICK
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=99), st.binary(max_size=99))
def test_an_entry_commits_to_record_and_body(salt: bytes, record: bytes, body: bytes) -> None:
    entry = records.entry(salt, record, body)
    assert len(entry) == limits.LOG_ENTRY_BYTES
    assert entry == hashlib.sha256(salt + record).digest() + hashlib.sha256(body).digest()
    assert records.unpack(records.pack(salt, record)) == (salt, record)
    assert records.entry(salt, record + b"x", body) != entry
    assert records.entry(salt, record, body + b"x") != entry
    assert records.entry(bytes(16), record, body) != entry or salt == bytes(16)


@pytest.mark.parametrize("size", [0, 1, records.SALT_BYTES - 1, records.SALT_BYTES])
def test_a_body_is_longer_than_its_salt(size: int) -> None:
    with pytest.raises(LogCorrupt):
        records.unpack(bytes(size))
    assert records.unpack(bytes(records.SALT_BYTES + 1)) == (bytes(16), b"\0")


def proof(**changes: Any) -> records.RecordProof:
    record = records.of_outcome(EACH[0], 5, "host").to_bytes().decode()
    fields = {
        "index": 0,
        "salt": "01" * 16,
        "record": record,
        "body_digest": sha256(b"body"),
        "size": 1,
        "path": (),
    }
    return records.RecordProof(**{**fields, **changes})


def test_a_proof_gives_the_entry_that_the_tree_holds() -> None:
    found = proof()
    entry = records.entry(bytes.fromhex(found.salt), found.record.encode(), b"body")
    assert found.entry() == entry
    root = merkle.leaf_hash(entry)
    merkle.verify_inclusion(merkle.leaf_hash(found.entry()), 0, 1, (), root)
    assert found.read().outcome() == EACH[0]
    for name, value in (
        ("salt", "02" * 16),
        ("body_digest", A),
        ("record", found.record.replace('"level":1', '"level":5')),
    ):
        with pytest.raises(LogCorrupt):
            merkle.verify_inclusion(merkle.leaf_hash(proof(**{name: value}).entry()), 0, 1, (), root)


def test_a_proof_of_no_record_is_corrupt() -> None:
    for text in ("", "{}", "[]", "x", '{"v":1,"v":1}'):
        with pytest.raises(LogCorrupt):
            proof(record=text).read()


def test_a_path_as_long_as_allowed_and_one_more() -> None:
    proof(path=(A,) * limits.PROOF_HASHES)
    for name, value in (
        ("path", (A,) * (limits.PROOF_HASHES + 1)),
        ("path", (A[:-2],)),
        ("salt", "01" * 15),
        ("index", -1),
        ("size", 0),
        ("record", "x" * (limits.LOG_BODY_BYTES + 1)),
    ):
        with pytest.raises(ValueError):
            proof(**{name: value})


@pytest.mark.parametrize("outcome", EACH, ids=lambda outcome: outcome.kind)
def test_hostile_records_raise_only_our_errors(outcome: records.Outcome) -> None:
    @QUICK
    @given(st.one_of(mutated(records.of_outcome(outcome, 5, "host").to_bytes()), noise()))
    def check(data: bytes) -> None:
        try:
            found = records.parse(data)
            found.statement() if found.kind == "statement" else found.outcome()
        except MesateeError:
            return

    check()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(), st.lists, max_leaves=8
    )
)
def test_a_record_is_read_as_the_strict_parser_reads_it(value: Any) -> None:
    """The model reads the same bytes a second time, by another parser."""
    data = changed(body={"by": value, "\u00e9\U0001f600": [value]})
    assert records.parse(data).body == parse(data)["body"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"v":1,"time":1,"time":2,"source":"host","kind":"denied","body":{}}',
        b'{"v":1,"time":1,"source":"host","kind":"denied","body":{"a":NaN}}',
        b'{"v":1,"time":1,"source":"host","kind":"denied","body":{"a":"\\ud800"}}',
        b'{"v":1,"time":1,"source":"host","kind":"denied","body":{"a":1,"a":2}}',
    ],
)
def test_a_text_with_a_second_reading_is_no_record(data: bytes) -> None:
    with pytest.raises(Malformed):
        records.parse(data)
