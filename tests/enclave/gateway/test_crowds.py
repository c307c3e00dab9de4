"""Many strangers, slow peers and large lists: nobody keeps others from being served."""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.support.gateway import function_fields, seal
from tests.support.live import Live, LiveMember, running

from mesatee._core import SigningKey
from mesatee.errors import MesateeError
from mesatee.protocol import limits, records, wire
from mesatee.protocol.model import validate
from mesatee.protocol.statements import FunctionStatement


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from running(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def alice(live: Live) -> LiveMember:
    return live.member("alice")


# -- strangers ----------------------------------------------------------------------------------------


def stalled(live: Live) -> socket.socket:
    """A stranger whose request has no end."""
    end = live.raw(SigningKey.generate())
    end.sendall(b"POST /v1/statements HTTP/1.1\r\nhost: g\r\ncontent-length: 1000\r\n\r\n{")
    return end


def test_strangers_that_stall_leave_places_for_others(
    live: Live, alice: LiveMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STRANGERS", 3)
    stranger = live.client(SigningKey.generate())
    assert stranger.send("GET", "/v1/service").status_code == 200
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(stalled(live))
        deadline = time.monotonic() + 10
        while (answer := stranger.send("GET", "/v1/service")).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.status_code == 503
        assert alice.client.call("GET", "/v1/datasets")["items"] == []
        assert live.worker().service().registered is False


def test_a_body_that_stalls_frees_its_place(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    with stalled(live) as end:
        answer = end.recv(65536)
    assert b" 503 " in answer.split(b"\r\n")[0]
    assert b"did not arrive within" in answer


def test_a_peer_that_hangs_up_within_its_body_is_no_failure(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    stalled(live).close()
    stranger = live.client(SigningKey.generate())
    assert stranger.send("GET", "/v1/service").status_code == 200
    time.sleep(0.2)
    assert "Traceback" not in caplog.text


def test_silent_connections_leave_room_for_others(live: Live) -> None:
    """Those of one address; more of them than may shake hands at once."""
    with ExitStack() as stack:
        for _ in range(1_100):
            silent = socket.socket()
            stack.callback(silent.close)
            silent.bind(("127.0.0.2", 0))
            silent.connect(("127.0.0.1", live.gateway.port))
        stranger = live.client(SigningKey.generate())
        assert stranger.send("GET", "/v1/service").status_code == 200


def test_refusals_of_strangers_are_counted_not_logged_each(live: Live, alice: LiveMember) -> None:
    monitor = live.gateway.monitor
    live.on_loop(lambda: setattr(monitor._strangers, "_logged_at", -1e9))
    size = live.gateway.log.size
    stranger = live.client(SigningKey.generate())
    for _ in range(7):
        assert stranger.send("POST", "/v1/statements", content=b"{}").status_code == 400
    assert live.gateway.log.size == size + 1
    # What a registered party is refused is logged each time.
    with pytest.raises(MesateeError):
        alice.client.call("POST", "/v1/statements", content=b"{}")
    assert live.gateway.log.size == size + 2
    live.on_loop(lambda: setattr(monitor._strangers, "_logged_at", -1e9))
    stranger.send("POST", "/v1/statements", content=b"{}")
    outcome = live.gateway.log.prove(size + 2).read().outcome()
    assert isinstance(outcome, records.DeniedOutcome)
    assert outcome.others == 6


# -- readers ------------------------------------------------------------------------------------------


def test_a_reader_that_does_not_read_is_cut_off(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place and the host's connection of its download are free again."""
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.3)
    sealed = seal(secrets.token_bytes(32 * limits.MIB))
    reader = live.member("reader")
    reader.put(sealed)
    end = live.raw(reader.signing)
    end.sendall(b"GET /v1/blobs/" + sealed.digest.encode() + b" HTTP/1.1\r\nhost: g\r\n\r\n")
    deadline = time.monotonic() + 10
    while live.on_loop(lambda: live.gateway.downloads._running.total()) == 0:
        assert time.monotonic() < deadline
    while live.on_loop(lambda: live.gateway.downloads._running.total()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    end.close()


# -- lists ------------------------------------------------------------------------------


def test_lists_stay_within_what_a_client_reads(
    live: Live, alice: LiveMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        alice.post(FunctionStatement, **function_fields(name=f"f{number}"))["digest"] for number in range(7)
    ]
    monkeypatch.setattr(limits, "PAGE_ITEMS", 3)

    def pages(path: str) -> list[list[str]]:
        found, after = [], 0
        while after is not None:
            reply = validate(wire.ListReply, alice.client.call("GET", f"{path}?after={after}"), "answer")
            found.append([item["digest"] for item in reply.items])
            after = reply.after
        return found

    assert pages("/v1/functions") == [made[:3], made[3:6], made[6:]]
    monkeypatch.setattr(limits, "PAGE_BYTES", 10)
    assert pages("/v1/functions") == [[digest] for digest in made]
