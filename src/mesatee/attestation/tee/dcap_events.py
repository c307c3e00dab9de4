"""Event logs in JSON beside a TD's quote, as dstack writes them, replayed against the run-time registers.

An entry is ``{"imr": 0..3, "event_type": u32, "digest": hex, "event": text, "event_payload": hex}``. A register
is extended as RTMR = SHA-384(RTMR || digest) from zero. For run-time events the digest is recomputed:
SHA-384(event_type, little-endian || ":" || event || ":" || payload); for those of the firmware it is all there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mesatee.attestation import foreign
from mesatee.attestation.appraisal import Answer
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import parse_foreign

RUNTIME_EVENT: Final = 0x0800_0001
_CCEL_NAMES: Final = ("cc_eventlog", "ccel", "cc_event_log", "ccel_data")
_LOG_NAMES: Final = ("event_log", "eventlog")
_DIGEST_BYTES: Final = 48


def replay_json(text: bytes, rtmrs: Sequence[bytes]) -> tuple[Answer, list[str]]:
    """Replay the event log that the JSON `text` is, or that it has as a member.

    NOT_ESTABLISHED if it has none that is known.
    Only registers that the log extends are compared; AFFIRMED says that all of those are right.
    """
    try:
        log = parse_foreign(text, limit=limits.CASE_FILE_BYTES)
        if isinstance(log, dict):
            log = next((log[name] for name in _LOG_NAMES if name in log), None)
        if isinstance(log, str):
            log = parse_foreign(log.encode("utf-8", "replace"), limit=limits.CASE_FILE_BYTES)
    except InputError:
        return Answer.NOT_ESTABLISHED, []
    if not isinstance(log, list) or not log or not all(isinstance(e, dict) and "imr" in e for e in log):
        return Answer.NOT_ESTABLISHED, []
    try:
        return compare(_extend(log, len(rtmrs)), rtmrs)
    except InputError as error:
        return Answer.REFUSED, [f"the event log: {error.message}"]


def _extend(log: list[dict[str, Any]], count: int) -> dict[int, bytes]:
    if len(log) > limits.RUNTIME_EVENTS:
        raise TooLarge(f"more than {limits.RUNTIME_EVENTS} events")
    registers: dict[int, bytes] = {}
    for entry in log:
        index, kind = entry["imr"], entry.get("event_type")
        if type(index) is not int or not 0 <= index < count:
            raise Malformed("an event is of a register that there is not")
        digest = _hex(entry.get("digest"))
        if kind == RUNTIME_EVENT and not digest:
            # Newer tools leave out what can be computed.
            digest = _runtime_digest(entry)
        if len(digest) != _DIGEST_BYTES:
            raise Malformed("an event has no SHA-384 digest")
        if kind == RUNTIME_EVENT and digest != _runtime_digest(entry):
            raise Malformed("the digest of a run-time event is not that of its contents")
        registers[index] = hashlib.sha384(registers.get(index, bytes(_DIGEST_BYTES)) + digest).digest()
    return registers


def _runtime_digest(entry: dict[str, Any]) -> bytes:
    event = entry.get("event")
    if not isinstance(event, str):
        raise Malformed("a run-time event has no name")
    head = RUNTIME_EVENT.to_bytes(4, "little") + b":" + event.encode("utf-8", "replace") + b":"
    return hashlib.sha384(head + _hex(entry.get("event_payload", ""))).digest()


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raise Malformed("an event has a value that is not hex") from None


def compare(registers: Mapping[int, bytes], rtmrs: Sequence[bytes]) -> tuple[Answer, list[str]]:
    """Whether the `registers` that a log leads to are those of the TD, and which it says nothing of."""
    if not registers:
        return Answer.NOT_ESTABLISHED, ["the event log extends no register"]
    wrong = [index for index, value in sorted(registers.items()) if value != rtmrs[index]]
    if wrong:
        return Answer.REFUSED, [f"the event log does not lead to RTMR{index}" for index in wrong]
    silent = [index for index in range(len(rtmrs)) if index not in registers and any(rtmrs[index])]
    return Answer.AFFIRMED, [f"the event log says nothing of RTMR{index}" for index in silent]


def ccel_in(text: bytes) -> list[bytes]:
    """CCEL logs that the JSON object `text` carries in hex or base64."""
    try:
        value = parse_foreign(text, limit=limits.CASE_FILE_BYTES)
    except InputError:
        return []
    found: list[bytes] = []
    if not isinstance(value, dict):
        return found
    for name in _CCEL_NAMES:
        item = value.get(name)
        if isinstance(item, str) and (data := foreign.plain(item.encode("utf-8", "replace"))):
            found.append(data)
    return found


def report_data_in(text: bytes) -> bytes | None:
    """The report data that the JSON object `text` says that the quote has; None if it says nothing."""
    try:
        whole = parse_foreign(text, limit=limits.CASE_FILE_BYTES)
    except InputError:
        return None
    value = whole.get("report_data") if isinstance(whole, dict) else None
    return value.encode("utf-8", "replace") if isinstance(value, str) and value else None


__all__ = ["RUNTIME_EVENT", "ccel_in", "compare", "replay_json", "report_data_in"]
