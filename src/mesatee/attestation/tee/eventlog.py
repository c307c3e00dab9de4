"""The firmware's event log: what was measured into which register, replayed to the registers' values.

Spec: TCG PC Client Platform Firmware Profile (PFP) 1.06, section 10; its logs are of SHA-1 events (10.2.1,
"legacy") or crypto-agile (10.2.2). A confidential VM's log (CCEL) has the same format, with TDX's run-time
registers in place of PCRs (UEFI 2.10, section 38.4.1).

A log proves nothing but digests, and these only by a replay to values that somebody signed. An event's type is
in no digest, and its data only for some types. So a claim is taken from data alone, wherever the type says it
is, and only where the data hashes to the digest that was extended.

>>> import hashlib
>>> event = bytes(4) + (4).to_bytes(4, "little") + hashlib.sha1(bytes(4)).digest() + bytes([4, 0, 0, 0]) + bytes(4)
>>> replay(parse(event), "sha1")[0].hex()
'b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236'
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.verdict import Verdict
from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

HASHES: Final[Mapping[int, tuple[str, int]]] = MappingProxyType(
    {0x04: ("sha1", 20), 0x0B: ("sha256", 32), 0x0C: ("sha384", 48), 0x0D: ("sha512", 64)}
)
"""TPM_ALG_ID -> name of the hash, and its bytes (TCG Algorithm Registry)."""
PCRS: Final = 24
CCEL_REGISTERS: Final = 5
"""Index 0 of a TDX log is MRTD, which the module measures itself; 1 to 4 are RTMR 0 to 3."""
NO_ACTION: Final = 0x03
SEPARATOR: Final = 0x04
HCRTM: Final = 0x80000010
DRIVER_CONFIG: Final = 0x80000001
HASHED_TYPES: Final = frozenset({SEPARATOR, DRIVER_CONFIG})
"""Types whose digest is that of the data on every platform (PFP table 27). For others firmware varies."""
SEPARATORS: Final = (bytes(4), b"\xff" * 4, bytes([1, 0, 0, 0]))
"""What a separator's data may be: no error, and error in either byte order."""
_SPEC_ID: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_SP800_155: Final = (b"SP800-155 Event\0", b"SP800-155 Event2", b"SP800-155 Event3")
_EFI_GLOBAL: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_SECURE_BOOT_PCR: Final = 7


@dataclass(frozen=True, slots=True)
class Event:
    """One event. Nothing here is authentic but digests, after a replay."""

    number: int
    """Place in the log, from 0."""
    register: int
    kind: int
    digests: Mapping[str, bytes]
    """Bank -> what was extended."""
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether it changed a register (PFP section 10.4.1: EV_NO_ACTION does not)."""
        return self.kind != NO_ACTION

    def data_answer(self, bank: str) -> Answer:
        """Whether the data is what was measured: "not established" where the bank has no digest of it."""
        if bank not in self.digests or not self.extends:
            return Answer.NOT_ESTABLISHED
        same = hashlib.new(bank, self.data).digest() == self.digests[bank]
        return Answer.AFFIRMED if same else Answer.REFUSED


@dataclass(frozen=True, slots=True)
class EventLog:
    """A log as parsed."""

    agile: bool
    banks: tuple[str, ...]
    """Those that we can compute."""
    events: tuple[Event, ...]
    locality: int | None
    """Of the TPM's start-up, if the log names it: PCR 0 starts from this number."""
    trailing: int
    """Bytes of padding after the last event."""


@dataclass(slots=True)
class _Reader:
    data: bytes
    position: int = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise Malformed("the event log ends in the middle of an event")
        self.position += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def sized(self, size: int, limit: int) -> bytes:
        count = self.number(size)
        if count > limit:
            raise TooLarge(f"an event of the log has {count} bytes, the limit is {limit}")
        return self.take(count)


# -- parse -----------------------------------------------------------------------------------------


