"""Event logs in JSON that are made here, and replayed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation.appraisal import Answer
from mesatee.attestation.tee.dcap_events import RUNTIME_EVENT, ccel_in, replay_json, report_data_in
from mesatee.protocol import limits

ZERO = (bytes(48),) * 4


def event(name: str, payload: bytes = b"", imr: int = 3) -> dict[str, Any]:
    digest = hashlib.sha384(
        RUNTIME_EVENT.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    ).hexdigest()
    return {
        "imr": imr,
        "event_type": RUNTIME_EVENT,
        "digest": digest,
        "event": name,
        "event_payload": payload.hex(),
    }


def registers(log: list[dict[str, Any]]) -> list[bytes]:
    found = list(ZERO)
    for item in log:
        found[item["imr"]] = hashlib.sha384(found[item["imr"]] + bytes.fromhex(item["digest"])).digest()
    return found


LOG = [event("app-id", b"1"), event("ready"), {"imr": 0, "event_type": 4, "digest": "ab" * 48}]


@pytest.mark.parametrize(
    "wrap", [lambda log: log, lambda log: {"event_log": json.dumps(log)}, lambda log: {"eventlog": log}]
)
def test_a_log_that_leads_to_the_registers_is_affirmed(wrap: Any) -> None:
    assert replay_json(json.dumps(wrap(LOG)).encode(), registers(LOG)) == (Answer.AFFIRMED, [])


def test_a_runtime_digest_may_be_left_out() -> None:
    log = [LOG[0] | {"digest": ""}, *LOG[1:]]
    assert replay_json(json.dumps(log).encode(), registers(LOG)) == (Answer.AFFIRMED, [])


def test_a_register_that_the_log_does_not_explain_is_named() -> None:
    values = registers(LOG)
    values[1] = b"\x01" * 48
    assert replay_json(json.dumps(LOG).encode(), values) == (
        Answer.AFFIRMED,
        ["the event log says nothing of RTMR1"],
    )


@pytest.mark.parametrize(
    "log",
    [
        LOG[1:],
        [*LOG, event("more")],
        [LOG[1], LOG[0], LOG[2]],
        [LOG[0] | {"event": "other"}, *LOG[1:]],
        [LOG[0] | {"event": None}, *LOG[1:]],
        [LOG[0] | {"digest": "ab"}, *LOG[1:]],
        [LOG[0] | {"digest": "x" * 96}, *LOG[1:]],
        [LOG[0] | {"imr": 4}, *LOG[1:]],
        [LOG[0] | {"imr": True}, *LOG[1:]],
    ],
)
def test_any_other_log_is_refused(log: list[dict[str, Any]]) -> None:
    answer, reasons = replay_json(json.dumps(log).encode(), registers(LOG))
    assert answer is Answer.REFUSED
    assert reasons


def test_the_number_of_events_is_bounded() -> None:
    log = [{"imr": 0, "digest": "00" * 48}] * limits.RUNTIME_EVENTS
    assert replay_json(json.dumps(log).encode(), registers(log))[0] is Answer.AFFIRMED
    log.append(log[0])
    assert replay_json(json.dumps(log).encode(), registers(log))[0] is Answer.REFUSED


@given(st.binary(max_size=200))
def test_what_is_no_log_establishes_nothing(data: bytes) -> None:
    for text in (data, b"[]", b"{}", b'{"event_log": "x"}', b"[1]"):
        assert replay_json(text, ZERO)[0] is Answer.NOT_ESTABLISHED
    ccel_in(data)
    report_data_in(data)


def test_logs_and_report_data_in_a_text_are_found() -> None:
    text = json.dumps({"cc_eventlog": base64.b64encode(b"log").decode(), "report_data": "00ff"}).encode()
    assert ccel_in(text) == [b"log"]
    assert report_data_in(text) == b"00ff"
