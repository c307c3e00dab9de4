"""Event logs made here byte by byte, logs captured from real machines, and what happens to altered ones."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import eventlog
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

POLICY = corpus.CorpusPolicy()
ALGORITHMS = {"sha1": 4, "sha256": 11, "sha384": 12}
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")


def legacy(register: int, kind: int, data: bytes, digest: bytes | None = None) -> bytes:
    digest = hashlib.sha1(data).digest() if digest is None else digest
    return struct.pack("<II", register, kind) + digest + struct.pack("<I", len(data)) + data


def head(banks: tuple[str, ...] = ("sha1", "sha256"), major: int = 2) -> bytes:
    sizes = b"".join(struct.pack("<HH", ALGORITHMS[b], hashlib.new(b).digest_size) for b in banks)
    spec = (
        b"Spec ID Event03\0"
        + bytes(4)
        + bytes([0, major, 0, 2])
        + struct.pack("<I", len(banks))
        + sizes
        + b"\0"
    )
    return legacy(0, 3, spec, bytes(20))


def agile(
    register: int,
    kind: int,
    data: bytes,
    banks: tuple[str, ...] = ("sha1", "sha256"),
    measured: bytes | None = None,
) -> bytes:
    digests = b"".join(
        struct.pack("<H", ALGORITHMS[b]) + hashlib.new(b, data if measured is None else measured).digest()
        for b in banks
    )
    return struct.pack("<III", register, kind, len(banks)) + digests + struct.pack("<I", len(data)) + data


def variable(name: str, value: bytes, guid: bytes = GLOBAL) -> bytes:
    wide = name.encode("utf-16-le")
    return guid + struct.pack("<QQ", len(name), len(value)) + wide + value


def extend(bank: str, *measured: bytes, start: bytes | None = None) -> bytes:
    value = start if start is not None else bytes(hashlib.new(bank).digest_size)
    for data in measured:
        value = hashlib.new(bank, value + hashlib.new(bank, data).digest()).digest()
    return value


SEPARATOR = bytes(4)
BOOT = head() + b"".join(
    [
        agile(0, 8, b"firmware"),
        agile(7, 0x80000001, variable("SecureBoot", b"\1")),
        agile(7, 0x80000001, variable("PK", b"key")),
        agile(7, 4, SEPARATOR),
        agile(7, 0x800000E0, b"authority"),
    ]
)


# -- replay ----------------------------------------------------------------------------------------


def test_replay_of_both_kinds():
    old = eventlog.parse(legacy(0, 8, b"a") + legacy(3, 4, SEPARATOR))
    assert (old.agile, old.banks) == (False, ("sha1",))
    assert eventlog.replay(old, "sha1") == {0: extend("sha1", b"a"), 3: extend("sha1", SEPARATOR)}
    new = eventlog.parse(BOOT)
    assert (new.agile, new.banks) == (True, ("sha1", "sha256"))
    for bank in new.banks:
        assert eventlog.replay(new, bank)[0] == extend(bank, b"firmware")
    with pytest.raises(Malformed):
        eventlog.replay(new, "sha384")


def test_an_event_that_is_no_action_extends_nothing():
    log = eventlog.parse(head() + agile(0, 3, b"SP800-155 Event\0" + bytes(20)) + agile(0xFFFFFFFF, 3, b"x"))
    assert eventlog.replay(log, "sha256") == {}
    assert eventlog.sp800_155(log) == (b"SP800-155 Event\0" + bytes(20),)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_pcr_0_starts_from_the_locality(locality: int):
    log = eventlog.parse(head() + agile(0, 3, b"StartupLocality\0" + bytes([locality])) + agile(0, 8, b"a"))
    start = locality.to_bytes(32)
    assert eventlog.replay(log, "sha256")[0] == extend("sha256", b"a", start=start)


def test_two_localities_are_refused():
    first, second = (agile(0, 3, b"StartupLocality\0" + bytes([n])) for n in (0, 3))
    eventlog.parse(head() + first + first)
    with pytest.raises(Malformed):
        eventlog.parse(head() + first + second)


def test_a_measured_crtm_starts_pcr_0_at_4():
    log = eventlog.parse(head() + agile(0, 0x80000010, b"HCRTM"))
    assert eventlog.replay(log, "sha256")[0] == extend("sha256", b"HCRTM", start=(4).to_bytes(32))


def test_a_log_that_replays_but_to_other_pcrs_is_refused():
    log = eventlog.parse(BOOT)
    right = {"sha256": eventlog.replay(log, "sha256")}
    assert eventlog.compare(log, right).answer is Answer.AFFIRMED
    other = {"sha256": right["sha256"] | {0: bytes(32)}}
    assert eventlog.compare(log, other).answer is Answer.REFUSED
    values = {"sha256": {str(index): value.hex() for index, value in other["sha256"].items()}}
    verdict = eventlog.check({"eventlog": BOOT, "pcrs": json.dumps(values).encode()}, None, POLICY)
    assert (verdict.tier, verdict.replay) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_nothing_to_compare_is_not_established():
    log = eventlog.parse(BOOT)
    empty: list[dict[str, dict[int, bytes]]] = [{}, {"sha384": {0: bytes(48)}}, {"sha256": {9: bytes(32)}}]
    for pcrs in empty:
        assert eventlog.compare(log, pcrs).answer is Answer.NOT_ESTABLISHED


def test_an_event_without_a_bank_cannot_be_left_out():
    log = eventlog.parse(BOOT + agile(0, 8, b"hidden", ("sha1",)))
    with pytest.raises(Malformed):
        eventlog.replay(log, "sha256")
    short = {"sha256": {0: extend("sha256", b"firmware")}}
    assert eventlog.compare(log, short).answer is Answer.REFUSED


def test_wrappings_of_a_log():
    old = legacy(0, 8, b"version") + b"".join(legacy(n, 4, SEPARATOR) for n in range(4))
    for log, bank in ((BOOT, "sha256"), (old, "sha1")):
        values = eventlog.replay(eventlog.parse(log), bank)
        pcrs = json.dumps({bank: {str(index): value.hex() for index, value in values.items()}}).encode()
        for role in ("eventlog", "something"):
            for form in (log, log.hex().encode(), base64.b64encode(log)):
                found = eventlog.check({role: form, "pcrs": pcrs}, None, POLICY)
                assert (found.tier, found.replay) == (Status.NONE, Answer.AFFIRMED), role
        nested = json.dumps({"Log": {"Raw": base64.b64encode(log).decode()}}).encode()
        assert eventlog.check({"dump": nested, "pcrs": pcrs}, None, POLICY).replay is Answer.AFFIRMED


def test_the_limit_of_a_text():
    dense = json.dumps({"Log": {"Raw": base64.b64encode(BOOT).decode()}}).encode()
    assert eventlog.check({"x": dense.ljust(limits.TPM_TEXT_BYTES)}, None, POLICY).tier is Status.NONE
    with pytest.raises(Malformed):
        eventlog.check({"x": dense.ljust(limits.TPM_TEXT_BYTES + 1)}, None, POLICY)


# -- claims ----------------------------------------------------------------------------------------


def test_secure_boot_is_read_from_what_was_measured():
    assert eventlog.secure_boot(eventlog.parse(BOOT), "sha256") is True
    off = BOOT.replace(variable("SecureBoot", b"\1"), variable("SecureBoot", b"\0"))
    # The data was altered, and the digest was not: no claim, and an objection.
    assert eventlog.secure_boot(eventlog.parse(off), "sha256") is None
    assert eventlog.altered(eventlog.parse(off), "sha256")


def test_secure_boot_does_not_depend_on_the_type():
    for kind in (1, 0x800000E0):
        log = head() + agile(7, kind, variable("SecureBoot", b"\0")) + agile(7, 4, SEPARATOR)
        assert eventlog.secure_boot(eventlog.parse(log), "sha256") is False


def test_secure_boot_extended_after_the_separator_does_not_count():
    forged = agile(7, 0x80000001, variable("SecureBoot", b"\1"))
    log = head() + agile(7, 4, SEPARATOR) + forged
    assert eventlog.secure_boot(eventlog.parse(log), "sha256") is None
    honest = agile(7, 0x80000001, variable("SecureBoot", b"\0"))
    log = head() + honest + agile(7, 4, SEPARATOR) + forged
    assert eventlog.secure_boot(eventlog.parse(log), "sha256") is False


def test_secure_boot_twice_or_beside_hidden_data_is_no_claim():
    on, off = (agile(7, 0x80000001, variable("SecureBoot", value)) for value in (b"\1", b"\0"))
    assert eventlog.secure_boot(eventlog.parse(head() + on + off), "sha256") is None
    hidden = agile(7, 1, b"nothing", measured=variable("SecureBoot", b"\0"))
    assert eventlog.secure_boot(eventlog.parse(head() + hidden + on), "sha256") is None


def test_another_owners_variable_is_not_secure_boot():
    log = head() + agile(7, 0x80000001, variable("SecureBoot", b"\1", guid=bytes(16)))
    assert eventlog.secure_boot(eventlog.parse(log), "sha256") is None


# -- parse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [b"", bytes(100), b"\xff" * 33])
def test_padding_ends_the_log(padding: bytes):
    log = eventlog.parse(BOOT + padding)
    assert len(log.events) == 5
    assert log.trailing == len(padding)


@pytest.mark.parametrize("junk", [b"junk", bytes(8) + b"x", b"\xff" * 40 + b"\0"])
def test_other_bytes_after_the_log_are_refused(junk: bytes):
    with pytest.raises(InputError):
        eventlog.parse(BOOT + junk)


@pytest.mark.parametrize("data", [b"", bytes(64), b"\xff" * 64, BOOT[:-1], BOOT[:40], legacy(24, 8, b"a")])
def test_not_a_log(data: bytes):
    with pytest.raises(Malformed):
        eventlog.parse(data)


def test_another_version_is_refused():
    with pytest.raises(UnsupportedVersion):
        eventlog.parse(head(major=3) + agile(0, 8, b"a"))


def test_a_digest_twice_or_unknown_is_refused():
    for banks in (("sha1", "sha1"), ("sha384",), ("sha1", "sha256", "sha384")):
        with pytest.raises(Malformed):
            eventlog.parse(head() + agile(0, 8, b"a", banks))


def test_a_bank_of_the_wrong_size_is_refused():
    wrong = head().replace(struct.pack("<HH", 11, 32), struct.pack("<HH", 11, 20))
    with pytest.raises(Malformed):
        eventlog.parse(wrong + agile(0, 8, b"a"))


def test_limits_of_a_log():
    event = legacy(0, 8, b"a")
    assert len(eventlog.parse(event * limits.EVENTS).events) == limits.EVENTS
    with pytest.raises(TooLarge):
        eventlog.parse(event * (limits.EVENTS + 1))
    eventlog.parse(legacy(0, 8, b"a" * limits.EVENT_BYTES))
    with pytest.raises(TooLarge):
        eventlog.parse(legacy(0, 8, b"a" * (limits.EVENT_BYTES + 1)))
    eventlog.parse(event + bytes(limits.EVENT_LOG_BYTES - len(event)))
    with pytest.raises(TooLarge):
        eventlog.parse(event + bytes(limits.EVENT_LOG_BYTES + 1 - len(event)))
    count = struct.pack("<I", 2) + struct.pack("<HH", 4, 20)
    with pytest.raises(TooLarge):
        eventlog.parse(head().replace(count, struct.pack("<I", limits.EVENT_BANKS + 1) + count[4:]))


def test_ccel():
    banks = ("sha384",)
    log = head(banks) + b"".join(agile(index, 1, bytes([index]), banks) for index in range(4))
    expected = (*(extend("sha384", bytes([index])) for index in (1, 2, 3)), bytes(48))
    assert eventlog.replay_ccel(log + b"\xff" * 500) == expected
    for bad in (log + agile(5, 1, b"x", banks), BOOT):
        with pytest.raises(Malformed):
            eventlog.replay_ccel(bad)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(BOOT)), st.binary(max_size=12))
def test_hostile_logs_raise_our_errors_only(position: int, patch: bytes):
    data = BOOT[:position] + patch + BOOT[position + len(patch) :]
    for log in (data, data[:position], patch):
        with contextlib.suppress(InputError):
            parsed = eventlog.parse(log)
            eventlog.compare(parsed, {"sha256": {0: bytes(32)}})
            eventlog.secure_boot(parsed, "sha256")
        with contextlib.suppress(InputError):
            eventlog.replay_ccel(log)


# -- captured logs ---------------------------------------------------------------------------------


def case(folder: Path) -> tuple[corpus.Question, corpus.Expectation | None, dict[str, bytes]]:
    meta = (folder / "meta.json").read_bytes()
    question = corpus.question(meta)
    files = {role: (folder / name).read_bytes() for role, name in question.names.items()}
    return question, corpus.expectation(meta), files


def judged(question: corpus.Question, files: Mapping[str, bytes]) -> Verdict:
    try:
        return eventlog.check(files, question.at, POLICY)
    except InputError as error:
        return corpus.plain_verdict(Status.CONTRAINDICATED, error.message)


@captured.needed
def test_captured_logs_agree_with_their_cases():
    seen = 0
    for folder in captured.folders("eventlog"):
        question, expected, files = case(folder)
        verdict = judged(question, files)
        assert expected is not None
        assert verdict.tier is expected.tier, question.id
        wanted = Answer.AFFIRMED if "pcrs" in files else Answer.NOT_ESTABLISHED
        assert verdict.replay is wanted, question.id
        seen += 1
    assert seen


@captured.needed
def test_the_log_of_a_captured_td_leads_to_its_registers():
    folder = captured.FOLDER / "tdx" / "google-v4-cos113-ccel"
    claims = json.loads((folder / "meta.json").read_text())["claims"]
    found = eventlog.replay_ccel((folder / "ccel_data.dat").read_bytes())
    assert [value.hex() for value in found] == [claims[f"rtmr{index}"] for index in range(4)]


@captured.needed
def test_flipped_bits_of_captured_logs():
    """A flip is refused, or touches nothing that the verdict says."""
    rng = random.Random(1)
    for folder in captured.folders("eventlog"):
        question, _, files = case(folder)
        good = judged(question, files)
        for _ in range(40):
            data = bytearray(files["eventlog"])
            bit = rng.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            verdict = judged(question, files | {"eventlog": bytes(data)})
            assert verdict.tier in (Status.NONE, Status.CONTRAINDICATED)
            if verdict.replay is Answer.AFFIRMED and verdict.tier is Status.NONE:
                assert verdict.claims == good.claims, (question.id, bit)
