"""The attested channel: connections on which both ends were judged before the first byte.

A party connects as itself and judges whom it talks to; the server does the same. `appraise` runs inside the
TLS handshake, and what it returns travels with the connection:

>>> import socket, threading, time
>>> from mesatee.channel import Listener, SigningKey, connect, make_certificate
>>> def identity(name):
...     key = SigningKey.generate()
...     return make_certificate(key, name, int(time.time()), int(time.time()) + 60, None), key
>>> server, client = identity("gateway"), identity("alice")
>>> def only_alice(peer):
...     if peer.public != client[1].public:
...         raise PermissionError("not alice")
...     return "alice"
>>> listener = Listener("127.0.0.1", 0, *server, only_alice)
>>> connection = connect("127.0.0.1", listener.port, *client, lambda peer: peer.public == server[1].public)
>>> connection.appraisal
True
>>> accepted = listener.accept(5)
>>> accepted.appraisal
'alice'
>>> accepted.exporter == connection.exporter
True
>>> near, far = socket.socket(fileno=connection.detach()), socket.socket(fileno=accepted.detach())
>>> near.sendall(b"hello"); far.recv(5)
b'hello'
>>> near.close(); far.close(); listener.close()

HTTP clients use `AttestedTransport` and `AsyncAttestedTransport`; an ASGI app is served by
`mesatee.channel.uvicorn_protocol.AttestedServer`, which only servers need to import.
"""

from mesatee._core import (
    Connection,
    Listener,
    PeerCertificate,
    SigningKey,
    connect,
    make_certificate,
    parse_certificate,
    spki,
)
from mesatee.channel.client import (
    CONNECTION_AGE_SECONDS,
    KEEP_ALIVE_SECONDS,
    POOL_CONNECTIONS,
    Appraise,
    AsyncAttestedTransport,
    AttestedTransport,
    Endpoint,
)
from mesatee.channel.listen import ACCEPT_SLICE_SECONDS, Handler, adopt, serve

__all__ = [
    "ACCEPT_SLICE_SECONDS",
    "CONNECTION_AGE_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "POOL_CONNECTIONS",
    "Appraise",
    "AsyncAttestedTransport",
    "AttestedTransport",
    "Connection",
    "Endpoint",
    "Handler",
    "Listener",
    "PeerCertificate",
    "SigningKey",
    "adopt",
    "connect",
    "make_certificate",
    "parse_certificate",
    "serve",
    "spki",
]
