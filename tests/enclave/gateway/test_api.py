"""Every route of the API over the real channel: who may call it, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.gateway import seal
from tests.support.live import BY_NAME, Client, Live, LiveMember, call, code, filled, request_body

from mesatee._core import HpkeKey
from mesatee.enclave.gateway import api, openapi
from mesatee.errors import (
    Denied,
    DigestMismatch,
    EvidenceRefused,
    Malformed,
    NotFound,
    TooLarge,
)
from mesatee.protocol import limits, statements
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import parse_object
from mesatee.protocol.statements import DatasetStatement, PresenceStatement

A = "0a" * 32
OPEN = {"service", "checkpoint", "consistency", "tile", "describe_api", "post_statement", "invoke"}
"""For anybody who has a verified channel: what they show is public, or they decide by what is signed."""
PARTIES = {"entry", "parties", "datasets", "functions", "tasks", "task"}
WORKERS = {"post_attempt", "renew", "finish"}
BOTH = {"put_blob", "get_blob"}
GATEWAYS = {"hand_over"}


# -- who may call what ---------------------------------------------------------------------------------------


def test_every_route_is_in_one_group() -> None:
    groups = [OPEN, PARTIES, WORKERS, BOTH, GATEWAYS]
    assert set().union(*groups) == set(BY_NAME)
    assert sum(map(len, groups)) == len(BY_NAME) == len(api.ROUTES)


@pytest.mark.parametrize("name", sorted(PARTIES | BOTH))
def test_strangers_read_nothing_of_parties(stranger: Client, name: str) -> None:
    response = call(stranger, name, content=b"x" if name == "put_blob" else None)
    assert (response.status_code, code(response)) == (404, "not_found")
    assert "register first" in response.text


@pytest.mark.parametrize("name", sorted(OPEN - {"post_statement", "invoke"}))
def test_what_is_public_is_for_anybody_with_a_channel(stranger: Client, name: str) -> None:
    assert call(stranger, name).status_code == 200


@pytest.mark.parametrize("name", sorted(WORKERS | GATEWAYS))
def test_parties_do_nothing_of_workers_and_gateways(
    members: tuple[LiveMember, ...], stranger: Client, name: str
) -> None:
    for client in (members[0].client, stranger):
        response = call(client, name, content=b"{}")
        assert (response.status_code, code(response)) == (403, "key_refused")


@pytest.mark.parametrize("name", sorted(PARTIES))
def test_workers_do_nothing_of_parties(as_worker: Client, name: str) -> None:
    response = call(as_worker, name)
    assert (response.status_code, code(response)) == (403, "key_refused")


def test_workers_post_no_statements(live: Live, members: tuple[LiveMember, ...], as_worker: Client) -> None:
    statement = members[0].write(live.desk, PresenceStatement)
    response = call(as_worker, "post_statement", content=statement.envelope.to_bytes())
    assert (response.status_code, code(response)) == (403, "key_refused")


def test_a_worker_of_another_measurement_or_installation_gets_no_channel(live: Live) -> None:
    other = live.worker_attester, live.attester
    try:
        # The gateway's own measurement is none of a worker's.
        live.worker_attester = live.attester
        with pytest.raises(EvidenceRefused):
            live.worker().service()
    finally:
        live.worker_attester, live.attester = other


# -- what is refused before it is looked at ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/service"),
        ("GET", "/v1/parties/"),
        ("GET", "/v1//parties"),
        ("GET", "/v1/tasks/" + A + "/more"),
        ("GET", "/v1/%2e%2e/service"),
        ("GET", "/docs"),
        ("POST", "/v1/attempts/1/other"),
        ("DELETE", "/v1/nothing"),
    ],
)
def test_unknown_paths_are_not_found(members: tuple[LiveMember, ...], method: str, path: str) -> None:
    response = members[0].client.send(method, path)
    assert (response.status_code, code(response)) == (404, "not_found")
    assert "location" not in response.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(members: tuple[LiveMember, ...], method: str) -> None:
    known = {(verb, path) for verb, path, _ in api.ROUTES}
    for _, path, _ in api.ROUTES:
        if (method, path) not in known:
            response = members[0].client.send(method, filled(path))
            assert response.status_code == 405
            assert set(parse_object(response.content)) == {"error"}


@pytest.mark.parametrize(
    "digest", ["x", A[:-1], A + "0", A.upper(), "..", "%2e%2e", A[:-1] + "g", "0" * 1_000]
)
@pytest.mark.parametrize("name", ["task", "put_blob", "get_blob"])
def test_malformed_digests(members: tuple[LiveMember, ...], name: str, digest: str) -> None:
    method, path = BY_NAME[name]
    response = members[0].client.send(
        method, filled(path, digest=digest), content=b"x" if method == "PUT" else None
    )
    assert response.status_code in (400, 404)
    assert code(response) in ("malformed", "not_found")


@pytest.mark.parametrize("number", ["x", "-1", "1.0", "1e3", "0x1", " 1", "٣", "9" * 19, "", "%00", "1_0"])
def test_malformed_numbers(members: tuple[LiveMember, ...], as_worker: Client, number: str) -> None:
    client = members[0].client
    for response in (
        client.send("GET", f"/v1/log/entry/{number}"),
        client.send("GET", f"/v1/log/consistency?first={number}&second=1"),
        client.send("GET", f"/v1/log/consistency?first=0&second={number}"),
        client.send("GET", f"/v1/blobs/{A}?start={number}"),
        as_worker.send("POST", f"/v1/attempts/{number}/renew", content=b"{}"),
    ):
        assert response.status_code in (400, 404), response.text
        assert code(response) in ("malformed", "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "0/0",
        "0/00",
        "0/0000",
        "0/x000",
        "0/x000/000",
        "0/000/001",
        "0/x001/x002",
        "0/001.p/",
        "0/000.p/0",
        "0/000.p/01",
        "0/000.p/256",
        "0/000.p/1000",
        "0/000.p/-1",
        "0/000.p/1/2",
        "0/000",
        "8/000.p/1",
        "9/000.p/1",
        "00/000.p/1",
        "-1/000.p/1",
        "x/000.p/1",
        "entries/000",
        "entries/x/000.p/1",
        "data/000.p/1",
        "0/x999/x999/x999/x999/999",
        "1/000.p/1",
    ],
)
def test_malformed_tiles(stranger: Client, path: str) -> None:
    response = stranger.send("GET", f"/v1/log/tile/{path}")
    assert (response.status_code, code(response)) == (400, "malformed")


BODIES = [
    ("post_statement", limits.STATEMENT_BYTES),
    ("post_attempt", limits.REQUEST_BYTES),
    ("finish", limits.REQUEST_BYTES),
]


@pytest.mark.parametrize(("name", "limit"), BODIES)
def test_a_body_of_the_largest_size_and_one_byte_more(
    members: tuple[LiveMember, ...], as_worker: Client, name: str, limit: int
) -> None:
    client = members[0].client if name == "post_statement" else as_worker
    at = b'{"a": "' + b"x" * (limit - 9) + b'"}'
    assert len(at) == limit
    response = call(client, name, content=at)
    assert (response.status_code, code(response)) == (400, "malformed")
    response = call(client, name, content=at + b" ")
    assert (response.status_code, code(response)) == (413, "too_large")

    def unannounced() -> Iterator[bytes]:
        yield at
        yield b" "

    response = call(client, name, content=unannounced())
    assert (response.status_code, code(response)) == (413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b'{"a":1}',
        b'{"ticket":"","ticket":""}',
        b"\xff",
        b"[" * 100,
        b'{"a":1e999}',
    ],
)
@pytest.mark.parametrize("name", [name for name, _ in BODIES])
def test_malformed_bodies(members: tuple[LiveMember, ...], as_worker: Client, name: str, body: bytes) -> None:
    client = members[0].client if name == "post_statement" else as_worker
    response = call(client, name, content=body)
    assert response.status_code in (400, 413)
    assert code(response) in ("malformed", "too_large")


def test_duplicate_keys_are_refused(live: Live, members: tuple[LiveMember, ...], as_worker: Client) -> None:
    statement = members[0].write(live.desk, PresenceStatement).envelope.to_bytes()
    twice = b'{"payload":"e30=",' + statement[1:]
    assert code(call(members[0].client, "post_statement", content=twice)) == "malformed"
    size = live.gateway.log.size
    assert call(members[0].client, "post_statement", content=statement).status_code == 200
    assert live.gateway.log.size == size + 1
    key = b64encode(HpkeKey.generate().public)
    body = request_body(ticket="QQ==", attempt_key=key)
    assert code(call(as_worker, "post_attempt", content=body)) == "replayed"
    assert code(call(as_worker, "post_attempt", content=b'{"ticket":"QQ==",' + body[1:])) == "malformed"


def test_errors_name_code_message_and_hint_and_no_values(members: tuple[LiveMember, ...]) -> None:
    response = members[0].client.send("GET", "/v1/tasks/" + A)
    assert response.headers["content-type"] == "application/json"
    assert set(parse_object(response.content)["error"]) == {"code", "message", "hint"}
    assert "server" not in response.headers


# -- blobs ---------------------------------------------------------------------------------------------------


def stored(live: Live, digest: str) -> bool:
    try:
        live.doors.blobs.size(digest)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("size", [1, limits.BLOB_CHUNK_BYTES - 1, limits.BLOB_CHUNK_BYTES + 1, 3_500_000])
def test_a_blob_comes_back(live: Live, members: tuple[LiveMember, ...], size: int) -> None:
    data = secrets.token_bytes(size)
    digest, client = sha256(data), members[0].client
    for _ in range(2):
        assert client.send("PUT", f"/v1/blobs/{digest}", content=data).status_code == 201
    for start in (0, 1, size - 1, size):
        response = client.send("GET", f"/v1/blobs/{digest}", params={"start": start})
        assert response.content == data[start:]
        assert response.headers["content-length"] == str(size - start)
    response = client.send("GET", f"/v1/blobs/{digest}", params={"start": size + 1})
    assert code(response) == "malformed"


def test_a_blob_that_is_not_what_it_says_leaves_nothing(live: Live, members: tuple[LiveMember, ...]) -> None:
    data = secrets.token_bytes(2 * limits.BLOB_CHUNK_BYTES)
    client = members[0].client
    wrong = sha256(b"other" + data)
    with pytest.raises(DigestMismatch):
        client.call("PUT", f"/v1/blobs/{wrong}", content=data)
    assert not stored(live, wrong)
    digest = sha256(data)
    for altered in (data[:-1], data + b"x", bytes(len(data))):
        with pytest.raises(DigestMismatch):
            client.call("PUT", f"/v1/blobs/{digest}", content=altered)
        assert not stored(live, digest)


def test_a_blob_comes_with_its_length(live: Live, members: tuple[LiveMember, ...]) -> None:
    client, digest = members[0].client, sha256(b"xy")
    with pytest.raises(Malformed, match="Content-Length"):
        client.call("PUT", f"/v1/blobs/{digest}", content=iter([b"x", b"y"]))
    with pytest.raises(TooLarge):
        client.call("PUT", f"/v1/blobs/{digest}", content=b"")
    head = f"PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: x\r\nContent-Length: "
    with live.raw(members[0].signing) as end:
        end.sendall(f"{head}{limits.BLOB_BYTES + 1}\r\n\r\n".encode())
        assert end.recv(64).startswith(b"HTTP/1.1 413 ")
    with live.raw(members[0].signing) as end:
        end.sendall(f"{head}2\r\n\r\nx".encode())
    assert not stored(live, digest)


def test_workers_read_and_store_blobs(live: Live, as_worker: Client) -> None:
    data = secrets.token_bytes(10)
    assert as_worker.send("PUT", f"/v1/blobs/{sha256(data)}", content=data).status_code == 201
    assert as_worker.send("GET", f"/v1/blobs/{sha256(data)}").content == data


def test_a_dataset_names_a_blob_that_is_there(live: Live, members: tuple[LiveMember, ...]) -> None:
    left, sealed = members[0], seal(b"id\n1\n")
    with pytest.raises(NotFound):
        left.post(DatasetStatement, **left.dataset(live.desk, sealed))
    left.put(sealed)
    short = statements.BlobRef(sha256=sealed.digest, size=sealed.size - 1)
    with pytest.raises(Denied, match="bytes"):
        left.post(DatasetStatement, **left.dataset(live.desk, sealed, blob=short))
    left.post(DatasetStatement, **left.dataset(live.desk, sealed))


# -- OpenAPI -------------------------------------------------------------------------------------------------


def test_the_description_names_every_route(stranger: Client) -> None:
    document = stranger.call("GET", "/v1/openapi.json")
    assert document == json.loads(json.dumps(openapi.document(api.ROUTES)))
    assert document["openapi"].startswith("3.1")
    assert set(document["info"]) >= {"title", "version"}
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(method, path.replace(":path", "")) for method, path, _ in api.ROUTES}


def test_the_description_is_well_formed() -> None:
    document = openapi.document(api.ROUTES)
    schemas = document["components"]["schemas"]
    names: set[str] = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["operationId"] not in names
            names.add(operation["operationId"])
            assert operation["summary"]
            inside = {found["name"] for found in operation["parameters"] if found["in"] == "path"}
            assert inside == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
            assert all(found["required"] for found in operation["parameters"] if found["in"] == "path")
            assert "default" in operation["responses"]
            assert {"200", "201"} & set(operation["responses"])
            assert method in ("put", "post") or "requestBody" not in operation

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert name in schemas
