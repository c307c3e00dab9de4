"""Bad input on the wire: whatever a party may send is refused by a typed error, logged without its values, and changes
nothing.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.e2e.conftest import Lab, denials
from tests.support.live import Client

from mesatee._core import SigningKey, connect
from mesatee.attestation.verify import appraise
from mesatee.cli.demo import stage
from mesatee.errors import (
    DigestMismatch,
    Expired,
    KeyRefused,
    Malformed,
    MesateeError,
    NotFound,
    Replayed,
    SignatureInvalid,
    TooLarge,
    UnsupportedVersion,
)
from mesatee.party import Session, functions
from mesatee.party.config import endpoint
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, statements
from mesatee.protocol.author import Author
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical

CANARY = "canary-5e1b0d"


@pytest.fixture(scope="module")
def owner(people: stage.Stage) -> Session:
    return people.of("hospital-a")


@pytest.fixture(scope="module")
def raw(people: stage.Stage, owner: Session) -> Iterator[Client]:
    """Raw HTTP on the owner's own channel."""
    client = Client(endpoint(people.url).port, owner.identity.signing, people.trust)
    yield client
    client.close()


def author(session: Session, **changed: Any) -> Author:
    facts = {
        "signer": session.identity.signing,
        "origin": session.service.said.origin,
        "service": session.service.digest,
        "checkpoint": session.refresh().note,
        "time": session.now(),
        "nonce": lambda: secrets.token_hex(16),
    }
    return Author(**{**facts, **changed})


def presence(session: Session, **changed: Any) -> dsse.Envelope:
    return author(session, **changed).write(statements.PresenceStatement).envelope


def signed(session: Session, payload: bytes) -> bytes:
    """Any bytes as a payload under the session's own valid signature."""
    return dsse.sign(payload, [session.identity.signing]).to_bytes()


