"""The channel itself: who gets through, who does not, and what happens to bytes."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mesatee import errors
from mesatee.channel import Listener, connect, make_certificate
from mesatee.protocol import limits

from .conftest import DEADLINE, HOST, accept_anyone, echo, make_identity, pin, read_all, stream, wait_for


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_both_ends_see_and_appraise_each_other(listen, dial, server_identity, client_identity):
    seen = []

    def at_server(peer):
        seen.append(peer)
        return {"who": "client"}

    listener = listen(at_server)
    near = dial(listener, pin(server_identity))
    far = listener.accept(DEADLINE)
    assert [peer.der for peer in seen] == [client_identity.certificate]
    assert near.peer.der == server_identity.certificate
    assert near.peer.evidence == b"evidence of the gateway"
    assert far.peer.der == client_identity.certificate
    assert far.peer.evidence is None
    assert near.appraisal == server_identity.key.public
    assert far.appraisal == {"who": "client"}
    assert near.exporter == far.exporter
    assert len(near.exporter) == 32
    assert near.address == f"{HOST}:{listener.port}"
    assert far.address.startswith(f"{HOST}:")
    with stream(near) as a, stream(far) as b:
        a.sendall(b"ping")
        assert b.recv(9) == b"ping"
        b.sendall(b"pong")
        assert a.recv(9) == b"pong"


def test_each_connection_has_its_own_binding(listen, dial):
    listener = listen()
    assert dial(listener).exporter != dial(listener).exporter


def test_a_server_that_refuses(listen, dial, refused):
    def refuse(peer):
        raise errors.LevelTooLow("secret reason of the server")

    listener = listen(refuse)
    with pytest.raises(errors.EvidenceRefused, match="the peer refused us") as caught:
        dial(listener)
    assert "secret reason" not in str(caught.value)
    assert listener.accept(0.2) is None
    wait_for(lambda: refused)
    assert refused.reasons == ["LevelTooLow: secret reason of the server"]


def test_a_client_that_refuses_raises_its_own_exception(listen, dial, refused):
    class Mine(BaseException):
        pass

    mine = Mine("no")

    def refuse(peer):
        raise mine

    listener = listen()
    with pytest.raises(Mine) as caught:
        dial(listener, refuse)
    assert caught.value is mine
    assert listener.accept(0.2) is None
    wait_for(lambda: refused)


@pytest.mark.parametrize(("start", "end"), [(-7200, -400), (400, 7200)])
def test_certificates_outside_of_their_time_are_refused_at_both_ends(
    listen, dial, client_identity, refused, start, end
):
    stale = make_identity("stale", start=start, end=end)
    listener = listen()
    with pytest.raises(errors.EvidenceRefused, match="refused us"):
        connect(HOST, listener.port, *stale.pair, accept_anyone)
    wait_for(lambda: refused)
    assert refused.reasons == ["the certificate is not valid at this time"]
    other = Listener(HOST, 0, *stale.pair, accept_anyone)
    with pytest.raises(errors.EvidenceRefused, match="not valid at this time"):
        dial(other)
    other.close()


def test_the_largest_evidence_passes_the_channel(listen):
    listener = listen()
    evidence = os.urandom(limits.EVIDENCE_BYTES)
    big = make_identity("big", evidence)
    connection = connect(HOST, listener.port, *big.pair, accept_anyone)
    assert listener.accept(DEADLINE).peer.evidence == evidence
    connection.close()


def test_own_certificate_is_checked_first(listen, server_identity, client_identity):
    listener = listen()
    with pytest.raises(errors.KeyRefused):
        connect(HOST, listener.port, server_identity.certificate, client_identity.key, accept_anyone)
    with pytest.raises(errors.Malformed):
        connect(HOST, listener.port, b"not a certificate", client_identity.key, accept_anyone)
    with pytest.raises(errors.KeyRefused):
        Listener(HOST, 0, server_identity.certificate, client_identity.key, accept_anyone)
    with pytest.raises(TypeError):
        connect(HOST, listener.port, *client_identity.pair, None)


def test_nobody_there(client_identity):
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.HostFailed):
        connect(HOST, port, *client_identity.pair, accept_anyone)


def test_a_silent_server_times_out(client_identity):
    with socket.create_server((HOST, 0)) as server:
        start = time.monotonic()
        with pytest.raises(errors.TimedOut):
            connect(HOST, server.getsockname()[1], *client_identity.pair, accept_anyone, 0.3)
        assert time.monotonic() - start < 5


def test_a_server_of_another_kind(client_identity):
    with socket.create_server((HOST, 0)) as server:

        def answer():
            with server.accept()[0] as end:
                end.recv(100)
                end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                with suppress(OSError):
                    read_all(end)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(errors.EvidenceRefused, match="handshake"):
            connect(HOST, server.getsockname()[1], *client_identity.pair, accept_anyone)
        thread.join(DEADLINE)


def test_an_appraiser_that_is_late_refuses(listen, dial, refused):
    def slow(peer):
        time.sleep(0.5)

    with pytest.raises(errors.TimedOut):
        dial(listen(), slow, timeout=0.2)
    listener = listen(slow, handshake_seconds=0.2)
    with pytest.raises(errors.EvidenceRefused):
        dial(listener)
    wait_for(lambda: "not verified in time" in refused.reasons)
    assert listener.accept(0.1) is None


def stock(alpn=("mesatee/1",), version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize(
    "context",
    [stock(), stock(alpn=("h2",)), stock(alpn=()), stock(version=ssl.TLSVersion.TLSv1_2)],
    ids=["no certificate", "another protocol", "no protocol", "TLS 1.2"],
)
def test_stock_clients_are_refused(listen, refused, context):
    # The finer cases, with the right key exchange but one thing wrong, are in rust/channel/tests/hostile.rs:
    # OpenSSL below 3.5 does not know X25519MLKEM768.
    listener = listen()
    with socket.create_connection((HOST, listener.port), DEADLINE) as end, pytest.raises(OSError):  # noqa: PT012
        tls = context.wrap_socket(end)
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if not tls.recv(1):
            raise ConnectionResetError
    wait_for(lambda: refused)
    assert listener.accept(0.1) is None


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00" * 100, os.urandom(70_000)])
def test_junk_is_refused(listen, refused, junk):
    listener = listen()
    with socket.create_connection((HOST, listener.port), DEADLINE) as end, suppress(OSError):
        end.sendall(junk)
        read_all(end)
    wait_for(lambda: refused)
    assert listener.accept(0.1) is None


def test_slow_clients_time_out_and_hold_up_nobody(listen, dial, refused):
    listener = listen(handshake_seconds=2.0)
    silent = [socket.create_connection((HOST, listener.port)) for _ in range(20)]
    dripping = socket.create_connection((HOST, listener.port))
    stop = threading.Event()

    def drip():
        # A ClientHello's first bytes, then one byte at a time.
        with suppress(OSError):
            dripping.sendall(b"\x16\x03\x01\x02\x00")
            while not stop.wait(0.1):
                dripping.sendall(b"\x01")

    thread = threading.Thread(target=drip)
    thread.start()
    with echo(listener):
        with stream(dial(listener)) as end:
            end.sendall(b"quick")
            assert end.recv(9) == b"quick"
        assert refused == []
        wait_for(lambda: len(refused) == 21)
    stop.set()
    thread.join(DEADLINE)
    assert set(refused.reasons) == {"not verified in time"}
    for end in [*silent, dripping]:
        end.close()


def test_slow_appraisers_hold_up_nobody(listen, dial, client_identity):
    release = threading.Event()
    slow = make_identity("slow")

    def appraise(peer):
        if peer.public == slow.key.public:
            release.wait(DEADLINE)

    listener = listen(appraise)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(connect, HOST, listener.port, *slow.pair, accept_anyone) for _ in range(8)]
        time.sleep(0.2)
        with echo(listener), stream(dial(listener)) as end:
            end.sendall(b"quick")
            assert end.recv(9) == b"quick"
            assert not any(future.done() for future in waiting)
            release.set()
            for future in waiting:
                future.result(DEADLINE).close()


def test_a_man_in_the_middle_is_refused(listen, dial, server_identity):
    # He ends TLS with a certificate of his own on both sides; each end pins the other's key.
    eve = make_identity("eve")
    real = listen(pin(make_identity("alice whom the server knows")))
    middle = Listener(HOST, 0, *eve.pair, accept_anyone)
    with pytest.raises(errors.KeyRefused, match="pinned"):
        dial(middle, pin(server_identity))
    with pytest.raises(errors.EvidenceRefused, match="refused us"):
        connect(HOST, real.port, *eve.pair, accept_anyone)
    assert middle.accept(0.1) is None
    middle.close()


def test_a_relay_of_ciphertext_learns_nothing(listen, server_identity, client_identity):
    listener = listen()
    taps: list[bytes] = []
    with socket.create_server((HOST, 0)) as relay:

        def copy(a, b):
            with suppress(OSError):
                while part := a.recv(1 << 16):
                    taps.append(part)
                    b.sendall(part)

        def run():
            near = relay.accept()[0]
            far = socket.create_connection((HOST, listener.port))
            other = threading.Thread(target=copy, args=(far, near))
            other.start()
            copy(near, far)
            far.shutdown(socket.SHUT_WR)
            other.join(DEADLINE)
            near.close()
            far.close()

        thread = threading.Thread(target=run)
        thread.start()
        connection = connect(HOST, relay.getsockname()[1], *client_identity.pair, pin(server_identity))
        accepted = listener.accept(DEADLINE)
        with stream(connection) as a, stream(accepted) as b:
            a.sendall(b"plaintext that must not show")
            assert b.recv(99) == b"plaintext that must not show"
        thread.join(DEADLINE)
    wire = b"".join(taps)
    assert b"plaintext" not in wire
    assert client_identity.certificate[100:150] not in wire
    assert server_identity.certificate[100:150] not in wire


def test_connection_cap(listen, dial, refused):
    listener = listen(max_connections=2)
    first, second = dial(listener), dial(listener)
    with pytest.raises((errors.EvidenceRefused, errors.HostFailed)):
        dial(listener)
    wait_for(lambda: refused)
    assert refused.reasons == ["there are too many connections"]
    first.close()
    listener.accept(DEADLINE).close()

    def again():
        with suppress(errors.MesateeError):
            return dial(listener)

    wait_for(again)
    second.close()


def test_big_bodies_both_ways(listen, dial):
    body = os.urandom(20 << 20)
    listener = listen()
    with echo(listener), stream(dial(listener)) as end:

        def send():
            end.sendall(body)
            end.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        assert read_all(end) == body
        thread.join(DEADLINE)


def test_half_close(listen, dial):
    listener = listen()
    with stream(dial(listener)) as a, stream(listener.accept(DEADLINE)) as b:
        a.sendall(b"question")
        a.shutdown(socket.SHUT_WR)
        assert read_all(b) == b"question"
        time.sleep(0.2)
        b.sendall(b"answer")
        b.shutdown(socket.SHUT_WR)
        assert read_all(a) == b"answer"


def test_last_bytes_before_a_close_arrive(listen, dial):
    listener = listen()
    with stream(dial(listener)) as a:
        with stream(listener.accept(DEADLINE)) as b:
            a.sendall(b"never read")
            b.sendall(b"x" * 1_000_000)
        assert read_all(a) == b"x" * 1_000_000


def test_close_ends_it_for_both(listen, dial):
    listener = listen()
    near, far = dial(listener), listener.accept(DEADLINE)
    end = stream(near)
    far.close()
    assert end.recv(1) == b""
    end.close()
    # After `detach` too: the owner of the socket reads its end.
    near, far = dial(listener), listener.accept(DEADLINE)
    with stream(near) as a, stream(far) as b:
        near.close()
        assert a.recv(1) == b""
        assert b.recv(1) == b""


def test_detach_once(listen, dial):
    connection = dial(listen())
    os.close(connection.detach())
    with pytest.raises(errors.StateError):
        connection.detach()
    connection.close()
    closed = dial(listen())
    closed.close()
    with pytest.raises(errors.StateError):
        closed.detach()


def test_closing_a_listener(listen, dial):
    listener = listen()
    a, b = stream(dial(listener)), stream(listener.accept(DEADLINE))
    untaken = stream(dial(listener))
    a_third = []

    def wait():
        with pytest.raises(errors.Unavailable):
            a_third.append(listener.accept())

    assert listener.accept(DEADLINE) is not None
    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    listener.close()
    with pytest.raises(errors.HostFailed):
        dial(listener)
    with pytest.raises(errors.Unavailable):
        listener.accept(0)
    listener.close()
    waiting.join(DEADLINE)
    assert a_third == []
    assert untaken.recv(1) == b""
    a.sendall(b"still here")
    assert b.recv(99) == b"still here"
    for end in (a, b, untaken):
        end.close()
    # The port is free at once.
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((HOST, listener.port))


def test_an_address_in_use(server_identity, listen):
    with pytest.raises(errors.Unavailable, match="listen"):
        Listener(HOST, listen().port, *server_identity.pair, accept_anyone)


@pytest.mark.parametrize("wait", [-1.0, float("nan")])
def test_impossible_times(listen, dial, wait):
    listener = listen()
    with pytest.raises(errors.Malformed):
        listener.accept(wait)
    with pytest.raises(errors.Malformed):
        dial(listener, timeout=wait)


def test_many_connections_leak_nothing(listen, dial):
    listener = listen()

    def once(number):
        with stream(dial(listener)) as end:
            text = str(number).encode()
            end.sendall(text)
            assert end.recv(99) == text

    with echo(listener) as seen:
        once(0)
        seen.clear()
        gc.collect()
        before = descriptors()
        for number in range(200):
            once(number)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(once, range(32)))
        assert len(seen) == 232
        seen.clear()
        gc.collect()
        wait_for(lambda: descriptors() <= before)


def test_small_answers_are_not_delayed(listen, dial):
    # Nagle's algorithm together with delayed acknowledgements would cost 40 ms a round.
    listener = listen()
    with echo(listener), stream(dial(listener)) as end:
        rounds = []
        for _ in range(20):
            start = time.perf_counter()
            end.sendall(b"a")
            end.sendall(b"b")
            got = b""
            while len(got) < 2:
                got += end.recv(2)
            rounds.append(time.perf_counter() - start)
    assert statistics.median(rounds) < 0.03


def test_handles_do_not_show_or_copy(listen, dial):
    import copy
    import pickle

    listener = listen()
    connection = dial(listener)
    for handle in (listener, connection, connection.peer):
        with pytest.raises(TypeError):
            pickle.dumps(handle)
        with pytest.raises(TypeError):
            copy.copy(handle)
    assert "0x" in repr(connection)


SCRIPT = """
import threading, time
from contextlib import suppress
from mesatee.channel import *
from mesatee.errors import EvidenceRefused, Unavailable
def identity():
    key = SigningKey.generate()
    return make_certificate(key, "a", int(time.time()), int(time.time()) + 99, None), key
def slow(peer):
    time.sleep(0.3)
listener = Listener("127.0.0.1", 0, *identity(), slow, print)
def accept():
    with suppress(Unavailable):
        listener.accept()
threading.Thread(target=accept, daemon=True).start()
def dial():
    # The listener at the other end is in this process too: when it ends, it may refuse.
    with suppress(Unavailable, EvidenceRefused):
        connect("127.0.0.1", listener.port, *identity(), lambda peer: None)
for _ in range(4):
    threading.Thread(target=dial, daemon=True).start()
time.sleep(0.1)
"""


def test_the_interpreter_ends_cleanly_with_threads_under_way():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def test_after_a_fork_the_channel_says_so(listen, dial, client_identity):
    listener = listen()
    dial(listener).close()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            dial(listener, timeout=2)
        except errors.Unavailable as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_make_certificate_is_what_the_peer_gets(listen, client_identity):
    key = client_identity.key
    now = int(time.time())
    der = make_certificate(key, "alice", now, now + 60, b"other evidence")
    listener = listen()
    connect(HOST, listener.port, der, key, accept_anyone)
    assert listener.accept(DEADLINE).peer.evidence == b"other evidence"