def parse(data: bytes) -> EventLog:
    """Read a log of either kind, up to its padding. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    if len(data) > limits.EVENT_LOG_BYTES:
        raise TooLarge(f"the event log has {len(data)} bytes, the limit is {limits.EVENT_LOG_BYTES}")
    # Tables that firmware reserved are longer than the log in them; the rest was never written.
    end = min(len(data.rstrip(b"\0")), len(data.rstrip(b"\xff")))
    if end == 0:
        raise Malformed("the event log is empty")
    reader = _Reader(data)
    first = _legacy(reader, 0)
    sizes: dict[int, int] = {}
    agile = first.kind == NO_ACTION and first.data.startswith(_SPEC_ID)
    events = [first]
    if agile:
        sizes = _spec_id(first.data)
        events = []
    while reader.position < end:
        if len(events) >= limits.EVENTS:
            raise TooLarge(f"the event log has more than {limits.EVENTS} events")
        events.append(_agile(reader, len(events), sizes) if agile else _legacy(reader, len(events)))
    banks = tuple(HASHES[kind][0] for kind in sizes if kind in HASHES) if agile else ("sha1",)
    return EventLog(agile, banks, tuple(events), _locality(events), len(data) - reader.position)


def _legacy(reader: _Reader, number: int) -> Event:
    """TCG_PCClientPCREvent (PFP section 10.2.1)."""
    register, kind = reader.number(4), reader.number(4)
    digest = reader.take(20)
    event = Event(number, register, kind, {"sha1": digest}, reader.sized(4, limits.EVENT_BYTES))
    return _registered(event)


def _agile(reader: _Reader, number: int, sizes: Mapping[int, int]) -> Event:
    """TCG_PCR_EVENT2 (PFP section 10.2.2)."""
    register, kind, count = reader.number(4), reader.number(4), reader.number(4)
    if count > len(sizes):
        raise Malformed(f"event {number} of the log has {count} digests, and its header names {len(sizes)}")
    digests: dict[str, bytes] = {}
    seen: set[int] = set()
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm not in sizes or algorithm in seen:
            raise Malformed(f"event {number} of the log has a digest that its header does not name, or two")
        seen.add(algorithm)
        digest = reader.take(sizes[algorithm])
        if algorithm in HASHES:
            digests[HASHES[algorithm][0]] = digest
    return _registered(Event(number, register, kind, digests, reader.sized(4, limits.EVENT_BYTES)))


def _registered(event: Event) -> Event:
    # Events that extend nothing may stand under any number, e.g. 0xffffffff.
    if event.extends and event.register >= PCRS:
        raise Malformed(f"event {event.number} of the log is of a register above {PCRS - 1}")
    return event


def _spec_id(data: bytes) -> dict[int, int]:
    """TCG_EfiSpecIDEvent: the digest sizes of a crypto-agile log (PFP section 10.4.5.1)."""
    reader = _Reader(data, len(_SPEC_ID))
    reader.take(4)  # platform class
    minor, major = reader.number(1), reader.number(1)
    if major != 2:
        raise UnsupportedVersion(f"the event log is of version {major}.{minor}; 2 is known")
    reader.take(2)  # errata, size of UINTN
    count = reader.number(4)
    if not 1 <= count <= limits.EVENT_BANKS:
        raise TooLarge(f"the event log has {count} banks, from 1 to {limits.EVENT_BANKS} are read")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = reader.number(2), reader.number(2)
        if algorithm in sizes or size > 64 or (algorithm in HASHES and HASHES[algorithm][1] != size):
            raise Malformed(f"the event log gives algorithm {algorithm:#06x} {size} bytes, or names it twice")
        sizes[algorithm] = size
    return sizes


def _locality(events: list[Event]) -> int | None:
    """From EV_NO_ACTION's start-up locality, or from a measured CRTM (PFP sections 10.4.5.3 and 3.3.2)."""
    told = {
        event.data[16]
        for event in events
        if not event.extends and len(event.data) == 17 and event.data.startswith(_LOCALITY)
    }
    if len(told) > 1:
        raise Malformed("the event log names two start-up localities")
    if told:
        return told.pop()
    return 4 if any(event.kind == HCRTM and event.register == 0 for event in events) else None


