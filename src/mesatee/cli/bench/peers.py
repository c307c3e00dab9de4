"""What peers need to run: certificates of a CA of their own, and server processes beside ours."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import Unavailable

DAYS: Final = 2
"""Life of the peers' certificates."""
STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of a self-made CA (PEM and DER) and of what it signed: certificate and key in PEM, by name."""

    ca: Path
    ca_der: Path
    folder: Path

    def certificate(self, name: str) -> str:
        """The certificate of `name`."""
        return str(self.folder / f"{name}.pem")

    def key(self, name: str) -> str:
        """Its key."""
        return str(self.folder / f"{name}.key")


def certificates(folder: Path) -> Files:
    """A CA with a certificate for ``server`` (127.0.0.1) and one for ``client``, all with P-256 keys as is
    usual.

    Raises `Unavailable` without the package `cryptography`, which only the peers need.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise Unavailable(
            "the package cryptography is not installed, which makes the peer's certificates"
        ) from None
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    authority = ec.generate_private_key(ec.SECP256R1())

    def issue(subject: str, public: ec.EllipticCurvePublicKey, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("bench CA"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(loopback, critical=False)
        return builder.sign(authority, hashes.SHA256())

    root = issue("bench CA", authority.public_key(), True)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.der").write_bytes(root.public_bytes(serialization.Encoding.DER))
    for subject in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = issue(subject, key.public_key(), False)
        (folder / f"{subject}.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = folder / f"{subject}.key"
        path.touch(mode=0o600)
        path.write_bytes(pem)
    return Files(folder / "ca.pem", folder / "ca.der", folder)


@contextlib.contextmanager
def server(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A server process of `mesatee.cli.bench.servers`; yields what it says of itself, e.g. its port.

    Raises `Unavailable` if it does not start.
    """
    command = [sys.executable, "-I", "-B", "-m", "mesatee.cli.bench.servers", kind, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None  # noqa: S101  # it is a pipe
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        try:
            line = process.stdout.readline()
            if not line:
                raise Unavailable(f"the {kind} server of the bench did not start")
            facts = json.loads(line)
            yield facts
        finally:
            # The end of its standard input ends it.
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


__all__ = ["Files", "certificates", "server"]
