"""HTTP to a vendor: every way in which an answer can fail ends in one of our errors, in bounded time."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.vendors import Fake, Reply, certificate, key, pem

from mesatee.endorse import service as module
from mesatee.endorse.service import ATTEMPTS, JSON_TYPES, WAIT_SECONDS, Service, base_address, tls
from mesatee.errors import InputError, Malformed, MesateeError, NotFound, TimedOut, TooLarge, Unavailable
from mesatee.protocol import limits

LIMIT = limits.ENDORSEMENT_BYTES


class Plain(Fake):
    """Answers everything with an empty JSON object."""

    body = b"{}"

    def answer(self, path: str, words: dict[str, str], headers: dict[str, str]) -> Reply:
        return Reply(self.body)


@pytest.fixture
def fake() -> Iterator[Plain]:
    with (made := Plain()).running():
        yield made


def ask(service: Service, fake: Fake) -> bytes:
    return service.get("a thing", f"{fake.url}/x", types=JSON_TYPES).body


def test_an_answer_and_what_is_sent(service: Service, fake: Plain):
    found = service.get("a thing", f"{fake.url}/x", types=JSON_TYPES, parameters={"a": "b c", "d": "&"})
    assert found.body == b"{}"
    assert found.headers["content-type"] == "application/json"
    assert fake.asked == ["/x?a=b+c&d=%26"]
    # The service is asked again, also after a refusal.
    fake.fail("/x", Reply(status=404))
    with pytest.raises(NotFound, match="the service does not know a thing"):
        ask(service, fake)
    assert ask(service, fake) == b"{}"


def test_a_service_may_hang_up_after_each_answer(service: Service, fake: Plain):
    """It does so without a word, as HTTP allows: a connection that is kept could end while it is used again."""
    fake.fail("", Reply(b"{}"), times=100)
    for _ in range(100):
        assert ask(service, fake) == b"{}"
    assert len(fake.ports) == 100
    assert len(set(fake.ports)) == 100


@pytest.mark.parametrize(("status", "error"), [(400, Malformed), (401, Malformed), (403, Malformed), (204, Malformed),
    (404, NotFound), (410, Malformed), (500, Unavailable), (502, Unavailable), (504, Unavailable)])  # fmt: skip
def test_refusals_are_not_tried_again(service: Service, fake: Plain, status: int, error: type[MesateeError]):
    fake.fail("/x", Reply(status=status))
    with pytest.raises(error):
        ask(service, fake)
    assert len(fake.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirects_are_refused(service: Service, fake: Plain, status: int):
    fake.fail("/x", Reply(status=status, headers={"Location": f"{fake.url}/elsewhere"}))
    with pytest.raises(Malformed, match="which is not followed"):
        ask(service, fake)
    assert fake.asked == ["/x"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(service: Service, fake: Plain, waits: list[float], status: int):
    fake.fail("/x", Reply(status=status), times=ATTEMPTS - 1)
    assert ask(service, fake) == b"{}"
    assert waits == [2.0, 4.0, 8.0]


def test_a_busy_service_is_not_asked_for_ever(service: Service, fake: Plain, waits: list[float]):
    fake.fail("/x", Reply(status=429), times=ATTEMPTS + 1)
    with pytest.raises(Unavailable, match=f"refused {ATTEMPTS} times"):
        ask(service, fake)
    assert len(fake.asked) == ATTEMPTS
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize(("after", "wait"), [("7", 7.0), ("0", 0.0), ("soon", 2.0), ("-1", 2.0), ("1.5", 2.0),
    ("x" * 65, 2.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), (str(int(WAIT_SECONDS)), WAIT_SECONDS)])  # fmt: skip
def test_retry_after(service: Service, fake: Plain, waits: list[float], after: str, wait: float):
    fake.fail("/x", Reply(status=503, headers={"Retry-After": after}))
    assert ask(service, fake) == b"{}"
    assert waits == [wait]


def test_retry_after_as_a_date(service: Service, fake: Plain, waits: list[float]):
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
    fake.fail("/x", Reply(status=503, headers={"Retry-After": format_datetime(soon, usegmt=True)}))
    ask(service, fake)
    assert 7 <= waits[0] <= 10


@pytest.mark.parametrize("after", [str(int(WAIT_SECONDS) + 1), "9" * 60, "Wed, 21 Oct 2065 07:28:00 GMT"])
def test_a_service_that_is_busy_for_long_is_left_alone(
    service: Service, fake: Plain, waits: list[float], after: str
):
    fake.fail("/x", Reply(status=503, headers={"Retry-After": after}))
    with pytest.raises(Unavailable, match="come back"):
        ask(service, fake)
    assert waits == []


def test_the_size_is_bounded(service: Service, fake: Plain):
    fake.body = b" " * LIMIT
    assert len(ask(service, fake)) == LIMIT
    fake.body += b" "
    with pytest.raises(TooLarge, match="more than"):
        ask(service, fake)
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    fake.fail("/x", head, *[chunk] * 50)
    with pytest.raises(TooLarge):
        ask(service, fake)
    fake.fail(
        "/x", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n" % (b"9" * 18)
    )
    with pytest.raises(TooLarge):
        ask(service, fake)


def test_nothing_is_no_answer(service: Service, fake: Plain):
    fake.body = b""
    with pytest.raises(Malformed, match="sent nothing"):
        ask(service, fake)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "", "application/jsonp"])
def test_another_type_is_refused(service: Service, fake: Plain, kind: str):
    fake.fail("/x", Reply(b"<html>log in here</html>", kind))
    with pytest.raises(Malformed, match="not as application/json"):
        ask(service, fake)


def test_compression_is_refused(service: Service, fake: Plain):
    fake.fail("/x", Reply(b"bomb", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(Malformed, match="compressed"):
        ask(service, fake)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x00\x05garbage",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    ],
)
def test_broken_http(service: Service, fake: Plain, raw: bytes):
    fake.fail("/x", raw)
    with pytest.raises(Unavailable) as caught:
        ask(service, fake)
    assert "try again" in caught.value.hint or "check the address" in caught.value.hint


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60), st.builds(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail, st.binary(max_size=60))
    )
)
def test_any_bytes_end_in_our_errors(service: Service, fake: Plain, raw: bytes):
    fake.faults.clear()
    fake.fail("/x", raw)
    with contextlib.suppress(InputError, Unavailable, NotFound):
        ask(service, fake)


def test_slow_services(hasty: Service, fake: Plain):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    scripts: list[tuple[bytes | float, ...]] = [
        (30.0,),
        (head, 30.0),
        (head, *[b" ", 0.1] * 300),
        # Byte by byte already before the body: each step is quick enough, all together are not.
        (b"HTTP/1.1 200 OK\r\nX: ", *[b"x", 0.1] * 300),
    ]
    for script in scripts:
        fake.fail("/x", *script)
        before = time.monotonic()
        with pytest.raises(TimedOut, match="in time"):
            ask(hasty, fake)
        assert time.monotonic() - before < 5
    assert ask(hasty, fake) == b"{}"


def test_nobody_is_there(service: Service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="could not be reached"):
            service.get("a thing", url, types=JSON_TYPES)
    with pytest.raises(Unavailable, match="could not be reached"):
        service.get("a thing", "https://nobody.invalid/", types=JSON_TYPES)


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A TLS server with a certificate of its own making: its address, and that certificate as a file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from tests.support.vendors import NOW, moment, name

    folder = tmp_path_factory.mktemp("tls")
    made = (
        x509.CertificateBuilder()
        .subject_name(name("localhost"))
        .issuer_name(name("localhost"))
        .public_key(key("localhost").public_key())
        .serial_number(7)
        .not_valid_before(moment(NOW - 1_000))
        .not_valid_after(moment(NOW + 100_000))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key("localhost"), hashes.SHA256())
    )
    ca = folder / "ca.pem"
    ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key("localhost").private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, private)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(4_096)
                wrapped.sendall(Reply(b"{}").raw())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://localhost:{listening.getsockname()[1]}", ca
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def test_tls_verifies(secured: tuple[str, Path]):
    url, ca = secured
    with Service("the service", context=tls(ca)) as trusting:
        assert trusting.get("a thing", url, types=JSON_TYPES).body == b"{}"
    with (
        Service("the service") as strict,
        pytest.raises(Unavailable, match="TLS certificate does not verify"),
    ):
        strict.get("a thing", url, types=JSON_TYPES)
    with (
        Service("the service", context=tls(ca)) as other,
        pytest.raises(Unavailable, match="TLS certificate does not verify"),
    ):
        other.get("a thing", url.replace("localhost", "127.0.0.1"), types=JSON_TYPES)


def test_no_tls_where_it_should_be(service: Service, fake: Plain):
    with pytest.raises(Unavailable, match="TLS"):
        service.get("a thing", fake.url.replace("http:", "https:"), types=JSON_TYPES)


def test_ca_files(tmp_path: Path):
    with pytest.raises(Malformed, match="cannot read CA certificates"):
        tls(tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(Malformed, match="cannot read CA certificates"):
        tls(tmp_path / "bad.pem")
    (tmp_path / "good.pem").write_bytes(pem(certificate("a", "a")))
    assert tls(tmp_path / "good.pem").verify_mode is ssl.CERT_REQUIRED


# -- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://pccs.example", "https://pccs.example"),
        ("https://pccs.example:8081/cache/", "https://pccs.example:8081/cache"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost/", "http://localhost"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://169.254.169.254", "http://169.254.169.254"),
        ("https://" + "a" * (module.URL_CHARS - 8), "https://" + "a" * (module.URL_CHARS - 8)),
    ],
)
def test_addresses(text: str, found: str):
    assert base_address(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pccs.example",
        "http://pccs.example",
        "http://192.168.0.1",
        "http://127.0.0.1.example",
        "ftp://localhost",
        "file:///etc/passwd",
        "https://",
        "https://user:word@pccs.example",
        "https://pccs.example/?a=b",
        "https://pccs.example/#a",
        "https://pccs.example:0",
        "https://pccs.example:99999",
        "https://pccs.example/a b",
        "https://pccs.example/\n",
        "https://pccs.exämple",
        "https://[::1",
        "https://" + "a" * (module.URL_CHARS - 7),
    ],
)
def test_addresses_that_are_refused(text: str):
    with pytest.raises(Malformed, match="address is https"):
        base_address(text)