# -- replay ----------------------------------------------------------------------------------------


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """Values of the registers that the log touches, as of its end, PCR 17 to 22 left out (they are of the DRTM).

    Raises `Malformed` if an event that extends has no digest of this bank.
    """
    size = dict(HASHES.values()).get(bank)
    if size is None or bank not in log.banks:
        raise Malformed(f"the event log has no bank {bank[: limits.NAME_CHARS]}")
    values: dict[int, bytes] = {}
    for event in log.events:
        if not event.extends or 17 <= event.register <= 22:
            continue
        if bank not in event.digests:
            raise Malformed(f"event {event.number} of the log has no digest of {bank}")
        start = bytes(size)
        if event.register == 0 and log.locality is not None:
            start = log.locality.to_bytes(size)
        value = values.get(event.register, start)
        values[event.register] = hashlib.new(bank, value + event.digests[bank]).digest()
    return values


def replay_ccel(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The four run-time registers of a TD, 48 bytes each, from its CCEL log.

    A register that no event extends is zero. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    log = parse(data)
    if "sha384" not in log.banks:
        raise Malformed("the event log of a TD has no SHA-384 bank")
    values = [bytes(48)] * CCEL_REGISTERS
    for event in log.events:
        if not event.extends:
            continue
        if event.register >= CCEL_REGISTERS or "sha384" not in event.digests:
            raise Malformed(f"event {event.number} of the TD's log extends no register that a TD has")
        extended = values[event.register] + event.digests["sha384"]
        values[event.register] = hashlib.sha384(extended).digest()
    return values[1], values[2], values[3], values[4]


def sp800_155(log: EventLog) -> tuple[bytes, ...]:
    """Data of the events that name the platform's reference manifests (PFP section 10.4.5.2). Not measured."""
    return tuple(event.data for event in log.events if not event.extends and event.data[:16] in _SP800_155)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a comparison with the registers' values found."""

    answer: Answer
    """AFFIRMED: all registers that the log touches and that have a value have this value, in each bank that both
    have. NOT_ESTABLISHED: there was nothing to compare."""
    reasons: tuple[str, ...] = ()
    banks: tuple[str, ...] = ()
    """Those that replayed."""
    registers: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Bank -> registers that replayed."""


def compare(log: EventLog, pcrs: Mapping[str, Mapping[int, bytes]]) -> Replay:
    """Replay the log to `pcrs` (bank -> index -> value)."""
    matched: dict[str, frozenset[int]] = {}
    wrong: list[str] = []
    notes: list[str] = []
    for bank, values in sorted(pcrs.items()):
        if bank not in log.banks:
            notes.append(f"the event log has no bank {bank}")
            continue
        try:
            replayed = replay(log, bank)
        except Malformed as error:
            wrong.append(error.message)
            continue
        both = replayed.keys() & values.keys()
        if bad := sorted(index for index in both if replayed[index] != values[index]):
            wrong.append(f"the event log leads to other values of {bank} PCR {', '.join(map(str, bad))}")
        elif both:
            matched[bank] = frozenset(both)
    if wrong:
        return Replay(Answer.REFUSED, (*wrong, *notes))
    if not matched:
        return Replay(Answer.NOT_ESTABLISHED, (*notes, "there is no register to replay the event log to"))
    return Replay(Answer.AFFIRMED, tuple(notes), tuple(matched), MappingProxyType(matched))


# -- claims ----------------------------------------------------------------------------------------


def altered(log: EventLog, bank: str) -> tuple[str, ...]:
    """Events whose data must hash to their digest, and does not: somebody altered the log's text."""
    return tuple(
        f"the data of event {event.number} of the log is not what was measured"
        for event in log.events
        if event.kind in HASHED_TYPES and event.data_answer(bank) is Answer.REFUSED
    )


def secure_boot(log: EventLog, bank: str) -> bool | None:
    """Whether UEFI Secure Boot was on, from data that hashes to the digests of PCR 7; None if it cannot be told.

    Only events before the separator count (PFP section 3.3.4.8): what runs later can extend PCR 7 with a forged
    variable, but cannot take back the separator. All of them must hold, so that none can hide behind altered
    data, and exactly one must be the variable. Types are not looked at: nothing vouches for them.
    """
    found: list[bool] = []
    for event in _until_separator(log, bank, _SECURE_BOOT_PCR):
        if event.data_answer(bank) is not Answer.AFFIRMED:
            return None
        value = _variable(event.data, "SecureBoot")
        if value is not None:
            found.append(value == b"\1")
    return found[0] if len(found) == 1 else None


def _until_separator(log: EventLog, bank: str, register: int) -> Iterator[Event]:
    separators = {hashlib.new(bank, data).digest() for data in SEPARATORS}
    for event in log.events:
        if event.extends and event.register == register:
            if event.digests.get(bank) in separators:
                return
            yield event


def _variable(data: bytes, name: str) -> bytes | None:
    """The value in a UEFI_VARIABLE_DATA of this name in the global namespace (PFP section 10.2.6)."""
    wide = name.encode("utf-16-le")
    head = _EFI_GLOBAL + len(name).to_bytes(8, "little")
    if not data.startswith(head) or data[32 : 32 + len(wide)] != wide:
        return None
    value = data[32 + len(wide) :]
    return value if len(value) == int.from_bytes(data[24:32], "little") else None


def log_claims(log: EventLog, found: Replay) -> dict[str, Scalar]:
    """Claims that a replayed log supports, each only if the register under it replayed."""
    for bank in ("sha512", "sha384", "sha256", "sha1"):
        if found.answer is Answer.AFFIRMED and _SECURE_BOOT_PCR in found.registers.get(bank, frozenset()):
            state = secure_boot(log, bank)
            return {} if state is None else {"secure_boot": state}
    return {}


# -- cases -----------------------------------------------------------------------------------------


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise a log alone: nothing signed it, so "none" is the best tier.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    # Imported here: that module reads logs too.
    from mesatee.attestation.tee import _tpm_files

    pieces = _tpm_files.gather(files)
    if not pieces.eventlogs:
        raise Malformed("the case has no event log")
    # 1. Parse (PFP section 10.2).
    logs = [parse(data) for data in pieces.eventlogs]
    pcrs = _tpm_files.one_set(pieces.pcrs)
    # 2. Replay (PFP section 10.1).
    results = [compare(log, pcrs) for log in logs]
    reasons: list[str] = []
    claims: dict[str, Scalar] = {}
    answer = Answer.NOT_ESTABLISHED
    for log, found in zip(logs, results, strict=True):
        reasons += found.reasons
        claims.update(log_claims(log, found))
        if Answer.REFUSED in (answer, found.answer):
            answer = Answer.REFUSED
        elif found.answer is Answer.AFFIRMED:
            answer = Answer.AFFIRMED
    # 3. Data that must hash to its digest (PFP table 27).
    objections = tuple(line for log in logs for bank in log.banks[:1] for line in altered(log, bank))
    bad = answer is Answer.REFUSED or bool(objections)
    unknown = Answer.NOT_ESTABLISHED
    return Verdict(
        tier=Status.CONTRAINDICATED if bad else Status.NONE,
        signature=unknown,
        chain=unknown,
        revocation=unknown,
        tcb=unknown,
        tcb_status=None,
        replay=answer,
        binding=unknown,
        level=1,
        measurement="",
        simulated=False,
        reasons=(*objections, *reasons, "nobody signed the log or the values of the registers"),
        claims={} if bad else claims,
    )


__all__ = [
    "HASHES",
    "Event",
    "EventLog",
    "Replay",
    "altered",
    "check",
    "compare",
    "log_claims",
    "parse",
    "replay",
    "replay_ccel",
    "secure_boot",
    "sp800_155",
]