def edited(session: Session, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A presence statement that `change` has edited, validly signed."""
    said = json.loads(presence(session).payload)
    change(said)
    return signed(session, canonical(said))


def outer(session: Session, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A valid envelope that `change` has edited."""
    value = presence(session).as_dict()
    change(value)
    return json.dumps(value).encode()


def field(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["predicate"].update(values)


def refused(session: Session, raw: Client, body: bytes, expected: type[MesateeError]) -> MesateeError:
    """Post it; it must be refused, logged, and be all that was logged."""
    first = session.refresh().size
    with pytest.raises(MesateeError) as caught:
        raw.call("POST", "/v1/statements", content=body)
    error = caught.value
    assert type(error) is expected, error
    assert error.message
    assert error.hint
    assert session.refresh().size == first + 1
    (denial,) = denials(session, first)
    assert (denial.by, denial.action, denial.code) == (session.identity.id, "post_statement", error.code)
    return error


# -- JSON and envelopes -------------------------------------------------------------------------------

BODIES: dict[str, tuple[type[MesateeError], Callable[[Session], bytes]]] = {
    "empty": (Malformed, lambda s: b""),
    "not JSON": (Malformed, lambda s: b"hello"),
    "an array": (Malformed, lambda s: b"[]"),
    "null": (Malformed, lambda s: b"null"),
    "not UTF-8": (Malformed, lambda s: b'{"payload":"\xff"}'),
    "NaN": (Malformed, lambda s: b'{"payload":NaN}'),
    "bytes behind the end": (Malformed, lambda s: presence(s).to_bytes() + b"{}"),
    "a duplicate key": (Malformed, lambda s: presence(s).to_bytes()[:-1] + b',"payload":"e30="}'),
    "too deep": (TooLarge, lambda s: b'{"payload":' + b"[" * 25 + b"]" * 25 + b"}"),
    "an unknown field": (Malformed, lambda s: outer(s, lambda v: v.update(note=CANARY))),
    "a missing field": (Malformed, lambda s: outer(s, lambda v: v.pop("signatures"))),
    "a payload that is no string": (Malformed, lambda s: outer(s, lambda v: v.update(payload=7))),
    "no signature": (Malformed, lambda s: outer(s, lambda v: v.update(signatures=[]))),
    "too many signatures": (
        Malformed,
        lambda s: outer(s, lambda v: v.update(signatures=v["signatures"] * 5)),
    ),
    "the same signature twice": (
        Malformed,
        lambda s: outer(s, lambda v: v.update(signatures=v["signatures"] * 2)),
    ),
    "an unknown payload type": (
        UnsupportedVersion,
        lambda s: outer(s, lambda v: v.update(payloadType="application/json")),
    ),
    "base64 without padding": (
        Malformed,
        lambda s: outer(s, lambda v: v.update(payload=b64encode(b"x" * 4).rstrip("="))),
    ),
    "base64 for URLs": (Malformed, lambda s: outer(s, lambda v: v.update(payload="-_-_"))),
    "base64 with white space": (
        Malformed,
        lambda s: outer(s, lambda v: v.update(payload=base64.encodebytes(b"x" * 99).decode())),
    ),
    "base64 with loose bits": (Malformed, lambda s: outer(s, lambda v: v.update(payload="e31="))),
    "a signature that is too short": (
        Malformed,
        lambda s: outer(s, lambda v: v["signatures"][0].update(sig=b64encode(b"x" * 63))),
    ),
    "a key that is no key": (
        Malformed,
        lambda s: outer(s, lambda v: v["signatures"][0].update(keyid=f"{CANARY:f<64}".upper())),
    ),
    "a signature over something else": (
        SignatureInvalid,
        lambda s: outer(s, lambda v: v["signatures"][0].update(sig=b64encode(b"x" * 64))),
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_envelopes(owner: Session, raw: Client, name: str) -> None:
    expected, make = BODIES[name]
    refused(owner, raw, make(owner), expected)


# -- statements ---------------------------------------------------------------------------------------

STATEMENTS: dict[str, tuple[type[MesateeError], Callable[[Session], bytes]]] = {
    "a payload that is no JSON": (Malformed, lambda s: signed(s, b"hello")),
    "a duplicate key": (
        Malformed,
        lambda s: signed(s, presence(s).payload[:-1] + b',"subject":[]}'),
    ),
    "white space": (Malformed, lambda s: signed(s, presence(s).payload.replace(b'":', b'": ', 1))),
    "an unknown member": (Malformed, lambda s: edited(s, lambda v: v.update(note=CANARY))),
    "an unknown field": (Malformed, lambda s: edited(s, field(note=CANARY))),
    "a missing field": (Malformed, lambda s: edited(s, lambda v: v["predicate"].pop("nonce"))),
    "a time that is a string": (Malformed, lambda s: edited(s, field(time="1"))),
    "a time that is a float": (Malformed, lambda s: edited(s, field(time=1.5))),
    "a time that is true": (Malformed, lambda s: edited(s, field(time=True))),
    "a negative time": (Malformed, lambda s: edited(s, field(time=-1))),
    "a nonce in capitals": (Malformed, lambda s: edited(s, field(nonce="AB" * 16))),
    "a null": (Malformed, lambda s: edited(s, field(checkpoint=None))),
    "another subject": (
        Malformed,
        lambda s: edited(s, lambda v: v.update(subject=[{"name": "x", "digest": {"sha256": "00" * 32}}])),
    ),
    "an unknown statement type": (Malformed, lambda s: edited(s, lambda v: v.update(_type="other"))),
    "an unknown kind": (
        UnsupportedVersion,
        lambda s: edited(s, lambda v: v.update(predicateType="urn:mesatee:statement:other:v1")),
    ),
    "another version": (
        UnsupportedVersion,
        lambda s: edited(s, lambda v: v.update(predicateType="urn:mesatee:statement:presence:v2")),
    ),
    "somebody else's predicate type": (
        UnsupportedVersion,
        lambda s: edited(s, lambda v: v.update(predicateType="https://slsa.dev/provenance/v1")),
    ),
    "another log": (KeyRefused, lambda s: presence(s, origin="log.example/other").to_bytes()),
    "another service": (KeyRefused, lambda s: presence(s, service="00" * 32).to_bytes()),
    "signed by a foreign key": (KeyRefused, lambda s: presence(s, signer=SigningKey.generate()).to_bytes()),
    "two signers": (
        Malformed,
        lambda s: presence(s).with_signature(SigningKey.generate()).to_bytes(),
    ),
    "a checkpoint that is none": (Malformed, lambda s: edited(s, field(checkpoint=CANARY))),
    "a checkpoint of another size": (
        SignatureInvalid,
        lambda s: presence(s, checkpoint=altered_checkpoint(s)).to_bytes(),
    ),
    "from the future": (
        Expired,
        lambda s: presence(s, time=s.now() + limits.CLOCK_SKEW_SECONDS + 30).to_bytes(),
    ),
    "signed too long ago": (
        Expired,
        lambda s: presence(s, time=s.now() - limits.STATEMENT_AGE_SECONDS - 30).to_bytes(),
    ),
}


def altered_checkpoint(session: Session) -> str:
    lines = session.refresh().note.split("\n")
    lines[1] = str(int(lines[1]) + 1)
    return "\n".join(lines)


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements(owner: Session, raw: Client, name: str) -> None:
    expected, make = STATEMENTS[name]
    refused(owner, raw, make(owner), expected)
    # Nothing was counted: what is good still goes, once, and again it is known.
    if name == "an unknown field":
        good = presence(owner).to_bytes()
        assert not raw.call("POST", "/v1/statements", content=good)["already"]
        assert raw.call("POST", "/v1/statements", content=good)["already"]


def test_times_just_inside_are_accepted(owner: Session, raw: Client) -> None:
    for ago in (0, limits.STATEMENT_AGE_SECONDS - 60):
        envelope = presence(owner, time=owner.now() - ago)
        assert raw.call("POST", "/v1/statements", content=envelope.to_bytes())["digest"] == envelope.digest


def test_no_value_of_a_bad_request_comes_back_or_is_logged(
    owner: Session, raw: Client, people: stage.Stage
) -> None:
    for make in (
        lambda: outer(owner, lambda v: v.update({CANARY: 1})),
        lambda: outer(owner, lambda v: v.update(payload=CANARY)),
        lambda: edited(owner, field(nonce=CANARY)),
        lambda: edited(owner, field(time=CANARY)),
    ):
        answer = raw.send("POST", "/v1/statements", content=make())
        assert answer.status_code == 400
        assert CANARY not in answer.text
    for path in (people.home / "service" / "log").iterdir():
        assert CANARY.encode() not in path.read_bytes()


# -- kinds of statements ------------------------------------------------------------------------------


def dataset(session: Session, **changed: Any) -> dict[str, Any]:
    fields = {
        "name": f"d{secrets.token_hex(4)}",
        "blob": statements.BlobRef(sha256=secrets.token_hex(32), size=10),
        "format": "csv",
        "columns": (),
        "rows": 1,
        "policy": "permit (principal, action, resource);",
        "wrap": b64encode(bytes(1152)),
    }
    return {**fields, **changed}


def kind(
    session: Session, what: type[statements.Common], valid: dict[str, Any], change: dict[str, Any]
) -> bytes:
    """A statement of this kind with fields that our own models would refuse to write."""
    said = json.loads(author(session).write(what, **valid).envelope.payload)
    said["predicate"].update(change)
    for subject in said["subject"]:
        subject["digest"]["sha256"] = (
            said["predicate"].get("blob", {}).get("sha256", subject["digest"]["sha256"])
        )
    return signed(session, canonical(said))


NAMES = ("../../etc/passwd", "/etc/passwd", "a/b", ".hidden", "..", "a\nb", "a\0b", "", "x" * 65, "a b", "é")


@pytest.mark.parametrize("name", NAMES)
def test_path_tricks_in_names_on_the_wire(owner: Session, raw: Client, name: str) -> None:
    keys = owner.identity.keys().model_dump(mode="json")
    code = statements.CodeRef(sha256="00" * 32, size=1, wrap=None)
    function = {
        "name": "f",
        "executor": "python",
        "entry": "f",
        "private": False,
        "code": code,
        "inputs": (),
        "variadic": False,
        "callers": None,
        "quota": None,
        "arguments": (),
        "outputs": (statements.Port(name="result"),),
    }
    task = task_fields(owner, {})
    for what, valid, change in (
        (statements.PartyStatement, {"keys": owner.identity.keys()}, {"keys": {**keys, "name": name}}),
        (statements.DatasetStatement, dataset(owner), {"name": name}),
        (statements.FunctionStatement, function, {"name": name}),
        (statements.FunctionStatement, function, {"entry": name}),
        (
            statements.FunctionStatement,
            function,
            {"outputs": [{"name": name, "format": "csv", "optional": False}]},
        ),
        (statements.TaskStatement, task, {"name": name}),
        (statements.TaskStatement, task, {"outputs": {name: [keys]}}),
        (statements.TaskStatement, task, {"inputs": {name: "00" * 32}}),
    ):
        refused(owner, raw, kind(owner, what, valid, change), Malformed)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "xlsx"},
        {"rows": -1},
        {"rows": "1"},
        {"columns": [{"name": "", "type": "int64"}]},
        {"columns": [{"name": "c" * (limits.COLUMN_CHARS + 1), "type": "int64"}]},
        {"columns": [{"name": "a", "type": "int64"}] * (limits.COLUMNS + 1)},
        {"policy": ""},
        {"policy": "permit (principal, action, resource)"},
        {"policy": "permit (principal, action, resource) when { context.no_such_thing };"},
        {"policy": "//" + "x" * limits.POLICY_BYTES},
        {"wrap": "e30"},
        {"wrap": b64encode(bytes(1153))},
        {"blob": {"sha256": "00" * 31, "size": 1}},
        {"blob": {"sha256": "00" * 32, "size": 0}},
        {"blob": {"sha256": "00" * 32, "size": limits.BLOB_BYTES + 1}},
    ],
    ids=lambda change: f"{next(iter(change))}-{len(str(change))}",
)
def test_datasets(lab: Lab, owner: Session, raw: Client, change: dict[str, Any]) -> None:
    blob = statements.BlobRef(sha256=stored(lab, owner), size=10)
    body = kind(owner, statements.DatasetStatement, dataset(owner, blob=blob), change)
    before = len(owner.datasets())
    error = refused_as_bad(owner, raw, body)
    assert error.code in ("malformed", "too_large", "policy_denied")
    assert len(owner.datasets()) == before


def refused_as_bad(session: Session, raw: Client, body: bytes) -> MesateeError:
    first = session.refresh().size
    with pytest.raises(MesateeError) as caught:
        raw.call("POST", "/v1/statements", content=body)
    assert [item.code for item in denials(session, first)] == [caught.value.code]
    assert session.refresh().size == first + 1
    return caught.value


def stored(lab: Lab, session: Session) -> str:
    """Ten bytes in the blob store that are nobody's yet."""
    content = secrets.token_bytes(10)
    path = lab.folder / "blob"
    path.write_bytes(content)
    with path.open("rb") as source:
        session.upload(sha256(content), source, len(content))
    return sha256(content)


def test_a_dataset_without_its_blob(owner: Session, raw: Client) -> None:
    body = author(owner).write(statements.DatasetStatement, **dataset(owner)).envelope.to_bytes()
    refused(owner, raw, body, NotFound)


def test_a_wrap_that_is_not_for_the_gateway(lab: Lab, owner: Session, raw: Client) -> None:
    blob = statements.BlobRef(sha256=stored(lab, owner), size=10)
    said = author(owner).write(statements.DatasetStatement, **dataset(owner, blob=blob))
    refused(owner, raw, said.envelope.to_bytes(), KeyRefused)


def task_fields(session: Session, inputs: dict[str, str], **changed: Any) -> dict[str, Any]:
    fields = {
        "name": f"t{secrets.token_hex(4)}",
        "function": "00" * 32,
        "environment": "00" * 32,
        "inputs": inputs,
        "arguments": {},
        "outputs": {"result": (session.identity.keys(),)},
        "accept": statements.Accept(
            min_level=2, tees=("software",), workers=("00" * 32,), allow_simulated=False
        ),
        "limits": statements.RunLimits(),
        "runs": 1,
        "expires": session.now() + 3_600,
    }
    return {**fields, **changed}


@pytest.fixture(scope="module")
def constant(owner: Session, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A function without inputs."""
    path = tmp_path_factory.mktemp("constant") / "constant.py"
    path.write_text("def constant(*, big: list = []) -> list:\n    return [1]\n")
    return functions.put(owner, path).digest


TASKS: dict[str, tuple[type[MesateeError], Callable[[Session, str], dict[str, Any]]]] = {
    "no receiver at all": (Malformed, lambda s, f: {"outputs": {}}),
    "an output without receivers": (Malformed, lambda s, f: {"outputs": {"result": []}}),
    "an unknown output": (Malformed, lambda s, f: {"outputs": {"other": [s.identity.keys().model_dump()]}}),
    "a receiver twice": (
        Malformed,
        lambda s, f: {"outputs": {"result": [s.identity.keys().model_dump()] * 2}},
    ),
    "a receiver with another key": (
        KeyRefused,
        lambda s, f: {
            "outputs": {"result": [{**s.identity.keys().model_dump(), "hpke": b64encode(bytes(1216))}]}
        },
    ),
    "an unknown function": (NotFound, lambda s, f: {"function": "11" * 32}),
    "an unknown dataset": (Malformed, lambda s, f: {"inputs": {"people": "11" * 32}}),
    "an expiry in the past": (Expired, lambda s, f: {"expires": s.now() - 1}),
    "an expiry too far away": (
        Malformed,
        lambda s, f: {"expires": s.now() + limits.APPROVAL_SECONDS + 2 * limits.CLOCK_SKEW_SECONDS},
    ),
    "no run": (Malformed, lambda s, f: {"runs": 0}),
    "too many runs": (Malformed, lambda s, f: {"runs": limits.RUNS + 1}),
    "level 0": (Malformed, lambda s, f: {"accept": accept(min_level=0)}),
    "level 6": (Malformed, lambda s, f: {"accept": accept(min_level=6)}),
    "no worker": (Malformed, lambda s, f: {"accept": accept(workers=[])}),
    "no TEE class": (Malformed, lambda s, f: {"accept": accept(tees=[])}),
    "a measurement that is none": (Malformed, lambda s, f: {"accept": accept(workers=["any"])}),
    "no memory": (Malformed, lambda s, f: {"limits": bounds(memory_bytes=0)}),
    "a day too much": (Malformed, lambda s, f: {"limits": bounds(seconds=limits.RUN_SECONDS + 1)}),
    "arguments that are too large": (
        Malformed,
        lambda s, f: {"arguments": {"big": ["x" * limits.ARGUMENTS_BYTES]}},
    ),
    "an argument that nobody asked for": (Malformed, lambda s, f: {"arguments": {"other": 1}}),
    "an argument of another type": (Malformed, lambda s, f: {"arguments": {"big": "x"}}),
    "too many inputs": (
        Malformed,
        lambda s, f: {"inputs": {f"i{number}": "11" * 32 for number in range(limits.INPUTS + 1)}},
    ),
}


def accept(**changed: Any) -> dict[str, Any]:
    whole = {"min_level": 2, "tees": ["software"], "workers": ["00" * 32], "allow_simulated": False}
    return {**whole, **changed}


def bounds(**changed: Any) -> dict[str, Any]:
    return {**statements.RunLimits().model_dump(), **changed}


@pytest.mark.parametrize("name", TASKS)
def test_tasks(owner: Session, raw: Client, constant: str, name: str) -> None:
    expected, change = TASKS[name]
    valid = task_fields(owner, {}, function=constant)
    said = json.loads(author(owner).write(statements.TaskStatement, **valid).envelope.payload)
    said["predicate"].update(change(owner, constant))
    about = {"function": said["predicate"]["function"]}
    about |= {f"input {port}": digest for port, digest in said["predicate"]["inputs"].items()}
    said["subject"] = [{"name": port, "digest": {"sha256": about[port]}} for port in sorted(about)]
    before = len(owner.tasks())
    refused(owner, raw, signed(owner, canonical(said)), expected)
    assert len(owner.tasks()) == before


def test_approvals_that_have_expired_or_name_nothing(lab: Lab, owner: Session, raw: Client) -> None:
    people = lab.table("id\n1\n")
    source = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"
    view = lab.task(source, {"people": people}, approve=False)
    for fields, expected in (
        ({"task": view.digest, "expires": owner.now() - 1}, Expired),
        ({"task": view.digest, "expires": owner.now() + 2 * limits.APPROVAL_SECONDS}, Malformed),
        ({"task": "11" * 32, "expires": owner.now() + 60}, NotFound),
    ):
        said = author(owner).write(statements.ApprovalStatement, id=secrets.token_hex(16), **fields)
        refused(owner, raw, said.envelope.to_bytes(), expected)
    # An id is good for one approval.
    used = secrets.token_hex(16)
    fields = {"task": view.digest, "id": used, "expires": owner.now() + 60}
    owner.post(statements.ApprovalStatement, **fields)
    again = author(owner).write(statements.ApprovalStatement, **fields)
    refused(owner, raw, again.envelope.to_bytes(), Replayed)


def test_an_approval_that_expires_before_the_run_does_not_count(lab: Lab, owner: Session) -> None:
    people = lab.table("id\n1\n")
    source = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"
    view = lab.task(source, {"people": people}, approve=False)
    owner.post(
        statements.ApprovalStatement, task=view.digest, id=secrets.token_hex(16), expires=owner.now() + 2
    )
    deadline = time.monotonic() + 10
    while lab.scientist.task(view.digest).approvals[0].state != "expired":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(MesateeError, match="no valid approval") as caught:
        lab.run(view)
    assert caught.value.code == "not_approved"
    assert lab.scientist.task(view.digest).runs == ()


# -- sizes, each limit by one byte --------------------------------------------------------------------


def padded(session: Session, size: int) -> bytes:
    body = presence(session).to_bytes()
    return body + b" " * (size - len(body))


def test_a_statement_of_the_largest_size_and_one_byte_more(owner: Session, raw: Client) -> None:
    whole = padded(owner, limits.STATEMENT_BYTES)
    assert raw.send("POST", "/v1/statements", content=whole).status_code == 200
    refused(owner, raw, padded(owner, limits.STATEMENT_BYTES + 1), TooLarge)


def test_an_attempt_of_the_largest_size_is_still_for_workers_only(owner: Session, raw: Client) -> None:
    for size in (10, limits.REQUEST_BYTES, limits.REQUEST_BYTES + 1):
        answer = raw.send("POST", "/v1/attempts", content=b"x" * size)
        assert answer.json()["error"]["code"] == "key_refused"


@pytest.mark.parametrize("size", [0, limits.BLOB_BYTES + 1])
def test_blobs_of_no_or_too_many_bytes(people: stage.Stage, owner: Session, size: int) -> None:
    """What is too large is refused by its length alone: on a bare connection, for no client would say this."""
    where = endpoint(people.url)
    connection = connect(
        where.host,
        where.port,
        owner.identity.certificate(owner.now()),
        owner.identity.signing,
        lambda peer: appraise(peer.evidence, peer.spki, people.trust, owner.now(), "gateway"),
    )
    with socket.socket(fileno=connection.detach()) as bare:
        bare.settimeout(20)
        head = f"PUT /v1/blobs/{'00' * 32} HTTP/1.1\r\nhost: gateway\r\ncontent-length: {size}\r\n\r\n"
        bare.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}") and (part := bare.recv(4096)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"too_large"' in answer


def test_blobs_are_what_their_digest_says(owner: Session, raw: Client, people: stage.Stage) -> None:
    host = people.home / "service" / "host"
    content = secrets.token_bytes(3_000_000)
    with pytest.raises(DigestMismatch):
        raw.call("PUT", f"/v1/blobs/{'ab' * 32}", content=content)
    digest = sha256(content)
    for path in (f"/v1/blobs/{digest.upper()}", "/v1/blobs/..%2f..%2frecords.sqlite", f"/v1/blobs/{digest}x"):
        answer = raw.send("PUT", path, content=content)
        assert answer.status_code in (400, 404)
        assert raw.send("GET", path).status_code in (400, 404)
    # Nothing of it was kept.
    assert not list(host.rglob("ab" * 32))
    assert not list((host / "blobs" / "tmp").iterdir())
    with pytest.raises(NotFound):
        raw.call("GET", f"/v1/blobs/{digest}")


def test_a_head_that_is_too_large(raw: Client) -> None:
    answer = raw.send("GET", "/v1/service", headers={"x-large": "x" * 40_000})
    assert answer.status_code in (400, 413, 431)
    assert raw.send("GET", "/v1/service").status_code == 200


def test_code_of_the_largest_size_and_one_byte_more(lab: Lab) -> None:
    line = b"def f(a: bytes) -> bytes:\n    return a\n"
    path = lab.folder / "large.py"
    path.write_bytes(line + b"#" * (limits.CODE_BYTES - len(line)))
    assert functions.put(lab.scientist, path, f"large{secrets.token_hex(4)}").digest
    path.write_bytes(line + b"#" * (limits.CODE_BYTES + 1 - len(line)))
    with pytest.raises(TooLarge):
        functions.put(lab.scientist, path, "larger")
